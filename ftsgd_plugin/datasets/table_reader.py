"""Read a user's own data into a :class:`Table`."""

import gc
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

from ..utils.errors import UserError
from ..utils.names import did_you_mean
from .classes import NUMBER
from .path_column import PathColumn
from .readers import read_rows
from .readers.saved import STATE, is_saved
from .readers.trees import Scan, read_tree
from .source import Source
from .splits import is_split, split_name
from .table import Table

_BATCH = 16_384  # rows
_SHARED_TEXTS = 65_536  # different values of a metadata column that are stored once
_MOST_NUMBERED = 1_000_000  # classes of a list without names


class Codes:
    """Texts as numbers in the order of first sight; blanks at their ends are left out."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}  # as written
        self.names: dict[str, int] = {}
        self.values = array('i')

    def extend(self, texts: Sequence[str]) -> None:
        """Append texts."""
        for text in sorted(set(texts) - self.codes.keys()):
            self.codes[text] = self.names.setdefault(text.strip(), len(self.names))
        self.values.extend(map(self.codes.__getitem__, texts))

    def sorted(self, key=None) -> tuple[tuple[str, ...], np.ndarray]:
        """The names in their order, and the values as indices into them."""
        names = sorted(self.names, key=key)
        place = np.empty(len(names), np.int32)
        for i, name in enumerate(names):
            place[self.names[name]] = i
        return tuple(names), place[np.frombuffer(self.values, np.int32)] if self.values else place


def read_table(source: Source) -> Table:
    """Read all rows. The last table is kept, and read again if its files have changed.

    Raises:
        UserError: A file is missing or malformed, an image is listed twice or lies outside ``source.root``, or a label,
            group or split is blank.
    """
    global _last
    if _last is not None and _last[0] == source and _last[1] == _state(source, _last[2].scan):
        return _last[2]
    _last = None  # frees its memory
    scan = Scan()
    before = _state(source, scan)
    with _collector_paused():
        table = _read(source, scan)
    _last = (source, _state(source, scan) if source.tree else before, table)
    return table


_last: tuple[Source, list, Table] | None = None


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No search for circles meanwhile: rows have none, and a million of them would start it again and again (20 s)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _state(source: Source, scan: Scan) -> list:
    """What changes when a file changes: of a tree the times of its directories as they were read."""
    if source.tree:
        return [(path, Path(path).stat().st_mtime_ns if Path(path).is_dir() else None) for path, _ in scan.directories]
    files = [Path(source.root, file) for _, file in source.tables]
    files = [file / STATE if is_saved(str(file)) else file for file in files]
    return [(str(file), file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None for file in files]


def _read(source: Source, scan: Scan) -> Table:
    columns, prefixes, renamed = source.columns, dict(source.images), dict(source.split_names)
    labels, splits, groups = Codes(), Codes(), Codes()
    metadata: list[list[str]] = [[] for _ in columns.metadata]
    shared: list[dict[str, str]] = [{} for _ in columns.metadata]
    images, lines, starts = PathColumn(source.root, source.suffix), array('i'), []
    for split, file in source.tables or [('', '')]:
        starts.append(len(lines))
        place = f'{source.root}/{file}' if file else source.root
        prefix = prefixes.get(split, prefixes.get('', ''))
        rows = read_rows(place, columns) if file else read_tree(source, scan)
        for numbers, (names, kinds, *rest) in _batches(rows):
            lines.extend(numbers)
            images.extend(place, numbers, names, f'{prefix.rstrip("/")}/' if prefix else '')
            labels.extend(kinds)
            if columns.split or split:
                splits.extend(rest.pop(0) if columns.split else [split] * len(names))
            if columns.group:
                groups.extend(rest.pop(0))
            for column, texts, values in zip(metadata, shared, rest):
                if len(texts) < _SHARED_TEXTS:
                    values = map(texts.setdefault, values, values)
                column += values
    paths = images.paths
    if not paths:
        _raise_empty(source)
    table_names = columns.label, columns.split, columns.group
    for codes, name in zip((labels, splits, groups), table_names):
        if '' in codes.names:
            row = int(np.flatnonzero(np.frombuffer(codes.values, np.int32) == codes.names[''])[0])
            number = int(np.searchsorted(starts, row, side='right')) - 1
            file = source.tables[number][1]
            raise UserError(f'{source.root}/{file}:{lines[row]}: {name!r} is blank; fill it in or remove this row.')
    label_names, label_codes = labels.sorted(_label_order(labels.names, source))
    if _is_numbered(source, label_names):  # MMPretrain's lists: the number is the index, named or not
        label_codes = np.array([int(name) for name in label_names], np.int32)[label_codes]
        label_names = tuple(map(str, range(int(label_codes.max()) + 1)))
    group_names, group_codes = groups.sorted() if columns.group else (label_names, label_codes)
    if source.tree and (wrong := next(filter(is_split, (*label_names, *group_names)), None)):
        raise UserError(
            f'{source.root}: tree={source.tree!r} takes {wrong!r}, the name of a split, for a class or domain; correct '
            'tree (recognise(data_root) finds it) or rename the directory.'
        )
    given, split_codes = _name_splits(splits, renamed, source)
    return Table(
        source=source,
        paths=paths,
        label_names=label_names,
        labels=label_codes,
        group_names=group_names,
        groups=group_codes,
        split_names=given,
        splits=split_codes,
        metadata=dict(zip(columns.metadata, metadata)),
        lines=np.frombuffer(lines, np.int32),
        starts=starts,
        respelled=tuple(sorted(text for text in labels.codes if text != text.strip())),
        scan=scan,
    )


def _batches(rows: Iterator[tuple[int, Sequence[str]]]) -> Iterator[tuple[array, list[tuple[str, ...]]]]:
    """Lines and columns of some thousand rows at a time: several times faster than row by row."""
    while batch := list(islice(rows, _BATCH)):
        lines, fields = zip(*batch)
        yield array('i', lines), list(zip(*fields))


def _raise_empty(source: Source) -> None:
    if source.tree:
        raise UserError(
            f'{source.root}: no image in directories {source.tree}; ftsgd_plugin.datasets.recognise(data_root) says '
            'what the directory holds.'
        )
    raise UserError(f'{source.name}: lists no image; restore the file.')


def _label_order(names: Iterable[str], source: Source):
    """Labels that are numbers are in the order of the numbers, directories in that of their names (as torchvision)."""
    numbers = not source.tree and all(map(NUMBER.fullmatch, names))
    return (lambda name: (float(name), name)) if numbers else None


def _is_numbered(source: Source, names: Sequence[str]) -> bool:
    """Whether the labels are numbers of classes: in a list of MMPretrain."""
    lists = [Path(file).suffix.lower() == '.txt' for _, file in source.tables]
    if not any(lists) or not all(name.isascii() and name.isdigit() for name in names):
        return False
    return max(int(name) for name in names) < _MOST_NUMBERED


def _name_splits(splits: Codes, renamed: Mapping[str, str], source: Source) -> tuple[tuple[str, ...], np.ndarray]:
    if not splits.names:
        return (), np.zeros(0, np.int16)
    if unknown := sorted(renamed.keys() - splits.names.keys()):
        raise UserError(
            f'{source.name}: split_names: no split is named {unknown[0]!r}; {did_you_mean(unknown[0], splits.names)}'
        )
    ours = {code: renamed.get(name, split_name(name)) for name, code in splits.names.items()}
    names = sorted(set(ours.values()))
    place = np.array([names.index(ours[code]) for code in range(len(ours))], np.int16)
    return tuple(names), place[np.frombuffer(splits.values, np.int32)]
