"""What must happen inside the training loop."""

from .checkpoint import SafeCheckpointHook
from .checkpoint_fit import CheckpointFitHook
from .host_memory import HostMemoryHook
from .layer_grad_norm import LayerGradNormHook
from .resources import ResourceHook
from .run_record import RunRecordHook

__all__ = [
    'CheckpointFitHook',
    'HostMemoryHook',
    'LayerGradNormHook',
    'ResourceHook',
    'RunRecordHook',
    'SafeCheckpointHook',
]
