"""Optimizer wrapper constructors and wrappers, and the schedule of gradual unfreezing."""

from .constructor import FreezeEmbedOptimWrapperConstructor
from .data_parallel import InBackwardDataParallel
from .gradual_unfreezing import GradualUnfreezingLR
from .sgd_in_backward import SGDInBackwardOptimWrapper

__all__ = [
    'FreezeEmbedOptimWrapperConstructor',
    'GradualUnfreezingLR',
    'InBackwardDataParallel',
    'SGDInBackwardOptimWrapper',
]
