"""Locks on files: one process at a time writes into a directory."""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import filelock

from .errors import UserError

LOCK = 'train.lock'
_WORKERS_SECONDS = 10.0  # data workers notice within 5 s that their process was killed; until then they hold its lock


@contextlib.contextmanager
def hold_lock(path: str | os.PathLike, seconds: float) -> Iterator[int]:
    """Hold a lock file; the kernel releases it when this process ends, however it ends.

    The lock is the kernel's (``flock``) on an open file, so a file that was left behind locks nothing. In a file system
    without such locks the block runs unprotected.

    Args:
        path: The lock file, created if it is missing.
        seconds: How long to wait for another holder.

    Yields:
        int: The descriptor. A process that inherits it holds the lock too.

    Raises:
        filelock.Timeout: Another process still holds it.
    """
    # Not FileLock: it lends no descriptor, and without flock it takes the existence of the file for a lock.
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        deadline = time.monotonic() + seconds
        while try_lock(descriptor) is False:
            if time.monotonic() > deadline:
                raise filelock.Timeout(os.fspath(path))
            time.sleep(0.2)
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file without waiting: whether it is locked now, ``None`` where the file system has no locks."""
    try:
        return filelock.lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        return None


@contextlib.contextmanager
def lock_directory(directory: str | os.PathLike) -> Iterator[None]:
    """Keep other trainings out of a work directory, by its file ``train.lock``, which names the holder.

    The kernel releases the lock with the last process that has it open, so the file of a killed run locks nothing. In
    a file system without locks (some NFS and Lustre mounts) the file itself is the lock: one of a dead process of this
    machine is taken over, one of another machine is not.

    Args:
        directory: Created if it is missing.

    Raises:
        UserError: Another process holds it, or the file cannot be written.
    """
    directory = Path(directory)
    created = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    descriptor = _acquire(path, directory)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)
        if created:
            with contextlib.suppress(OSError):  # not empty, as a rule
                directory.rmdir()


def _acquire(path: Path, directory: Path) -> int:
    deadline = time.monotonic() + _WORKERS_SECONDS
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            locked, holder = try_lock(descriptor), _Holder.read(descriptor)
            taken = holder is not None and holder.may_live() if locked is None else not locked
            if not taken and _is(descriptor, path):
                _Holder.write(descriptor)
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise UserError(
                f'{path}: cannot be written ({error.strerror or error}); make room or choose another work_dir.'
            ) from error
        os.close(descriptor)
        if taken and (holder is None or holder.may_live() or time.monotonic() > deadline):
            remedy = f', or remove {path} if that process has ended' if locked is None else ''
            raise UserError(
                f'{directory}: {holder or "another process"} trains there; wait for it, end it, choose another '
                f'--work-dir{remedy}.'
            )
        time.sleep(0.2 if taken else 0)


class _Holder:
    """Who holds a lock: process, machine and since when."""

    def __init__(self, pid: int, host: str, since: str) -> None:
        self.pid, self.host, self.since = pid, host, since

    def __str__(self) -> str:
        return f'process {self.pid} on {self.host} (since {self.since})'

    @classmethod
    def read(cls, descriptor: int) -> '_Holder | None':
        words = os.pread(descriptor, 1000, 0).decode(errors='replace').split()
        return cls(int(words[0]), words[1], words[2]) if len(words) == 3 and words[0].isdigit() else None

    @staticmethod
    def write(descriptor: int) -> None:
        since = datetime.now(timezone.utc).isoformat(timespec='seconds')
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f'{os.getpid()} {socket.gethostname()} {since}\n'.encode(), 0)

    def may_live(self) -> bool:
        """Whether the process exists, as far as this machine can tell; not this process, which asks."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return self.pid != os.getpid()


def _is(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one of that name: the holder before may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
