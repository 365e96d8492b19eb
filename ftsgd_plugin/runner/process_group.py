"""Join and leave the process group."""

import logging
import math
import os
import sys

import torch

from ..utils.errors import UserError
from ..utils.patching import replaced

COLLECTIVE_SECONDS = 600.0  # how long a collective waits for the other ranks, unless env_cfg.dist_cfg.timeout says it


def collective_timeout(dist_cfg: dict) -> float:
    """Seconds that a collective waits for the other ranks: ``timeout`` of ``env_cfg.dist_cfg``, else 600.

    Raises:
        UserError: It is not a positive number.
    """
    seconds = dist_cfg.get('timeout', COLLECTIVE_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise UserError(f'env_cfg.dist_cfg.timeout={seconds!r} is not a positive number of seconds; correct it.')
    return float(seconds)


def join_group(launcher: str, **dist_cfg) -> None:
    """Join the ranks of a distributed run, for any of MMEngine's launchers; without a GPU over gloo.

    MMEngine's ``init_dist`` calls ``torch.cuda.set_device``, which needs a driver, and leaves the time-out to torch (10
    minutes with NCCL, 30 with gloo).

    Args:
        launcher: ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        **dist_cfg: ``env_cfg.dist_cfg`` of the config; its backend is replaced where there is no GPU.

    Raises:
        UserError: The time-out is not a positive number.
    """
    from mmengine.dist import init_dist

    dist_cfg['timeout'] = collective_timeout(dist_cfg)
    if torch.multiprocessing.get_start_method(allow_none=True) is None:
        torch.multiprocessing.set_start_method('fork')  # MMEngine's default for workers; init_dist would choose spawn
    if torch.cuda.is_available():
        init_dist(launcher, **dist_cfg)
        return
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
