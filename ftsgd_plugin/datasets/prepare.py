"""Check the data of a benchmark: which images are listed, which are missing, and which cannot be decoded."""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

from mmengine.logging import MMLogger

from ..utils.errors import UserError
from .base import BenchmarkDataset
from .camelyon17 import Camelyon17
from .domainnet import DomainNet
from .fmow import FMoW
from .living17 import Living17
from .scanning import report_undecodable
from .waterbirds import Waterbirds

# Name in configs -> data set.
BENCHMARKS: dict[str, type[BenchmarkDataset]] = {
    'living17': Living17,
    'waterbirds': Waterbirds,
    'domainnet': DomainNet,
    'fmow': FMoW,
    'camelyon': Camelyon17,
}
# What data_root holds where it is more than one metadata file.
_CONTENT = {'living17': 'train/ and val/', 'domainnet': 'the domains and their lists'}


@dataclass
class SplitCheck:
    """The files of a split.

    Attributes:
        split: Its name.
        published: Published number of images.
        listed: Number of images in the metadata; ``None`` if the metadata cannot be read.
        present: Paths of the listed images that exist.
        note: What is wrong with the split; empty if nothing is.
    """

    split: str
    published: int | None
    listed: int | None = None
    present: list[str] = field(default_factory=list)
    note: str = ''

    @property
    def is_complete(self) -> bool:
        """Whether the metadata can be read and every listed image exists."""
        return self.listed is not None and len(self.present) == self.listed


def check_benchmark(
    name: str,
    root: str | os.PathLike,
    scan: bool = False,
    workers: int | None = None,
    bad_list: str | os.PathLike | None = None,
) -> bool:
    """Print a table of the benchmark's splits, and optionally decode every image. Nothing is changed in ``root``.

    Args:
        name: A key of :data:`BENCHMARKS`.
        root: Its ``data_root``.
        scan: Decode every image.
        workers: Processes for ``scan``. Default: one per core.
        bad_list: File for the images that cannot be decoded. Default: ``bad_images_NAME.txt``.

    Returns:
        bool: Whether every listed image exists and, with ``scan``, can be decoded. Sizes that differ from the published
        ones are only noted.

    Raises:
        UserError: No split can be read, all for the same reason.
    """
    kind, root = BENCHMARKS[name], os.path.abspath(os.path.expanduser(root))
    print(f'{kind.__name__}\n  source:  {kind.SOURCE}\n  licence: {kind.LICENCE}\n  on disk: {kind.DISK}')
    print(f'  place:   {root}, holding {kind.METADATA or _CONTENT[name]}\n')
    _names_in.cache_clear()  # files may have changed since an earlier call
    with _errors_only():  # the table contains the warnings
        checks = [check_split(kind, root, split) for split in kind.SPLITS]
    if len({check.note for check in checks}) == 1 and checks[0].listed is None:
        raise UserError(checks[0].note)  # the same for every split: the root is wrong or empty
    _print_table(checks)
    complete = all(check.is_complete for check in checks)
    if scan:
        paths = list(dict.fromkeys(path for check in checks for path in check.present))
        complete = report_undecodable(name, paths, workers, bad_list) and complete
    return complete


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """Silence warnings of the data sets."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_split(kind: type[BenchmarkDataset], root: str, split: str) -> SplitCheck:
    """Compare the images that a split lists with the files on disk."""
    check = SplitCheck(split, kind.PUBLISHED.get(split))
    try:
        dataset = kind(data_root=root, split=split)
    except UserError as error:
        check.note = str(error)
        return check
    paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
    missing = [path for path in paths if not _exists(path)]
    check.listed = len(paths)
    check.present = [path for path in paths if _exists(path)]
    if missing:
        check.note = f'{len(missing):,} missing, e.g. {missing[0]}'
    elif len(paths) != check.published:
        check.note = 'warning: not the published size'
    return check


def _exists(path: str) -> bool:
    """Look up the name in a cached listing: far fewer system calls than one ``stat`` per image."""
    return os.path.basename(path) in _names_in(os.path.dirname(path))


@cache
def _names_in(directory: str) -> frozenset[str]:
    """File names in a directory; empty if the directory is missing."""
    try:
        return frozenset(os.listdir(directory))
    except OSError:
        return frozenset()


def _print_table(checks: Iterable[SplitCheck]) -> None:
    """Print the number of images listed, published and found of every split, and its note."""
    print(f'{"split":<14}{"listed":>10}{"published":>12}{"found":>10}')
    for check in checks:
        found = None if check.listed is None else len(check.present)
        cells = ['-' if count is None else f'{count:,}' for count in (check.listed, check.published, found)]
        print(f'{check.split:<14}{cells[0]:>10}{cells[1]:>12}{cells[2]:>10}  {check.note}'.rstrip())
