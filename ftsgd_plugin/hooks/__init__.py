"""Hooks for the training loop: checkpoints, gradient norms, resources, records."""

from .checkpoint import SafeCheckpointHook
from .checkpoint_compatibility import CheckpointFitHook
from .grad_norm import LayerGradNormHook
from .release_model import ReleaseModelHook
from .resources import HostMemoryHook, ResourceHook
from .run_record import RunRecordHook

__all__ = [
    'CheckpointFitHook',
    'HostMemoryHook',
    'LayerGradNormHook',
    'ReleaseModelHook',
    'ResourceHook',
    'RunRecordHook',
    'SafeCheckpointHook',
]
