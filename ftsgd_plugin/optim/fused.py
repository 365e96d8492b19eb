"""PyTorch's fused optimizers: when they are the default, and a first update that may be skipped."""

import inspect
from collections.abc import Iterable, Mapping

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmpretrain.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

# Where others call the optimizer (Apex, DeepSpeed, in the backward pass), they decide how.
_WRAPPERS = (OptimWrapper, AmpOptimWrapper)
_OPTIMIZERS = (SGD, Adam, AdamW)
_EXCLUDING = ('fused', 'foreach', 'differentiable')


def fused_by_default(optim_wrapper_cfg: Mapping) -> bool:
    """Whether an optimizer is fused on CUDA because its config leaves the choice open.

    A fused update is one kernel for many tensors, without the temporaries of ``foreach``, and it reads on the device
    whether to skip (:class:`~ftsgd_plugin.optim.finite.FiniteUpdates`): the host does not wait. It is the same formula
    with other rounding.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with its ``optimizer``.

    Returns:
        bool: True for SGD, Adam and AdamW of ``torch.optim`` in an ``OptimWrapper`` or ``AmpOptimWrapper``, if none of
        ``fused``, ``foreach`` and ``differentiable`` is set.
    """
    optimizer = optim_wrapper_cfg['optimizer']
    wrapper = _class(optim_wrapper_cfg.get('type', OptimWrapper), OPTIM_WRAPPERS)
    kind = _class(optimizer.get('type'), OPTIMIZERS)
    if wrapper not in _WRAPPERS or kind not in _OPTIMIZERS or 'fused' not in inspect.signature(kind).parameters:
        return False  # SGD has the option since torch 2.3
    return all(optimizer.get(key) is None for key in _EXCLUDING)


def can_be_fused(params: Iterable[nn.Parameter]) -> bool:
    """Whether all parameters are on CUDA and real numbers."""
    return all(param.is_cuda and param.is_floating_point() for param in params)


def reads_found_inf(optimizer: Optimizer) -> bool:
    """Whether the optimizer skips on the device, as torch's own loss scaler asks, and starts right afterwards."""
    fused = all(group.get('fused') for group in optimizer.param_groups)
    return fused and getattr(optimizer, '_step_supports_amp_scaling', False) and starts_right(optimizer)


def starts_right(optimizer: Optimizer) -> bool:
    """Whether a skipped first update leaves nothing wrong behind, given :func:`start_momentum`.

    PyTorch's fused SGD takes memory for the momentum before it reads whether to skip. After a skip the momentum is
    whatever was in that memory, and the next update uses it (seen with torch 2.11.0, on a CPU). Starting it with zeros
    is the same as starting it with the first gradient unless ``dampening`` is set.
    """
    return not any(
        group.get('fused') and group.get('momentum') and group.get('dampening') for group in optimizer.param_groups
    )


def start_momentum(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    """Start the momentum of a fused SGD with zeros: a pre-hook of its ``step``."""
    for group in optimizer.param_groups:
        if not (group.get('fused') and group.get('momentum')) or group.get('dampening'):
            continue
        for param in group['params']:
            if param.grad is not None and optimizer.state[param].get('momentum_buffer') is None:
                optimizer.state[param]['momentum_buffer'] = torch.zeros_like(param)


def _class(type_or_name, registry) -> type | None:
    return registry.get(type_or_name) if isinstance(type_or_name, str) else type_or_name
