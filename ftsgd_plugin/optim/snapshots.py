"""Weights, buffers and optimizer state at an evaluation, to return to. Needs PyTorch alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..utils.errors import UserError
from .flash import is_flash


def refuse_snapshots(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Refuse what weights cannot be taken from at an evaluation.

    Raises:
        UserError: The model is sharded, the optimizer evaluates other weights than it trains, or its state is not made
            of tensors.
    """
    if any(hasattr(param, 'placements') for param in model.parameters()):  # DTensor
        raise UserError('schedule: restore_best cannot be combined with sharded parameters; leave it out.')
    if any('train_mode' in group for optimizer in optimizers for group in optimizer.param_groups):
        raise UserError(
            'schedule: restore_best cannot be combined with a schedule-free optimizer, which evaluates averaged '
            'weights; leave it out.'
        )
    if any(map(is_flash, optimizers)):
        raise UserError('schedule: restore_best cannot copy the state of an optimizer of flashoptim; leave it out.')


def take_snapshot(model: nn.Module, optimizers: Iterable[Optimizer]) -> dict[str, Any]:
    """Copy to the host what a step may change now: what trains with its optimizer state, and all buffers.

    Args:
        model: The model, not wrapped.
        optimizers: Its optimizers.
    """
    states = {id(param): state for optimizer in optimizers for param, state in optimizer.state.items()}
    trained = {name: param for name, param in model.named_parameters() if param.requires_grad}
    return {
        'weights': {name: _copy(param) for name, param in trained.items()},
        'buffers': {name: _copy(buffer) for name, buffer in model.named_buffers()},
        'state': {
            name: {key: _copy(value) for key, value in states[id(param)].items()}
            for name, param in trained.items()
            if id(param) in states
        },
    }


@torch.no_grad()
def restore_snapshot(model: nn.Module, optimizers: Iterable[Optimizer], snapshot: Mapping[str, Any]) -> None:
    """Put back what :func:`take_snapshot` has copied; a layer that is closed now gets its weights and no state.

    Args:
        model: The model, not wrapped.
        optimizers: Its optimizers.
        snapshot: The copy.
    """
    params, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for own, saved in ((params, snapshot['weights']), (buffers, snapshot['buffers'])):
        for name, value in saved.items():
            own[name].copy_(value)
    for optimizer in optimizers:
        held = {id(param) for group in optimizer.param_groups for param in group['params']}
        for name in snapshot['weights']:
            param = params[name]
            if id(param) not in held or not param.requires_grad:
                continue
            saved = snapshot['state'].get(name)
            if saved is None:
                optimizer.state.pop(param, None)
                continue
            state = optimizer.state[param]
            for key, value in saved.items():
                now = state.get(key)
                if isinstance(value, torch.Tensor) and isinstance(now, torch.Tensor) and now.shape == value.shape:
                    now.copy_(value)  # where and as the optimizer keeps it
                else:
                    state[key] = value.to(param.device) if isinstance(value, torch.Tensor) else value


def _copy(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if not hasattr(value, '__tensor_flatten__'):
        return value.detach().to('cpu', copy=True)
    names, context = value.__tensor_flatten__()  # of torchao, whose own copy on the same device shares the memory
    parts = {name: _copy(getattr(value, name)) for name in names}
    return type(value).__tensor_unflatten__(parts, context, value.shape, value.stride())
