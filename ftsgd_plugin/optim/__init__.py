"""Optimizer wrapper constructor, SGD in the backward pass, and schedules that open layers."""

from .constructor import FreezeEmbedOptimWrapperConstructor
from .gradual_unfreezing import GradualUnfreezingLR
from .probe_then_finetune import ProbeThenFineTuneLR
from .sgd_in_backward import InBackwardDataParallel, SGDInBackwardOptimWrapper

__all__ = [
    'FreezeEmbedOptimWrapperConstructor',
    'GradualUnfreezingLR',
    'InBackwardDataParallel',
    'ProbeThenFineTuneLR',
    'SGDInBackwardOptimWrapper',
]
