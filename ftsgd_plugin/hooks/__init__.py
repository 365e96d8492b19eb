"""What must happen inside the training loop."""

from .checkpoint_fit import CheckpointFitHook
from .host_memory import HostMemoryHook

__all__ = ['CheckpointFitHook', 'HostMemoryHook']
