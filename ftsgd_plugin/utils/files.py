"""Writing files atomically: a reader sees the old file or the new one, never a part of it."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, remedy: str = 'make room or choose another directory') -> Iterator[Path]:
    """Write a file under a temporary name in the same directory and rename it at the end.

    If the block fails, the process is killed, or the power goes, an earlier file of that name is untouched. The
    temporary file (``.NAME.tmp``) is removed on failure; one that a kill leaves behind is overwritten by the next
    attempt.

    Args:
        path: The file. Its directory is created if it is missing.
        remedy: What the user can do, for the message.

    Yields:
        Path: The temporary file to write to.

    Raises:
        UserError: The disk is full, or the directory cannot be created or written.

    Examples:
        >>> with atomic_write('figure.png') as temporary:
        >>>     figure.savefig(temporary, format='png')
    """
    path = Path(path)
    temporary = path.with_name(temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error}); {remedy}.') from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Fill a directory under a temporary name beside it (``.NAME.tmp``) and rename it at the end.

    If the block fails, nothing is left behind.

    Args:
        path: The directory; it must not exist. The one above it is created if it is missing.

    Yields:
        Path: The temporary directory, empty.

    Raises:
        UserError: It exists, or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f'{path}: exists; remove it or name another directory.')
    temporary = path.with_name(temporary_name(path.name))
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of an attempt that was killed
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob('*'):
            if file.is_file():
                with open(file, 'rb') as opened:
                    os.fsync(opened.fileno())
        os.rename(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise UserError(
            f'{path}: cannot be written ({error.strerror or error}); make room or choose another directory.'
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_directory(path: str | os.PathLike) -> None:
    """Write a directory's entries to the disk: before that a rename can be lost with the power.

    Does nothing where directories cannot be opened (Windows) or synchronised (some network file systems).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike, text: str, **options) -> Path:
    """Write UTF-8 text by :func:`atomic_write`, which takes the ``options``; returns the path."""
    return write_bytes(path, text.encode('utf-8'), **options)


def write_bytes(path: str | os.PathLike, content: bytes, **options) -> Path:
    """Write bytes by :func:`atomic_write`, which takes the ``options``; returns the path."""
    with atomic_write(path, **options) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def temporary_name(name: str) -> str:
    """Name of a file while :func:`atomic_write` writes it; a pattern gives a pattern."""
    return f'.{name}.tmp'


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
