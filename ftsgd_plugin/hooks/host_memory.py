"""The memory figure of the progress line on a machine without a GPU."""

import resource

from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class HostMemoryHook(Hook):
    """Log the process's peak resident memory in MB as ``memory`` where MMEngine logs none (CPU training).

    On a GPU MMEngine logs the device's peak under the same name and this hook does nothing.

    Examples:
        >>> custom_hooks = [dict(type='HostMemoryHook')]
    """

    priority = 'NORMAL'  # before LoggerHook (BELOW_NORMAL)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Record ``train/memory``; ``ru_maxrss`` is in KiB on Linux."""
        if get_device() == 'cpu':
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            runner.message_hub.update_scalar('train/memory', peak)
