"""Whether a model is divided over the ranks, and its values made whole."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import is_main_process
from torch import nn


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of a model are divided over the ranks."""
    return any(hasattr(param, 'to_local') for param in model.parameters())


@torch.no_grad()
def full_values(state: Any) -> Any:
    """A nested state with every divided tensor made whole, on the CPU of rank 0; other ranks get ``None`` in its place.

    All ranks must call it with the same state. One tensor at a time is whole on a device.

    Args:
        state: Dicts, lists and tuples of anything.
    """
    if isinstance(state, torch.Tensor):
        if not hasattr(state, 'full_tensor'):
            return state
        whole = state.detach().full_tensor()
        return whole.cpu() if is_main_process() else None
    if isinstance(state, Mapping):
        return {key: full_values(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(full_values(value) for value in state)
    return state
