"""The user's images as a fine-tuning sees them: recognised, looked through, and as parts of a config."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ..datasets.base import META_KEYS
from ..datasets.layouts import Layout, recognise
from ..datasets.transforms import why_unreadable
from ..utils.errors import UserError
from .options import Options

MOST_LOOKED_AT = 20_000  # images that are decoded before training; of more, that would take longer than it helps
_MOST_LISTED = 5


@dataclass(frozen=True)
class Data:
    """Data with its splits.

    Attributes:
        name: For tables and files.
        layout: What was recognised.
        unreadable: Images that cannot be read, relative to the root, with the reason: left out of every split.
        meta_keys: What the evaluation reads of a sample.
    """

    name: str
    layout: Layout
    unreadable: dict[str, str] = field(default_factory=dict)
    meta_keys: Sequence[str] = META_KEYS

    @property
    def held_out_label(self) -> str:
        """What the numbers of the OOD split are of: ``'held out (sketch)'``, ``'test'``; ``''`` if it is the ID one."""
        if self.layout.held_out:
            return f'held out ({", ".join(self.layout.held_out)})'
        return '' if self.layout.ood == self.layout.id else self.layout.ood

    @property
    def ood_note(self) -> str:
        """What the report's OOD numbers are of."""
        if self.layout.held_out:
            return self.held_out_label
        return f'split {self.layout.ood}, nothing is held out'

    @property
    def validated(self) -> list[str]:
        """The splits that every epoch evaluates."""
        return list(dict.fromkeys([self.layout.id, self.layout.ood]))

    @property
    def tested(self) -> list[str]:
        """The splits that the finished weights are evaluated on."""
        return [*self.validated, *(split for split in self.layout.evaluated if split not in self.validated)]

    def counts(self) -> tuple[int, int, int]:
        """Images that train, that select, and that every epoch evaluates besides."""
        sizes = self.layout.splits
        return (
            sizes[self.layout.train],
            sizes[self.layout.id],
            sum(sizes[split] for split in self.validated if split != self.layout.id),
        )

    def options(self) -> dict:
        """Arguments of the data set that all splits share, ``type`` included."""
        settings = self.layout.dataset(self.layout.train, [])
        del settings['split'], settings['pipeline']
        return settings | ({'exclude': sorted(self.unreadable)} if self.unreadable else {})

    def lines(self) -> list[str]:
        """What was found, for the user."""
        found = str(self.layout).splitlines()
        if self.unreadable:
            found.append(f'  left out, as they cannot be read: {len(self.unreadable)} images')
            listed = list(self.unreadable.items())[:_MOST_LISTED]
            found += [f'    {path}: {reason}' for path, reason in listed]
            if more := len(self.unreadable) - len(listed):
                found.append(f'    and {more} more')
        return found

    def facts(self) -> dict:
        """JSON data that changes when the data does."""
        layout = self.layout
        return {'root': layout.data_root, 'fingerprint': layout.fingerprint, 'splits': layout.splits}


def find_data(options: Options, unreadable: dict[str, str] | None = None) -> Data:
    """Recognise the data of a user and look through its images.

    Args:
        options: Path, columns, what is held out and drawn.
        unreadable: What an earlier call has found; ``None``: look.

    Raises:
        UserError: There is no data, it has a problem, or no image of a split can be read.
    """
    path = Path(options.data).expanduser().absolute()
    layout = recognise(
        path,
        options.hold_out,
        columns=options.columns(),
        split_names=dict(options.split_names),
        whole=options.whole,
        **_fractions(options.split_fractions),
        seed=options.seed,
    )
    layout.check()
    if layout.id not in layout.splits:
        raise UserError(f'{path}: has no split {layout.id!r} to select by; give it a share with --split-fractions.')
    if unreadable is None:
        unreadable = look_through(layout)
    return Data(path.stem if path.is_file() else path.name, layout, unreadable)


def look_through(layout: Layout, most: int = MOST_LOOKED_AT, workers: int | None = None) -> dict[str, str]:
    """Decode every image.

    Args:
        layout: What was recognised.
        most: Of more images none is decoded.
        workers: Threads. Default: one per core.

    Returns:
        dict: Path relative to the root -> why it cannot be read, in the order of the data.
    """
    paths = layout.table.paths
    if len(paths) > most:
        return {}
    places = [os.path.join(layout.data_root, path) for path in paths]
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        reasons = pool.map(why_unreadable, places)
        reasons = tqdm(reasons, total=len(paths), desc='reading images', unit='image', leave=False, disable=None)
        return {path: reason for path, reason in zip(paths, reasons) if reason is not None}


def _fractions(fractions: Sequence[float] | None) -> dict[str, float]:
    """``(train, val)`` or ``(train, val, test)`` as arguments of ``recognise``."""
    if fractions is None:
        return {}
    if len(fractions) not in (2, 3) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or not fractions[0]:
        shown = ' '.join(f'{value:g}' for value in fractions)
        raise UserError(
            f'--split-fractions {shown}: give two or three shares that add up to 1, for training, validation and test, '
            'e.g. 0.8 0.1 0.1.'
        )
    return {'val': fractions[1], 'test': fractions[2] if len(fractions) == 3 else 0.0}
