"""What must happen inside the training loop."""

from .checkpoint import SafeCheckpointHook
from .checkpoint_fit import CheckpointFitHook
from .host_memory import HostMemoryHook

__all__ = ['CheckpointFitHook', 'HostMemoryHook', 'SafeCheckpointHook']
