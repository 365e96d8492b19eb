"""What the optimizers of flashoptim need around them: weights in bfloat16 with their lost bits in the optimizer.

Source: "FlashOptim: Optimizers for Memory-Efficient Training" (arXiv 2602.23349) and its library. Moments have 8 bits,
with a scale of 16 bits for every 32 of them. With ``master_weight_bits=24`` (the library's default) or 32 the weights
of the model are bfloat16 and the optimizer keeps the 8 or 16 bits that they lose.

The library's own ``cast_model`` finds shared tensors by their address, which tensors of a plan of memory lack.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from ..layers import list_layers
from ..utils.errors import UserError
from ..utils.names import type_name

_LIBRARY = 'flashoptim'
_MOMENTS = {'FlashAdam': 2, 'FlashAdamW': 2, 'FlashLion': 1, 'FlashSGD': 1, 'FlashSGDW': 1}
_PER_SCALE = 32  # weights that share a scale of 2 bytes
_FULL = ('embed', 'head')  # roles whose layers stay in float32
_RUNNING = (_BatchNorm, _InstanceNorm)  # with running statistics: float32, as in the library


def is_flash(kind: object) -> bool:
    """Whether an optimizer, or the import path of one in a config, is of this library."""
    path = kind if isinstance(kind, str) else (kind if isinstance(kind, type) else type(kind)).__module__
    return path.partition('.')[0] == _LIBRARY


def casts_weights(settings: Mapping) -> bool:
    """Whether an optimizer's config asks for weights in bfloat16.

    Args:
        settings: ``optim_wrapper.optimizer``.
    """
    return is_flash(settings.get('type') or '') and settings.get('master_weight_bits', 24) is not None


def check_flash(optim_wrapper: Mapping, settings: Mapping) -> None:
    """Refuse what an optimizer of this library cannot be combined with.

    Args:
        optim_wrapper: Config of the optimizer wrapper, without its ``optimizer``.
        settings: ``optim_wrapper.optimizer``.

    Raises:
        UserError: The machine has no NVIDIA GPU, or weights in bfloat16 meet mixed precision.
    """
    kind = settings.get('type') or ''
    if not is_flash(kind):
        return
    on_gpu = [key for key in ('quantize', 'fused') if settings.get(key, True)]
    on_gpu += ['master_weight_bits'] * casts_weights(settings)
    if on_gpu and not torch.cuda.is_available():
        raise UserError(
            f'optim_wrapper.optimizer.type={kind!r} runs on an NVIDIA GPU and this machine has none '
            f"({', '.join(on_gpu)}); use 'adamw-8bit' or 'freeze-embed-no-momentum'."
        )
    if casts_weights(settings) and type_name(optim_wrapper) == 'AmpOptimWrapper':
        raise UserError(
            f'optim_wrapper.optimizer.type={kind!r} keeps the weights in bfloat16, which mixed precision would cast '
            "again; leave out --amp (type='OptimWrapper')."
        )


def cast_weights(model: nn.Module) -> None:
    """Keep a classifier in bfloat16 between its embedding and its head, which stay in float32 with their inputs.

    A frozen embedding so keeps its pretrained bytes, images need no cast, and logits and the new head are exact. Batch
    norms keep float32. Repeated calls are fine.

    Args:
        model: A classifier with a layer list, not wrapped.
    """
    layers = [layer for layer in list_layers(model) if layer.role in _FULL]
    full = {id(param): layer.role for layer in layers for param in layer.params.values()}
    for name, module in model.named_modules():
        if name.split('.')[0] == 'data_preprocessor':
            continue
        roles = {full.get(id(param)) for param in module.parameters()}
        own = list(module.parameters(recurse=False))
        if own and roles <= set(_FULL):
            _keep_full(module, recast=roles == {'embed'})
        if isinstance(module, _RUNNING) or (roles and roles <= set(_FULL)):
            continue
        for tensor in (*own, *module.buffers(recurse=False)):
            if tensor.dtype == torch.float32 and id(tensor) not in full:
                tensor.data = tensor.data.to(torch.bfloat16)


def _keep_full(module: nn.Module, recast: bool) -> None:
    """Let a module of float32 take tensors of bfloat16 and, if others follow, return them."""
    if _widened not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_widened)
        if recast:
            module.register_forward_hook(_narrowed)


def _widened(module: nn.Module, args: tuple) -> tuple:
    return _cast(args, torch.bfloat16, torch.float32)


def _narrowed(module: nn.Module, args: tuple, output: Any) -> Any:
    return _cast(output, torch.float32, torch.bfloat16)


def _cast(value: Any, before: torch.dtype, after: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(after) if value.dtype == before else value
    if isinstance(value, tuple | list):
        return type(value)(_cast(item, before, after) for item in value)
    return value


def prepare_flash(optimizer: Optimizer) -> None:
    """Give every group its own rate as ``initial_lr``; the library writes the optimizer's for all."""
    for group in optimizer.param_groups:
        group['initial_lr'] = group['lr']


def held_optimizer_bytes(optimizer: Optimizer) -> int:
    """Bytes of state that an optimizer of this library will keep."""
    return sum(
        _state_bytes(type(optimizer).__name__, group['params'], group, group['quantize'], group['master_bytewidth'])
        for group in optimizer.param_groups
    )


def planned_bytes(settings: Mapping, params: Sequence[nn.Parameter]) -> tuple[int, int]:
    """Bytes of state, and of the temporaries of an update, of an optimizer that a config names.

    The library builds none without a GPU.

    Args:
        settings: ``optim_wrapper.optimizer``.
        params: What trains, in the types that it will have.
    """
    name, bits = type_name(settings), settings.get('master_weight_bits', 24)
    state = _state_bytes(name, params, settings, settings.get('quantize', True), (bits or 0) // 8)
    # One kernel updates a tensor in place; without momentum it is PyTorch's operators on a copy in float32.
    plain = 'SGD' in name and not settings.get('momentum')
    return state, max((10 * param.numel() for param in params if param.element_size() == 2), default=0) if plain else 0


def _state_bytes(name: str, params: Sequence[nn.Parameter], options: Mapping, quantize: bool, master_bytes: int) -> int:
    moments = _MOMENTS[name] if 'SGD' not in name or options.get('momentum') else 0
    total = 0
    for param in params:
        count, width = param.numel(), param.element_size()
        total += moments * (count + 2 * -(-count // _PER_SCALE) if quantize else count * width)
        total += max(master_bytes - width, 0) * count + 8 * ('Adam' in name)  # Adam counts its steps in int64
    return total
