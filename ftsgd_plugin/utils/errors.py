"""The exception for mistakes that a user can fix, and the parts that its messages share."""

import os
from pathlib import Path


class UserError(ValueError):
    """Input that only the user can fix: a file, a config key, an option.

    The message is a single line that names the file, row or key, says what is wrong and how to put it right.
    The programs in ``tools/`` print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


class DivergedError(UserError):
    """Training or its evaluation has met a number that is not finite; the record of the run says ``diverged``."""


def one_line(error: BaseException | str, *, first: bool = False, limit: int | None = None) -> str:
    """The text of an exception as one line, to be quoted in a message.

    Args:
        error: An exception, or its text.
        first: Use the first line only, for libraries that append details or advice.
        limit: Longest text in characters; the rest is cut off.

    Returns:
        str: The text with single spaces; the name of the exception's type if it has no text.
    """
    text = str(error).partition('\n')[0] if first else str(error)
    return ' '.join(text.split())[:limit] or ('' if isinstance(error, str) else type(error).__name__)


def check_parent(path: str | os.PathLike, label: str | None = None) -> None:
    """Find that a file cannot be written before the work that it is to hold.

    Args:
        path: The file.
        label: How messages name it, e.g. ``'--out answer.json'``. Defaults to the path.

    Raises:
        UserError: Its directory does not exist.
    """
    if not Path(path).absolute().parent.is_dir():
        raise UserError(f'{label or path}: its directory does not exist; create it first.')
