"""A user's own images, with classes, splits and groups."""

import os
import os.path as osp
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from mmpretrain.registry import DATASETS

from ..utils.errors import UserError, one_line
from ..utils.names import did_you_mean
from .base import BenchmarkDataset, level_hint
from .classes import class_indices
from .readers.saved import is_saved
from .source import parse_source
from .splits import Draw, parse_draw
from .table import Table
from .table_reader import read_table


class Records(Sequence):
    """The records of a split, made when they are asked for: a million dictionaries would take a gigabyte."""

    def __init__(self, table: Table, rows: np.ndarray, labels: np.ndarray) -> None:
        self.table, self.rows, self.labels = table, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        rows = self.rows[index] if isinstance(index, slice) else self.rows[index : index + 1 or None]
        records = list(self._records(rows))
        return records if isinstance(index, slice) else records[0]

    def __iter__(self) -> Iterator[dict]:
        return self._records(self.rows)

    def _records(self, rows: np.ndarray) -> Iterator[dict]:
        table = self.table
        names = ('img_path', 'gt_label', 'group', *table.metadata)
        columns = [table.paths, *table.metadata.values()]
        texts = [column if len(rows) == len(table) else map(column.__getitem__, rows.tolist()) for column in columns]
        groups = map(table.group_names.__getitem__, table.groups[rows].tolist())
        return (dict(zip(names, row)) for row in zip(texts[0], self.labels[rows].tolist(), groups, *texts[1:]))


@DATASETS.register_module()
class GroupedImages(BenchmarkDataset):
    """A user's own images: a table (CSV, TSV, JSON lines, Parquet, MMPretrain's lists, saved by ``datasets``) or
    directories.

    The classes are the union over all splits, in the order of their names: a class that a split lacks keeps its label.
    Splits are given by the data, held out by group, or drawn; what is drawn depends on the names of the images, their
    classes and groups, and the seed alone. :func:`ftsgd_plugin.datasets.recognise` writes these options.

    Records: ``img_path``, ``gt_label``, ``split``, ``group`` (of data without groups the name of the class), and the
    columns that ``columns.metadata`` names, as text.

    Args:
        data_root (str): The directory that every path is relative to.
        split (str): ``'train'``, ``'val'``, ``'test'``, ``'ood'`` (what is held out), or another name in the data.
            Other spellings (``valid``, ``dev``, ``training``) have these names here.
        table (str | dict): The table, or one per split (``dict(train='train.csv', test='test.csv')``); of a saved data
            set the directory, ``'.'``.
        tree (str): Instead of a table, the order of the directories: ``'class'``, ``'split/class'``,
            ``'domain/class'``, ``'split/domain/class'`` or ``'domain/split/class'``. The domain is the group.
        columns (dict): Names of the table's columns: ``path`` and ``label`` (these are the defaults), ``split``,
            ``group``, and a list ``metadata``.
        images (str | dict): Directory in ``data_root`` that the paths of the table are relative to, or one per split.
        suffix (str): Added to the paths, e.g. ``'.jpg'`` where the column holds identifiers.
        split_names (dict): Names of splits in the data and here, e.g. ``{'0': 'train', '1': 'val'}``.
        hold_out (Sequence[str]): Groups that are kept for split ``'ood'``.
        draw (dict): ``dict(val=0.1, test=0.1, seed=0, whole='')``: the fractions that are drawn from split ``'train'``,
            or from all images if no split is given. Stratified by class and group; ``whole`` names a field
            (``'group'`` or of the metadata, e.g. ``'patient'``) whose values are not separated.
        classes (Sequence[str]): Names in the order of the model's outputs; another label is an error. Labels may be
            their numbers. Defaults to the labels that occur.
        min_per_class (int): A class with fewer images (in all splits) is an error.
        exclude (Sequence[str]): Paths, as in the data, of images that are left out of every split, such as unreadable
            ones. What is drawn does not depend on it.
        fingerprint (str): The data's ``Layout.fingerprint``; other data is an error.
        **kwargs: See :class:`BenchmarkDataset`.

    Examples:
        >>> dataset = dict(type='GroupedImages', data_root='data/pacs', tree='domain/class', hold_out=['sketch'],
        >>>                draw=dict(val=0.1, test=0.1, seed=0), split='train', pipeline=pipeline)
    """

    SOURCE = 'your own images'

    def __init__(
        self,
        data_root: str,
        split: str,
        table: str | Mapping[str, str] = '',
        tree: str = '',
        columns: Mapping | None = None,
        images: str | Mapping[str, str] = '',
        suffix: str = '',
        split_names: Mapping[str, str] | None = None,
        hold_out: Sequence[str] = (),
        draw: Mapping | None = None,
        classes: Sequence[str] | None = None,
        min_per_class: int = 2,
        fingerprint: str = '',
        exclude: Sequence[str] = (),
        **kwargs,
    ) -> None:
        if not isinstance(split, str) or not split:
            raise UserError(f'GroupedImages: split={split!r} is not the name of a split.')
        if isinstance(hold_out, str) or not all(isinstance(name, str) for name in hold_out):
            raise UserError(f'GroupedImages: hold_out={hold_out!r} is not a list of groups.')
        root = osp.expanduser(str(data_root)) if isinstance(data_root, str | os.PathLike) else ''
        self.source = parse_source(root, table, tree, columns, images, suffix, split_names)
        self.hold_out, self.draw = tuple(hold_out), parse_draw(draw)
        self.min_per_class, self.fingerprint = min_per_class, fingerprint
        if isinstance(exclude, str) or not all(isinstance(path, str) for path in exclude):
            raise UserError(f'GroupedImages: exclude={one_line(repr(exclude), limit=60)} is not a list of paths.')
        self.exclude = frozenset(exclude)
        if classes is not None:
            if not isinstance(classes, str):  # a string is the file of MMPretrain's option
                self._check_names('classes', classes, ())
            kwargs['classes'] = classes
        super().__init__(data_root, split, **{'ann_file': self.source.name, **kwargs})

    OTHER_NAMES = True

    def check_root(self) -> None:
        """Raise a :class:`UserError` unless the directory and the tables exist."""
        if not osp.isdir(self.data_root):
            raise UserError(f'{self.data_root}: no such directory; set data_root to the directory of the data.')
        for _, file in self.source.tables:
            path = osp.join(self.data_root, file)
            if not osp.isfile(path) and not is_saved(path):
                hint = level_hint(self.data_root, lambda directory: (directory / file).is_file())  # noqa: B023
                raise UserError(f'{self.data_root}/{file}: not found; {hint or "correct table or data_root"}')

    def read_records(self) -> Records:
        """The records of this split."""
        table = read_table(self.source)
        if self.fingerprint and table.fingerprint != self.fingerprint:
            raise UserError(
                f'{self.source.name}: the data has changed since the config was written: fingerprint '
                f'{table.fingerprint}, there {one_line(self.fingerprint, limit=60)} (number of images and hash); write '
                'the config again, or remove fingerprint from it.'
            )
        names, places = class_indices(table, self.metainfo.get('classes'))
        self._metainfo['classes'] = names
        self._check_class_sizes(table)
        rows = self._rows(table)
        return Records(table, rows, places[table.labels])

    def _check_class_sizes(self, table: Table) -> None:
        counts = np.bincount(table.labels, minlength=len(table.label_names))
        for code in np.flatnonzero((counts > 0) & (counts < self.min_per_class)):
            row = int(np.flatnonzero(table.labels == code)[0])
            number = f'{counts[code]} image' + 's' * bool(counts[code] > 1)
            raise UserError(
                f'{table.place(row)}: class {table.label_names[code]!r} has {number}; add images, leave the class out, '
                f'or set min_per_class={counts[code]}.'
            )

    def _rows(self, table: Table) -> np.ndarray:
        """The rows of this split."""
        names, splits = assigned(table, self.hold_out, self.draw)
        if self.split in names and len(rows := np.flatnonzero(splits == names.index(self.split))):
            return self._without_excluded(table, rows)
        found = [name for i, name in enumerate(names) if (splits == i).any()]
        raise UserError(f'{self.source.name}: split {self.split!r} has no image; {did_you_mean(self.split, found)}')

    def _without_excluded(self, table: Table, rows: np.ndarray) -> np.ndarray:
        if not self.exclude:
            return rows
        kept = rows[[table.paths[row] not in self.exclude for row in rows.tolist()]]
        if not len(kept):
            raise UserError(f'{self.source.name}: every image of split {self.split!r} is in exclude; shorten the list.')
        return kept

    @property
    def bad_image_remedy(self) -> str:
        """The end of the message about an image that cannot be loaded."""
        return '; restore or remove the file.' if self.source.tree else super().bad_image_remedy


def assigned(table: Table, hold_out: tuple[str, ...], draw: Draw | None) -> tuple[tuple[str, ...], np.ndarray]:
    """:meth:`Table.assign`, computed once for all splits of a data set."""
    global _assigned
    if _assigned is None or _assigned[0] is not table or _assigned[1] != (hold_out, draw):
        _assigned = (table, (hold_out, draw), table.assign(hold_out, draw))
    return _assigned[2]


_assigned: tuple | None = None
