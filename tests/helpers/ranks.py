"""Several processes that train together over gloo."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.multiprocessing as mp

import helpers.forked  # noqa: F401  its server of processes has imported torch and MMEngine


def run_two_ranks(function: Callable[[int, Path], None], directory: Path) -> None:
    """Call ``function(rank, directory)`` in two processes of one group.

    Args:
        function: A function of a module in ``helpers``: the processes cannot import test files.
        directory: Where the ranks meet and leave their results.
    """
    start_ranks(function, directory, 2)


def start_ranks(function: Callable[[int, Path], None], directory: Path, count: int) -> None:
    """:func:`run_two_ranks` with ``count`` processes."""
    mp.start_processes(_run_rank, (function, directory, count), nprocs=count, start_method='forkserver')


def _run_rank(rank: int, function: Callable[[int, Path], None], directory: Path, count: int) -> None:
    torch.set_num_threads(1)
    store = f'file://{directory}/store'
    torch.distributed.init_process_group(
        'gloo', init_method=store, rank=rank, world_size=count, timeout=timedelta(seconds=120)
    )
    function(rank, directory)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
