"""Hooks for the training loop: checkpoints, gradient norms, resources, records."""

from .checkpoint import SafeCheckpointHook
from .checkpoint_compatibility import CheckpointFitHook
from .divergence import DivergenceHook
from .frozen_features import FrozenFeaturesHook
from .grad_norm import LayerGradNormHook
from .gradient_rates import GradientRatesHook
from .halving import HalvingHook
from .optimizer_mode import OptimizerModeHook
from .phase_end import PhaseEndHook
from .release_model import ReleaseModelHook
from .resources import HostMemoryHook, ResourceHook
from .run_record import RunRecordHook
from .sharding import ShardingHook

__all__ = [
    'CheckpointFitHook',
    'DivergenceHook',
    'FrozenFeaturesHook',
    'GradientRatesHook',
    'HalvingHook',
    'HostMemoryHook',
    'LayerGradNormHook',
    'OptimizerModeHook',
    'PhaseEndHook',
    'ReleaseModelHook',
    'ResourceHook',
    'RunRecordHook',
    'SafeCheckpointHook',
    'ShardingHook',
]
