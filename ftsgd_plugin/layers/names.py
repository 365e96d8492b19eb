"""A model and the names of its parameters, with and without the wrapper that trains it."""

import sys
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

T = TypeVar('T')


# Wrappers by import path, so that none of their libraries is imported; MMEngine's registry has its own and users' ones.
_WRAPPERS = {
    'deepspeed.runtime.engine.DeepSpeedEngine',
    'mmengine.model.averaged_model.BaseAveragedModel',
    'torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel',
    'torch.nn.parallel.data_parallel.DataParallel',
    'torch.nn.parallel.distributed.DistributedDataParallel',
    'torch.optim.swa_utils.AveragedModel',
}
_BESIDE_MODULE = {'n_averaged', 'steps'}  # what averaged models save beside ``module.*``


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside ``DistributedDataParallel`` or another wrapper, known by its type.

    Wrappers are those of PyTorch and DeepSpeed and the classes in MMEngine's registry ``MODEL_WRAPPERS``. A model of
    any other type is returned as it is, even if it has a child called ``module``.
    """
    return model.module if _is_wrapper(model) else model


def _is_wrapper(model: nn.Module) -> bool:
    if not isinstance(getattr(model, 'module', None), nn.Module):
        return False
    if any(f'{cls.__module__}.{cls.__qualname__}' in _WRAPPERS for cls in type(model).__mro__):
        return True
    mmengine = sys.modules.get('mmengine.model')  # without it nothing is registered
    return mmengine is not None and mmengine.is_model_wrapper(model)


def unwrap_state_dict(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Return a state dict under the names of the model itself, without the prefix ``module.`` that a wrapper adds.

    A wrapper adds it to every name; a model with a child called ``module`` among others keeps its names.
    """
    if not all(name.startswith('module.') or name in _BESIDE_MODULE for name in state_dict):
        return dict(state_dict)
    return {name.removeprefix('module.'): value for name, value in state_dict.items()}


def in_backbone(name: str) -> bool:
    """Whether a tensor of a classifier, by its name in the state dict, belongs to the backbone."""
    return name.startswith('backbone.')


def in_head(name: str) -> bool:
    """Whether a tensor of a classifier, by its name in the state dict, belongs to the head."""
    return name.startswith('head.')
