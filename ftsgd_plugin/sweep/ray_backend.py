"""Runs as Ray tasks, on this machine without any set-up or on a cluster. Ray places them; nothing here schedules.

:func:`run_process` starts one run as a process. Ray sends it to its workers by value, and the Slurm script uses it
without Ray.
"""

import contextlib
import ctypes
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import filelock
import psutil

from ..utils import locks
from ..utils.errors import UserError, one_line
from ..utils.locks import hold_lock

LOG = 'run.log'
RETRIES = 3  # of a run whose machine or Ray worker was lost; one that failed by itself is not tried again
CPUS_OF_A_GPU_RUN = 5  # one to train and four data workers, as in the configs
LOCK_SECONDS = 30.0  # how long a run waits for an earlier process of the same directory to end
LOST_SECONDS = 180.0  # likewise on a cluster: an NFS server keeps the lock of a lost machine for its lease, 90 s
ROOM_SECONDS = 10.0  # between two looks at which machines a cluster has
TERM_SECONDS = 60.0  # between SIGTERM, after which a run writes its checkpoint, and SIGKILL
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_ERROR = re.compile(r'(error: |[\w.]*(Error|Exception|Interrupt)\b)')
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """A connection to Ray; leave it with :meth:`close`.

    Args:
        address: ``None`` starts Ray on this machine; else the address of a cluster, e.g. ``'10.0.0.1:6379'`` or
            ``'auto'``.
        gpus: GPUs of a run, may be a fraction. Default: 1 if Ray has any, else 0.
        cpus: CPU cores of a run. Default: 1 without a GPU, with one its share of the cores, at most 5.
        workers: Most runs at a time. Default: as many as the cluster has room for, also when machines join or are lost;
            on this machine without a GPU at most 8.

    Raises:
        UserError: Ray is not installed, the cluster does not answer, or it has no room for a single run.
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
        try:
            self.gpus, self.cpus, room = _fit(self.ray.nodes(), gpus, cpus)
        except UserError:
            self.close()
            raise
        self.workers = workers or (min(room, 8) if address is None and not self.gpus else room)
        self._patience = LOCK_SECONDS if address is None else LOST_SECONDS
        self._looks = workers is None and address is not None
        self._looked = time.monotonic()

    def _start(self, **options) -> None:
        os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
        try:
            # Ray's messages would disturb the progress bars.
            with open(os.devnull, 'w') as nowhere, contextlib.redirect_stderr(nowhere):
                self.ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except Exception as error:
            reason = one_line(error)
            if options['address'] != 'local':
                raise _unreachable(options['address'], reason) from error
            raise UserError(f'Ray does not start on this machine ({reason}); see the logs in /tmp/ray.') from error

    def run(
        self, jobs: Iterable[tuple[list[str], str]], started: Callable[[int], None]
    ) -> Iterator[tuple[int, int, str]]:
        """Run commands, as many at a time as there is room for.

        Args:
            jobs: ``(command, directory)``, as :func:`run_process` takes them, each taken when there is room.
            started: Called with the index of a job that was submitted to Ray.

        Yields:
            ``(index, exit status, last line)`` of each job as it ends.
        """
        # By value: the workers of a cluster need not have this package.
        for module in (sys.modules[__name__], locks):
            self.ray.cloudpickle.register_pickle_by_value(module)
        remote = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)(run_process)
        path = os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
        environment = {'OMP_NUM_THREADS': str(self.cpus), 'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1'}
        waiting, running = Waiting(jobs), {}
        try:
            while waiting or running:
                self._look_for_machines()
                while waiting and len(running) < self.workers:
                    index, (command, directory) = waiting.pop()
                    started(index)
                    running[remote.remote(command, directory, environment, os.getcwd(), self._patience)] = index
                done, _ = self.ray.wait(list(running), timeout=1)
                for reference in done:
                    index = running.pop(reference)
                    try:
                        status, line = self.ray.get(reference)
                    except self.ray.exceptions.RayError as error:
                        status, line = 1, f'lost by Ray: {one_line(error, limit=200)}'
                    yield index, status, line
        finally:
            for reference in running:
                self.ray.cancel(reference)
            if running:
                self.ray.wait(list(running), num_returns=len(running), timeout=TERM_SECONDS)

    def _look_for_machines(self) -> None:
        """Follow machines that join or are lost; with none left for a run, one waits for the next."""
        if self._looks and time.monotonic() - self._looked > ROOM_SECONDS:
            self._looked = time.monotonic()
            with contextlib.suppress(UserError):
                *_, self.workers = _fit(self.ray.nodes(), self.gpus, self.cpus)

    def close(self) -> None:
        """Leave the cluster; ends Ray if it was started here."""
        self.ray.shutdown()


class Waiting:
    """The jobs that wait, with their indices; each is made when it is taken. True as long as one waits."""

    def __init__(self, jobs: Iterable[tuple[list[str], str]]) -> None:
        self._jobs = iter(enumerate(jobs))
        self._next = next(self._jobs, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def pop(self) -> tuple[int, tuple[list[str], str]]:
        """The next one."""
        taken, self._next = self._next, next(self._jobs, None)
        return taken


def _fit(nodes: Sequence[dict], gpus: float | None, cpus: int | None) -> tuple[float, int, int]:
    """What a run takes, and for how many there is room. A run is on one machine: sums over the cluster say nothing.

    Args:
        nodes: As ``ray.nodes()`` lists them.
        gpus, cpus: What the user wants; see :class:`Cluster`.

    Returns:
        tuple: GPUs and CPU cores of a run, and the number of runs at a time.

    Raises:
        UserError: No machine has room for one run, which would wait for ever.
    """
    machines = [
        (node['Resources'].get('GPU', 0), int(node['Resources'].get('CPU', 0))) for node in nodes if node['Alive']
    ]
    most_gpus = max((have for have, _ in machines), default=0)
    gpus = gpus if gpus is not None else float(most_gpus > 0)
    if gpus > most_gpus:
        raise UserError(f'--gpus-per-run {gpus:g}: no machine of Ray has more than {most_gpus:g}; give less, or 0.')
    suitable = [(_times(have, gpus), cores) for have, cores in machines if have >= gpus]
    most_cpus = max((cores for _, cores in suitable), default=0)
    if cpus is None:
        shares = [max(1, cores // times) for times, cores in suitable] if gpus else []
        cpus = min(CPUS_OF_A_GPU_RUN, *shares) if shares else 1
    if cpus > most_cpus:
        where = 'no machine of Ray with enough GPUs' if gpus else 'no machine of Ray'
        raise UserError(f'--cpus-per-run {cpus}: {where} has more than {most_cpus} CPU cores; give less.')
    room = sum(min(times, cores // cpus) if gpus else cores // cpus for times, cores in suitable)
    return gpus, cpus, room


def _times(have: float, gpus: float) -> int:
    """How many runs the GPUs of a machine take; a fraction of one does not reach across two."""
    if not gpus:
        return 0
    return int(have) * int(1 / gpus) if gpus < 1 else int(have / gpus)


def _import_ray():
    try:
        import ray
    except ImportError:
        raise UserError(
            "ray is missing; install it with: pip install 'ftsgd_plugin[sweep]' (or use --slurm DIR)."
        ) from None
    return ray


def _check_listening(address: str) -> None:
    """Refuse an address without a listener: Ray would retry for minutes and then end the process in C++."""
    host, _, port = address.removeprefix('ray://').rpartition(':')
    if address in ('auto', 'local') or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, reason: str) -> UserError:
    return UserError(
        f'--address {address}: no Ray cluster answers ({reason[:200]}); start one with `ray start --head`, correct the '
        'address or the token (RAY_AUTH_MODE, RAY_AUTH_TOKEN), or leave the option out to run on this machine.'
    )


def run_process(
    command: list[str], directory: str, environment: dict[str, str], cwd: str, patience: float | None = None
) -> tuple[int, str]:
    """Run a command until it ends; if this function is interrupted, the command and its children are ended.

    Args:
        command: What follows the interpreter.
        directory: Directory of the run. ``run.log`` is appended to, and ``run.lock`` is locked while the command or a
            process that it has forked is alive.
        environment: Added to this process's.
        cwd: Working directory, which relative data roots start from.
        patience: Seconds to wait for an earlier process of the same directory. Default: ``LOCK_SECONDS``.

    Returns:
        tuple: Exit status (negative: the signal) and the last line of a failure, ``''`` without one.
    """
    log = os.path.join(directory, LOG)
    patience = LOCK_SECONDS if patience is None else patience
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(hold_lock(os.path.join(directory, 'run.lock'), patience))
        except filelock.Timeout:
            return 1, 'another process is running it; end that one first'
        with open(log, 'ab') as output:
            start = output.tell()
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
                env={**os.environ, **environment},
                start_new_session=True,
                pass_fds=(lock,),  # held until the last of them has ended, also after kill -9 of this process
                preexec_fn=_die_with(os.getpid()),
            )
            try:
                status = process.wait()
            finally:
                if process.poll() is None:
                    end_tree(process)
    return status, '' if status == 0 else last_line(log, start, status)


def _die_with(parent: int) -> Callable[[], None]:
    """Make the child die with this process even after ``kill -9``, when nothing else could end it."""
    libc = ctypes.CDLL(None)  # loaded before the fork

    def prepare() -> None:
        libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def end_tree(process: subprocess.Popen) -> None:
    """End a process, which leads a session, and all that it has started: SIGTERM, and SIGKILL to those that remain."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        tree = [root, *root.children(recursive=True)]
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.terminate()
        _, alive = psutil.wait_procs(tree, timeout=TERM_SECONDS)
        for one in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    # Orphans, whose parent ended earlier, are in no tree but still in the session.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: str, start: int, status: int) -> str:
    """The reason of a failure: the signal, else the last error in the log, its last line, or the exit status.

    Args:
        log: The log file.
        start: Its size before the process started.
        status: Exit status of the process.
    """
    if status < 0:
        return f'killed by signal {-status} ({signal.Signals(-status).name})'
    with open(log, 'rb') as file:
        file.seek(max(start, os.path.getsize(log) - 100_000))
        lines = [line.strip() for line in file.read().decode(errors='replace').splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or [f'exit status {status}'])[-1].removeprefix('error: ')
