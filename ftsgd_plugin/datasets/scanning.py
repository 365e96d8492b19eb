"""Look at every image of a data set, in several processes and with progress."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from ..utils.errors import UserError
from ..utils.files import write_bytes
from .transforms import why_unreadable

T = TypeVar('T')


def map_images(function: Callable[[str], T], paths: Sequence[str], workers: int, task: str) -> Iterator[T]:
    """Apply a function to every image, in the order of the paths.

    Args:
        function: Of a module, so that other processes can import it.
        paths: The files.
        workers: Processes; with 1 everything is done in this one.
        task: What the progress bar says.

    Raises:
        UserError: A process was killed.
    """
    with contextlib.ExitStack() as stack:
        results = map(function, paths)
        if workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(workers, get_context('spawn')))
            results = pool.map(function, paths, chunksize=64)
        try:
            yield from tqdm(results, total=len(paths), desc=task, unit='img')
        except BrokenProcessPool:
            raise UserError('--workers: a process was killed, probably for lack of memory; use fewer.') from None


def report_undecodable(
    name: str, paths: Sequence[str], workers: int | None = None, bad_list: str | os.PathLike | None = None
) -> bool:
    """Decode images, print how many cannot be used and list them in a file; return whether all can.

    Args:
        name: Name of the data, for the file.
        paths: The images.
        workers: Processes. Default: one per core.
        bad_list: The file. Default: ``bad_images_NAME.txt``.
    """
    reasons = map_images(why_unreadable, paths, workers or os.cpu_count() or 1, 'decoding')
    bad = [(path, reason) for path, reason in zip(paths, reasons) if reason is not None]
    report_unreadable(bad, len(paths), Path(bad_list or f'bad_images_{name}.txt'))
    return not bad


def report_unreadable(bad: Sequence[tuple[str, str]], count: int, report: Path) -> None:
    """Print how many of ``count`` images cannot be used, and list them, a path and a reason per line, in a file."""
    if not bad:
        print(f'all {count:,} images can be decoded')
        return
    lines = ''.join(f'{path}\t{reason}\n' for path, reason in bad)  # a name need not be UTF-8
    write_bytes(report, lines.encode('utf-8', 'surrogateescape'), remedy='name another with --bad-list')
    print(f'{len(bad):,} of {count:,} images cannot be used; listed in {report}')
