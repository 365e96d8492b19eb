"""What must happen inside the training loop."""

from .checkpoint import SafeCheckpointHook
from .checkpoint_fit import CheckpointFitHook
from .host_memory import HostMemoryHook
from .resources import ResourceHook

__all__ = ['CheckpointFitHook', 'HostMemoryHook', 'ResourceHook', 'SafeCheckpointHook']
