"""Runs as Ray tasks, on this machine without any set-up or on a cluster. Ray places them; nothing here schedules."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..utils.errors import UserError
from . import process

RETRIES = 3  # of a run whose machine or Ray worker was lost; one that failed by itself is not tried again
CPUS_OF_A_GPU_RUN = 5  # one to train and four data workers, as in the configs
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """A connection to Ray; leave it with :meth:`close`.

    Args:
        address: ``None`` starts Ray on this machine; else the address of a cluster, e.g. ``'10.0.0.1:6379'`` or
            ``'auto'``.
        gpus: GPUs of a run, may be a fraction; ``None``: 1 where there are any, else 0.
        cpus: CPU cores of a run; ``None``: 1 without a GPU, with one its share of the cores, at most 5.
        workers: Most runs at a time; ``None``: as many as there is room for, on this machine without a GPU at most 8.

    Raises:
        UserError: Ray is not installed, the cluster is not there, or has no room for a single run.
    """

    def __init__(
        self,
        address: str | None = None,
        gpus: float | None = None,
        cpus: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.ray = _import_ray()
        cores = len(os.sched_getaffinity(0))
        if address is None:
            wanted = max(cores, (workers or 1) * (cpus or 1))
            # 'local': else Ray would join whatever cluster this machine is part of.
            self._start(address='local', num_cpus=wanted, object_store_memory=100 * 2**20, include_dashboard=False)
        else:
            _check_listening(address)
            self._start(address=address)
        total = self.ray.cluster_resources()
        all_gpus, all_cpus = total.get('GPU', 0), int(total.get('CPU', 1))
        self.gpus = gpus if gpus is not None else float(all_gpus > 0)
        if self.gpus > all_gpus:
            self.close()
            raise UserError(f'--gpus-per-run {self.gpus:g}: Ray knows {all_gpus:g} GPUs here; give less, or 0.')
        at_once = int(all_gpus / self.gpus) if self.gpus else all_cpus
        self.cpus = cpus or (max(1, min(CPUS_OF_A_GPU_RUN, all_cpus // at_once)) if self.gpus else 1)
        if self.cpus > all_cpus:
            self.close()
            raise UserError(f'--cpus-per-run {self.cpus}: Ray knows {all_cpus} CPU cores here; give less.')
        room = min(at_once, all_cpus // self.cpus)
        self.workers = workers or (min(room, 8) if address is None and not self.gpus else room)

    def _start(self, **options) -> None:
        os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
        try:
            # Ray has words for a terminal that the progress table owns.
            with open(os.devnull, 'w') as nowhere, contextlib.redirect_stderr(nowhere):
                self.ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except Exception as error:
            reason = ' '.join(str(error).split())
            if options['address'] != 'local':
                raise _not_there(options['address'], reason) from error
            raise UserError(f'Ray does not start on this machine ({reason}); see the logs in /tmp/ray.') from error

    def run(
        self, jobs: Sequence[tuple[list[str], str]], started: Callable[[int], None], waited: Callable[[], None]
    ) -> Iterator[tuple[int, int, str]]:
        """Run commands, so many at a time as there is room for.

        Args:
            jobs: ``(command, folder)``, as :func:`ftsgd_plugin.sweep.process.run_process` takes them.
            started: Called with the index of a job that was handed to Ray.
            waited: Called about once per second.

        Yields:
            ``(index, exit status, last line)`` of each job as it ends.
        """
        self.ray.cloudpickle.register_pickle_by_value(process)  # the workers then need not import torch
        remote = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)(process.run_process)
        path = os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
        environment = {'OMP_NUM_THREADS': str(self.cpus), 'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1'}
        waiting, running = list(enumerate(jobs))[::-1], {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    index, (command, folder) = waiting.pop()
                    started(index)
                    running[remote.remote(command, folder, environment, os.getcwd())] = index
                done, _ = self.ray.wait(list(running), timeout=1)
                for reference in done:
                    index = running.pop(reference)
                    try:
                        status, line = self.ray.get(reference)
                    except self.ray.exceptions.RayError as error:
                        status, line = 1, f'lost by Ray: {" ".join(str(error).split())[:200]}'
                    yield index, status, line
                waited()
        finally:
            for reference in running:
                self.ray.cancel(reference)
            if running:
                self.ray.wait(list(running), num_returns=len(running), timeout=process.TERM_SECONDS)

    def close(self) -> None:
        """Leave the cluster; ends Ray if it was started here."""
        self.ray.shutdown()


def _import_ray():
    try:
        import ray
    except ImportError:
        raise UserError(
            "ray is missing; install it with: pip install 'ftsgd_plugin[sweep]' (or use --slurm DIR)."
        ) from None
    return ray


def _check_listening(address: str) -> None:
    """Ray itself would try for minutes, and end the process in C++."""
    host, _, port = address.removeprefix('ray://').rpartition(':')
    if address in ('auto', 'local') or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise _not_there(address, error.strerror or str(error)) from error


def _not_there(address: str, reason: str) -> UserError:
    return UserError(
        f'--address {address}: no Ray cluster there ({reason[:200]}); start one with `ray start --head`, correct the '
        'address or the token (RAY_AUTH_MODE, RAY_AUTH_TOKEN), or leave the option out to run on this machine.'
    )
