"""Runs in forked processes of this machine, without Ray: the imports of the stack are paid once, not by every run.

A server process imports everything and is forked for each run. It must not touch the GPU before: CUDA does not survive
a fork. A first child tries that; where it fails, every run is a process of its own that imports everything.
"""

import contextlib
import gc
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_any
from multiprocessing.connection import wait
from pathlib import Path

import filelock

from ..utils.locks import hold_lock
from .ray_backend import LOCK_SECONDS, LOG, TERM_SECONDS, Waiting, last_line, run_process

PRELOADED = (
    'mmengine.runner',
    'mmpretrain.datasets',
    'mmpretrain.evaluation',
    'mmpretrain.models',
    'pandas',
    'timm',
    'torchvision',
    'ftsgd_plugin.registration',
    'ftsgd_plugin.runner.run',
)
# Asks the driver's management library for GPUs instead of the driver, which would spoil the fork.
_CHECK = 'PYTORCH_NVML_BASED_CUDA_CHECK'


class Forks:
    """A place for runs, as :class:`ftsgd_plugin.sweep.ray_backend.Cluster` is one; leave it with :meth:`close`.

    Runs share the GPU of the machine, if it has one. Each has one thread.

    Args:
        workers: Most runs at a time. Default: one per CPU core, at most 8.
        until: ``time.monotonic()`` after which no run is started.
    """

    def __init__(self, workers: int | None = None, until: float | None = None) -> None:
        self.workers = workers or min(len(os.sched_getaffinity(0)), 8)
        self.until = until
        self._context = multiprocessing.get_context('forkserver')
        self._context.set_forkserver_preload(list(PRELOADED))

    def run(
        self, jobs: Iterable[tuple[list[str], str]], started: Callable[[int], None]
    ) -> Iterator[tuple[int, int, str]]:
        """Run commands, as many at a time as there are workers.

        Args:
            jobs: ``(command, directory)``, as :func:`ftsgd_plugin.sweep.ray_backend.run_process` takes them, each taken
                when there is room; the command begins with a Python file.
            started: Called with the index of a job before it starts.

        Yields:
            ``(index, exit status, last line)`` of each job as it ends; none of a job that was not started.
        """
        yield from (self._forked if self._can_fork() else self._cold)(jobs, started)

    def close(self) -> None:
        """Nothing to leave: the server ends with this process."""

    def _can_fork(self) -> bool:
        """Start the server, and try in a child whether the GPU can be used there."""
        before = os.environ.get(_CHECK)
        os.environ[_CHECK] = '1'  # the server inherits it, and its children
        try:
            child = self._context.Process(target=_touch_gpu)
            child.start()
            child.join()
        finally:
            if before is None:
                del os.environ[_CHECK]
            else:
                os.environ[_CHECK] = before
        if child.exitcode != 0:
            print('the GPU cannot be used after a fork: every run imports the stack itself', flush=True)
        return child.exitcode == 0

    def _may_start(self) -> bool:
        return self.until is None or time.monotonic() < self.until

    def _forked(self, jobs: Iterable, started: Callable[[int], None]) -> Iterator[tuple[int, int, str]]:
        waiting, running = Waiting(jobs), {}
        environment = {**os.environ, **_environment()}
        try:
            while running or (waiting and self._may_start()):
                while waiting and len(running) < self.workers and self._may_start():
                    index, (command, directory) = waiting.pop()
                    started(index)
                    log = os.path.join(directory, LOG)
                    start = os.path.getsize(log) if os.path.exists(log) else 0
                    details = (command, directory, environment, os.getcwd(), LOCK_SECONDS)
                    process = self._context.Process(target=_run, args=details)
                    process.start()
                    running[process.sentinel] = (index, process, log, start)
                for sentinel in wait(list(running), timeout=1):
                    index, process, log, start = running.pop(sentinel)
                    process.join()
                    status = process.exitcode
                    yield index, status, '' if status == 0 else last_line(log, start, status)
        finally:
            _end([process for _, process, _, _ in running.values()])

    def _cold(self, jobs: Iterable, started: Callable[[int], None]) -> Iterator[tuple[int, int, str]]:
        waiting = Waiting(jobs)
        running: dict[Future, int] = {}
        with ThreadPoolExecutor(self.workers) as pool:
            while running or (waiting and self._may_start()):
                while waiting and len(running) < self.workers and self._may_start():
                    index, (command, directory) = waiting.pop()
                    started(index)
                    running[pool.submit(run_process, command, directory, _environment(), os.getcwd())] = index
                for future in wait_for_any(list(running), timeout=1, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), *future.result()


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get('PYTHONPATH')])])
    return {'OMP_NUM_THREADS': '1', 'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1'}


def _touch_gpu() -> None:
    """In a child: fails where the GPU was used before the fork."""
    import torch

    if torch.cuda.is_available():
        torch.zeros(1, device='cuda').sum().item()


def _run(command: list[str], directory: str, environment: dict[str, str], cwd: str, patience: float) -> None:
    """In a child: run a Python file as ``python FILE ARGUMENTS`` would, with its output in the log of the run."""
    os.setsid()  # Ctrl-C is for the driver, which ends the runs
    gc.freeze()  # a collection that visits the imported modules would copy every page of them into this process
    with contextlib.ExitStack() as stack:
        output = os.open(os.path.join(directory, LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, opened in ((0, nothing), (1, output), (2, output)):
            os.dup2(opened, descriptor)
        try:
            stack.enter_context(hold_lock(os.path.join(directory, 'run.lock'), patience))
        except filelock.Timeout:
            sys.exit('error: another process is running it; end that one first')
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(cwd)
        sys.argv = list(command)
        sys.path.insert(0, str(Path(command[0]).parent))
        multiprocessing.set_start_method(None, force=True)  # as in a process of its own
        import numpy as np
        import torch

        torch.set_num_threads(1)  # read from the environment at the import only
        np.random.seed()  # else every run draws the same "random" numbers
        try:
            runpy.run_path(command[0], run_name='__main__')
        except SystemExit:
            raise  # multiprocessing turns it into the exit status
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.exit(1)


def _end(processes: Sequence) -> None:
    """End runs: SIGTERM, after which they write a checkpoint, and SIGKILL to those that remain."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + TERM_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()
