"""Write what ``torch.load`` reads, with the disk's own error where it is full."""

import os
from typing import Any, BinaryIO

import torch


def save_content(content: Any, path: str | os.PathLike) -> None:
    """``torch.save`` into a file, without a copy in memory.

    Args:
        content: What to save.
        path: The file. It is not replaced atomically: give a temporary one.

    Raises:
        OSError: The disk is full or the file cannot be written. Torch would raise a ``RuntimeError`` about positions in
            the file.
    """
    with open(path, 'wb') as file:
        disk = _Disk(file)
        try:
            torch.save(content, disk)
        except RuntimeError:
            if disk.error is None:
                raise
            raise disk.error from None


class _Disk:
    """A file that keeps the error of a write."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
