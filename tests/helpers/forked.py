"""Programs in forked children: the imports of the stack are paid once per test session, not once per program.

One launch per launcher still starts cold (:func:`helpers.run_process`); everything else about a program that needs a
process (exit codes, output, several ranks, kills) is the same in a child of this server.
"""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import forkserver, util
from multiprocessing.connection import wait
from pathlib import Path
from unittest import mock

from helpers import ROOT, TIMEOUT, free_port, process_environment
from helpers.small_runs import make_small_runs_cheap

STACK = (
    'matplotlib.pyplot',
    'mmengine.runner',
    'mmpretrain.datasets',
    'mmpretrain.evaluation',
    'mmpretrain.models',
    'open_clip',
    'pandas',
    'timm',
    'torchvision',
    'ftsgd_plugin.runner.build',
)
_context = multiprocessing.get_context('forkserver')
_spawn = util.spawnv_passfds
_context.set_forkserver_preload(['pytest', *STACK])  # pytest: a child imports the main module of its parent


def fork_server() -> None:
    """Make the server a fork of this process, which has imported everything but has not run a test yet."""
    with mock.patch.object(util, 'spawnv_passfds', _fork):
        forkserver.ensure_running()


def _fork(executable: str, argv: list[str], descriptors: list[int]) -> int:
    """What ``spawnv_passfds`` does for ``python -c PROGRAM``, without a new interpreter."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        start = 3
        for descriptor in [*sorted(descriptors), os.sysconf('SC_OPEN_MAX')]:
            os.closerange(start, descriptor)
            start = descriptor + 1
        gc.freeze()
        # A child may start a server of its own, which is not a fork.
        forkserver._forkserver._lock, util.spawnv_passfds = threading.Lock(), _spawn
        exec(argv[-1], {})
        code = 0
    finally:
        os._exit(code)


def warm_up() -> None:
    """Start the server, if it is not running, and wait until it has imported everything."""
    child = _context.Process(target=int)
    child.start()
    child.join()


class Program:
    """A Python file that runs in a forked child; its output goes to files.

    Args:
        words: The file and its arguments.
        cwd: Directory to run in.
        environment: All variables of the child.
        directory: Where ``stdout`` and ``stderr`` are written, appended if they exist.
    """

    def __init__(self, words: list[str], cwd: Path, environment: dict[str, str], directory: Path) -> None:
        self.words = words
        self._outputs = [directory / 'stdout', directory / 'stderr']
        directory.mkdir(exist_ok=True)
        outputs = list(map(str, self._outputs))
        self._process = _context.Process(target=_run, args=(words, str(cwd), environment, *outputs))
        self._process.start()
        self.pid, self.sentinel = self._process.pid, self._process.sentinel

    def has_ended(self) -> bool:
        """Whether it has ended by itself or was killed."""
        return self._process.exitcode is not None

    def request_end(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def end(self) -> None:
        """End it, with force if it does not follow a request."""
        self.request_end()
        self._process.join(10)
        self._process.kill()

    def result(self, seconds: float = TIMEOUT) -> subprocess.CompletedProcess:
        """Wait for its end and return what ``subprocess.run`` would."""
        self._process.join(seconds)
        if not self.has_ended():
            self.end()
            raise subprocess.TimeoutExpired(self.words, seconds)
        output, errors = (path.read_text(errors='replace') for path in self._outputs)
        return subprocess.CompletedProcess(self.words, self._process.exitcode, output, errors)


def start_forked(script, *argv, cwd, output: Path, **environment) -> Program:
    """Start a Python file with arguments in a forked child; return at once. ``output`` is a directory for it."""
    return Program([str(ROOT / script), *map(str, argv)], cwd, process_environment(**environment), output)


def run_forked(script, *argv, cwd, **environment) -> subprocess.CompletedProcess:
    """Run a Python file with arguments in a forked child, as :func:`helpers.run_process` runs it in a cold one.

    Args:
        script: The file; a relative one is below the checkout.
        *argv: Its arguments.
        cwd: Directory to run in.
        **environment: Variables added to this process's.
    """
    with tempfile.TemporaryDirectory() as directory:
        return start_forked(script, *argv, cwd=cwd, output=Path(directory), **environment).result()


def run_ranks(count: int, script, *argv, cwd, **environment) -> subprocess.CompletedProcess:
    """Run a program of ``tools/`` as so many ranks on this machine, as ``torchrun`` does, each in a forked child.

    The first rank that fails ends the others; its exit code is the result's, and its output comes last.
    """
    words = [str(ROOT / script), *map(str, argv), '--launcher', 'pytorch']
    shared = dict(WORLD_SIZE=count, LOCAL_WORLD_SIZE=count, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    with tempfile.TemporaryDirectory() as directory:
        ranks = [
            Program(
                words,
                cwd,
                process_environment(RANK=rank, LOCAL_RANK=rank, **shared, **environment),
                Path(directory) / str(rank),
            )
            for rank in range(count)
        ]
        running, results, code = {rank.sentinel: rank for rank in ranks}, [], 0
        deadline = time.monotonic() + TIMEOUT
        while running and code == 0 and time.monotonic() < deadline:
            for sentinel in wait(list(running), timeout=1):
                results.append(running.pop(sentinel).result())
                code = code or results[-1].returncode
        for rank in running.values():  # all at once: meanwhile another would report that it has lost this one
            rank.request_end()
        for rank in running.values():
            rank.end()
            results.append(rank.result())
    if running and code == 0:
        raise subprocess.TimeoutExpired(words, TIMEOUT)
    results.sort(key=lambda result: result.returncode == code != 0)
    output, errors = (''.join(getattr(result, name) for result in results) for name in ('stdout', 'stderr'))
    return subprocess.CompletedProcess(words, code, output, errors)


def _run(words: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str) -> None:
    """In the child: run the file as ``python FILE ARGUMENTS`` would."""
    for descriptor, path in ((0, os.devnull), (1, stdout), (2, stderr)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    multiprocessing.set_start_method(None, force=True)  # as in a cold process
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    import numpy as np
    import torch

    make_small_runs_cheap()
    torch.set_num_threads(int(environment['OMP_NUM_THREADS']))  # read from the environment at the import only
    np.random.seed()  # else every child draws the same "random" seeds
    try:
        runpy.run_path(words[0], run_name='__main__')
    except SystemExit:
        raise  # multiprocessing turns it into the exit code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
