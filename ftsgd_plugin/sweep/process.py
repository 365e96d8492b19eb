"""One run as a process of its own. Imports nothing of the package and no torch: Ray sends this file to its workers."""

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import subprocess
import sys
import time

LOCK_SECONDS = 30.0  # how long to wait for the data workers of a killed run to notice
TERM_SECONDS = 10.0  # between SIGTERM and SIGKILL
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_ERROR = re.compile(r'(error: |[\w.]*(Error|Exception|Interrupt)\b)')


def run_process(command: list[str], folder: str, environment: dict[str, str], cwd: str) -> tuple[int, str]:
    """Run a command until it ends; if this function is interrupted, its whole process group is killed.

    Args:
        command: What follows the interpreter.
        folder: Gets ``run.log`` (appended) and ``run.lock``, which the process holds as long as it lives.
        environment: Added to this process's.
        cwd: Folder to run in, which relative data roots start from.

    Returns:
        tuple: Exit status (negative: the signal) and the last line of a failure, ``''`` without one.
    """
    log = os.path.join(folder, 'run.log')
    lock = os.open(os.path.join(folder, 'run.lock'), os.O_CREAT | os.O_RDWR)
    try:
        if not take_lock(lock, LOCK_SECONDS):
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
                pass_fds=(lock,),
                preexec_fn=_die_with(os.getpid()),
            )
            try:
                status = process.wait()
            finally:
                if process.poll() is None:
                    end_group(process)
    finally:
        os.close(lock)
    return status, '' if status == 0 else last_line(log, start, status)


def take_lock(descriptor: int, seconds: float) -> bool:
    """Lock an open file, waiting for so long; a file system without locks counts as locked."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        except OSError:
            return True


def _die_with(parent: int):
    """Make the child die with this process, also by ``kill -9``: nobody else could end it."""
    libc = ctypes.CDLL(None)  # loaded before the fork

    def prepare() -> None:
        libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def end_group(process: subprocess.Popen) -> None:
    """End a process and all it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TERM_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: str, start: int, status: int) -> str:
    """What a failed process said last: its last error, else its last line, else its status."""
    if status < 0:
        return f'killed by signal {-status} ({signal.Signals(-status).name})'
    with open(log, 'rb') as file:
        file.seek(max(start, os.path.getsize(log) - 100_000))
        lines = [line.strip() for line in file.read().decode(errors='replace').splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or [f'exit status {status}'])[-1].removeprefix('error: ')
