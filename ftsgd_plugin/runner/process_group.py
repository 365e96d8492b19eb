"""Join and leave the process group."""

import logging
import os
import sys

import torch

from ..utils.patching import replaced


def init_cpu_group(launcher: str, **dist_cfg) -> None:
    """Join the ranks of a machine without a GPU over gloo, for any of MMEngine's launchers.

    MMEngine's ``init_dist`` calls ``torch.cuda.set_device``, which needs a driver.

    Args:
        launcher: ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        **dist_cfg: ``env_cfg.dist_cfg`` of the config; its backend is replaced.
    """
    from mmengine.dist import init_dist

    if torch.multiprocessing.get_start_method(allow_none=True) is None:
        torch.multiprocessing.set_start_method('fork')  # MMEngine's default for workers; init_dist would choose spawn
    with replaced(torch.cuda, 'set_device', lambda device: None):
        init_dist(launcher, **{**dist_cfg, 'backend': 'gloo'})


def leave_group() -> None:
    """Leave the process group of a finished program, together with the other ranks.

    Over gloo the process ends here: its threads occasionally abort the interpreter's shutdown ("terminate called
    without an active exception", seen twice with torch 2.11), which would mark a finished run as failed.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    torch.distributed.barrier()
    if torch.distributed.get_backend() == 'gloo':
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    torch.distributed.destroy_process_group()
