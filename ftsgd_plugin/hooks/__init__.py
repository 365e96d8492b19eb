"""What must happen inside the training loop."""

from .checkpoint import SafeCheckpointHook
from .checkpoint_fit import CheckpointFitHook
from .host_memory import HostMemoryHook
from .run_record import RunRecordHook

__all__ = ['CheckpointFitHook', 'HostMemoryHook', 'RunRecordHook', 'SafeCheckpointHook']
