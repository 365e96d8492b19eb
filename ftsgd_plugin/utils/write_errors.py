"""Failures to write: which file it was, and the one line about it."""

import contextlib
import errno
import io
import os
import stat
import sys
import traceback

# A disk or a quota is full, a file system is or became read-only, a file is too large, a disk is broken.
_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


def is_write_failure(error: BaseException | None) -> bool:
    """Whether a file could not be written for lack of room, for rights of the file system or for a broken disk."""
    return isinstance(error, OSError) and error.errno in _FAILURES


def write_failure(error: BaseException) -> str | None:
    """Explain an ``OSError`` of a write; ``None`` for any other exception.

    The errors of ``write`` and ``close`` name no file, unlike those of ``open``. It is then the innermost open file
    among the local variables of the traceback; without one it is the standard output, if that is a file.
    """
    if not is_write_failure(error):
        return None
    file = error.filename or _open_file(error) or _stdout_file()
    return None if file is None else cannot_write(file, error)


def cannot_write(file: str | os.PathLike, error: OSError) -> str:
    """The line about a file that cannot be written."""
    reason = error.strerror or error
    return f'{os.fspath(file)}: cannot be written ({reason}); make room or choose another directory.'


def _open_file(error: BaseException) -> str | None:
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        for value in frame.f_locals.values():
            name = getattr(value, 'name', None) if isinstance(value, io.IOBase) else None
            if isinstance(name, (str, os.PathLike)) and not str(name).startswith('<'):  # <stdout>
                return os.fspath(name)
    return None


def _stdout_file() -> str | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        kind = os.fstat(sys.stdout.fileno()).st_mode
        if stat.S_ISREG(kind) or (stat.S_ISCHR(kind) and not sys.stdout.isatty()):
            return 'standard output'
    return None


def stdout_is_broken() -> bool:
    """Whether the standard output can no longer be written."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def discard_stdout() -> None:
    """Let what is still to be written go nowhere: the interpreter would fail on it once more at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
