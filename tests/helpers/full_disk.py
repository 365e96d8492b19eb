"""Let one file be on a full disk: the kernel refuses what is written into it (``/dev/full``)."""

import builtins
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from unittest import mock


@contextmanager
def full_disk(pattern: str) -> Iterator[list[str]]:
    """Within the block, files whose name (or temporary name) matches can be opened and not written.

    Yields:
        list: The paths that were opened.
    """
    hit, original = [], builtins.open

    def open_on_full_disk(file, mode='r', *args, **kwargs):
        opened = original(file, mode, *args, **kwargs)
        if isinstance(file, (str, os.PathLike)) and set(mode) & set('wax+'):
            name = Path(file).name
            name = name[1 : -len('.tmp')] if name.startswith('.') and name.endswith('.tmp') else name
            if fnmatch(name, pattern):
                hit.append(os.fspath(file))
                full = os.open('/dev/full', os.O_WRONLY)
                os.dup2(full, opened.fileno())
                os.close(full)
        return opened

    with mock.patch.object(builtins, 'open', open_on_full_disk), mock.patch.object(io, 'open', open_on_full_disk):
        yield hit
