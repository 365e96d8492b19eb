"""A model and the names of its parameters, with and without the wrapper that trains it."""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

T = TypeVar('T')


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside ``DistributedDataParallel`` or another wrapper with a ``module`` attribute."""
    inner = getattr(model, 'module', None)
    return inner if isinstance(inner, nn.Module) else model


def unwrap_state_dict(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Return a state dict under the names of the model itself, without the prefix ``module.`` that a wrapper adds."""
    return {name.removeprefix('module.'): value for name, value in state_dict.items()}


def in_backbone(name: str) -> bool:
    """Whether a tensor of a classifier, by its name in the state dict, belongs to the backbone."""
    return name.startswith('backbone.')


def in_head(name: str) -> bool:
    """Whether a tensor of a classifier, by its name in the state dict, belongs to the head."""
    return name.startswith('head.')
