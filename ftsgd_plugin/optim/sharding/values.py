"""Whether a model is divided over the ranks, its values made whole, and whole values divided like it."""

from collections.abc import Callable, Mapping
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


@torch.no_grad()
def part_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a whole tensor, divided as ``like`` and on the same device. Every rank has the whole.

    Args:
        value: The whole tensor.
        like: A divided tensor (``DTensor``) of its shape.
    """
    from torch.distributed.tensor import distribute_tensor

    part = distribute_tensor(value.detach(), like.device_mesh, like.placements, src_data_rank=None)
    # Torch divides on the device of the mesh, and offloaded weights lie on the CPU.
    return torch.empty_like(like, dtype=value.dtype).copy_(part)


def load_whole_tensors(model: nn.Module, divide: Callable[[], None]) -> None:
    """Let ``load_state_dict`` of a divided model, torch's or MMEngine's, take whole tensors, as checkpoints have them.

    Else torch refuses them, and MMEngine loads nothing and continues with a warning.

    Args:
        model: The model, after ``fully_shard``.
        divide: Called first: puts back parts that torch has left whole.
    """

    def take_part(module: nn.Module, state_dict: dict, prefix: str, *unused: Any) -> None:
        divide()
        for name, param in module.named_parameters(recurse=False):
            value = state_dict.get(prefix + name)
            whole = isinstance(value, torch.Tensor) and not hasattr(value, 'placements')
            if whole and value.shape == param.shape:
                state_dict[prefix + name] = part_of(value, param)

    for module in model.modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_load_state_dict_pre_hook(take_part)
