"""A user's own data in columns: what all its splits have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

import numpy as np

from ..utils.errors import UserError, one_line
from ..utils.names import did_you_mean
from .readers.trees import Scan
from .source import Source
from .splits import OOD, TRAIN, Draw, draw_splits


@dataclass
class Table:
    """All images of the data, in the order of the files.

    Attributes:
        source: Where it is from.
        paths: Paths relative to ``source.root`` (N).
        label_names, labels: Names of the classes, and (N,) int32 indices into them.
        group_names, groups: The same for the groups: the classes, if the data has no groups.
        split_names, splits: The same for the given splits; no names if the data has none.
        metadata: Further columns (N each).
        lines: (N,) lines in the tables; of a tree 0.
        starts: Row at which each table starts.
        respelled: Labels with blanks at their ends, as written.
        scan: What else a tree holds.
    """

    source: Source
    paths: list[str]
    label_names: tuple[str, ...]
    labels: np.ndarray
    group_names: tuple[str, ...]
    groups: np.ndarray
    split_names: tuple[str, ...]
    splits: np.ndarray
    metadata: dict[str, list[str]]
    lines: np.ndarray
    starts: list[int]
    respelled: tuple[str, ...]
    scan: Scan = field(default_factory=Scan)

    def __len__(self) -> int:
        return len(self.paths)

    def place(self, row: int) -> str:
        """``labels.csv:12`` or, of a tree, the image, for messages."""
        if self.source.tree:
            return f'{self.source.root}/{self.paths[row]}'
        number = int(np.searchsorted(self.starts, row, side='right')) - 1
        return f'{self.source.root}/{self.source.tables[number][1]}:{self.lines[row]}'

    def values(self, name: str) -> tuple[tuple[str, ...], np.ndarray]:
        """A field as names in their order and (N,) indices into them.

        Args:
            name: ``'group'`` or a column of the metadata.

        Raises:
            UserError: There is no such field.
        """
        if name in ('group', self.source.columns.group):
            return self.group_names, self.groups
        if name not in self.metadata:
            known = ['group', *self.metadata]
            raise UserError(f'GroupedImages: {name!r} is not a field of the data; {did_you_mean(name, known)}')
        names = sorted(set(self.metadata[name]))
        place = {text: code for code, text in enumerate(names)}
        return tuple(names), np.fromiter(map(place.__getitem__, self.metadata[name]), np.int32, len(self))

    @cached_property
    def fingerprint(self) -> str:
        """Number of images and a hash of paths, labels, splits, groups and metadata, whatever their order."""
        total = 0
        splits = [self.split_names[code] for code in self.splits] if self.split_names else [''] * len(self)
        labels = [self.label_names[code] for code in self.labels]
        groups = [self.group_names[code] for code in self.groups]
        for row in zip(self.paths, labels, splits, groups, *self.metadata.values()):
            text = '\0'.join(row).encode('utf-8', 'surrogateescape')
            total += int.from_bytes(blake2b(text, digest_size=8).digest(), 'big')
        return f'{len(self)}-{total % 2**64:016x}'

    def assign(self, hold_out: Sequence[str], draw: Draw | None) -> tuple[tuple[str, ...], np.ndarray]:
        """The split of every image: given, held out, or drawn.

        Args:
            hold_out: Groups whose images all belong to split ``'ood'``.
            draw: How ``val`` and ``test`` are drawn from the other images, or from those of the given ``'train'``.

        Returns:
            tuple: Names of the splits, and (N,) int16 indices into them.

        Raises:
            UserError: A held-out group does not exist or nothing else is left, a split to be drawn is given already, or
                nothing says what the splits are.
        """
        names = list(self.split_names) or [TRAIN]
        splits = (self.splits if self.split_names else np.zeros(len(self))).astype(np.int16)
        if hold_out:
            if not self.source.columns.group:
                raise UserError(
                    f"{self.source.name}: hold_out needs groups; name their column with columns=dict(group='...')."
                )
            held = np.isin(self.groups, [self._group(name) for name in hold_out])
            if held.all():
                raise UserError(f'{self.source.name}: every group is held out; leave one to train on.')
            splits[held] = _code(names, OOD)
        elif not self.split_names and draw is None:
            raise UserError(
                f'{self.source.name}: nothing says which images are for training; set draw=dict(val=0.1, test=0.1, '
                "seed=0), or name the column with columns=dict(split='...')."
            )
        if draw is not None:
            if taken := [name for name in draw.names[1:] if name in self.split_names]:
                raise UserError(
                    f'{self.source.name}: has a split {taken[0]!r}; remove {taken[0]} from draw, or the split from '
                    'columns.'
                )
            self._draw(names, splits, draw)
        return tuple(names), splits

    def _draw(self, names: list[str], splits: np.ndarray, draw: Draw) -> None:
        rows = np.flatnonzero(splits == names.index(TRAIN)) if TRAIN in names else []
        if not len(rows):
            first = names[0] if names else 'NAME'
            found = one_line(', '.join(names) or 'none', limit=80)
            raise UserError(
                f"{self.source.name}: split 'train', from which to draw, has no image (splits: {found}); say which one "
                f"it is: split_names={{{first!r}: 'train'}}."
            )
        whole = self.values(draw.whole)[1][rows] if draw.whole else None
        paths = self.paths if len(rows) == len(self) else [self.paths[row] for row in rows]
        drawn = draw_splits(paths, self.labels[rows], self.groups[rows], draw, whole)
        codes = np.array([_code(names, name) if name in draw.names else 0 for name in (TRAIN, 'val', 'test')])
        splits[rows] = codes[drawn]

    def _group(self, name: str) -> int:
        if name not in self.group_names:
            raise UserError(
                f'{self.source.name}: hold_out={one_line(repr(name), limit=60)} is not a group of the data; '
                f'{did_you_mean(str(name), self.group_names)}'
            )
        return self.group_names.index(name)


def _code(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)
