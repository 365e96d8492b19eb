"""Optimizer wrapper constructor, SGD in the backward pass, and gradual unfreezing."""

from .constructor import FreezeEmbedOptimWrapperConstructor
from .gradual_unfreezing import GradualUnfreezingLR
from .sgd_in_backward import InBackwardDataParallel, SGDInBackwardOptimWrapper

__all__ = [
    'FreezeEmbedOptimWrapperConstructor',
    'GradualUnfreezingLR',
    'InBackwardDataParallel',
    'SGDInBackwardOptimWrapper',
]
