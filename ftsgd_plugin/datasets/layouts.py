"""Recognise how a user's own images are laid out, and write the options of ``GroupedImages`` that read them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..utils.errors import UserError, one_line
from ..utils.format import printable
from ..utils.names import did_you_mean
from .classes import alike, class_indices
from .find_tables import find_table
from .find_trees import find_tree
from .source import parse_source
from .splits import OOD, TEST, TRAIN, VAL, parse_draw
from .table import Table
from .table_reader import read_table
from .whole import separated, whole_field

VAL_FRACTION, TEST_FRACTION = 0.1, 0.1


@dataclass(frozen=True)
class Layout:
    """What a directory of images holds, and how it is read. ``print(layout)`` says it.

    Attributes:
        data_root: The directory that every path is relative to.
        options: Arguments of ``GroupedImages`` apart from ``split`` and ``pipeline``.
        classes: Names of the classes of all splits, in the order of the labels.
        domains: Names of the groups; empty if the data has none.
        held_out: The groups of split ``'ood'``.
        splits: Number of images of every split.
        counts: ``(split, class, group)`` -> number of images; the group is empty if the data has none.
        notes: What was found and decided, a line each.
        problems: What must be put right before training, a line each.
        fingerprint: Hash of paths, labels, splits, groups and metadata.
        table: The rows.
    """

    data_root: str
    options: dict
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    held_out: tuple[str, ...]
    splits: dict[str, int]
    counts: Counter = field(repr=False)
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    fingerprint: str
    table: Table = field(repr=False, compare=False)

    @property
    def train(self) -> str:
        """The split to train on."""
        return TRAIN

    @property
    def id(self) -> str:
        """The split that selects: ``'val'``."""
        return VAL

    @property
    def ood(self) -> str:
        """The split that is only reported: what is held out, else ``'test'``, else ``'val'``."""
        return next(name for name in (OOD, TEST, VAL, TRAIN) if name in self.splits)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Every split but the one to train on: the parts of the concatenated evaluation data set."""
        return tuple(name for name in self.splits if name != TRAIN)

    def dataset(self, split: str, pipeline: Sequence[dict], **options) -> dict:
        """The config of a data set.

        Args:
            split: A key of ``splits``.
            pipeline: Its transforms.
            **options: Further arguments, e.g. ``test_mode=True``.

        Raises:
            UserError: The data has a problem, or no such split.
        """
        self.check()
        if split not in self.splits:
            raise UserError(f'{self.data_root}: has no split {split!r}; {did_you_mean(split, self.splits)}')
        return dict(
            type='GroupedImages',
            data_root=self.data_root,
            split=split,
            **self.options,
            classes=list(self.classes),
            fingerprint=self.fingerprint,
            pipeline=list(pipeline),
            **options,
        )

    def check(self) -> None:
        """Raise the first of the problems as a :class:`UserError`."""
        if self.problems:
            more = f' ({len(self.problems) - 1} more problems)' if len(self.problems) > 1 else ''
            raise UserError(self.problems[0] + more)

    def __str__(self) -> str:
        width = max(len(name) for name in ('images', *self.splits)) + 2
        lines = [f'{self.data_root}: {len(self.table):,} images of {len(self.classes):,} classes']
        shown = ', '.join(self.classes[:8]) + (', ...' if len(self.classes) > 8 else '')
        lines.append(f'  classes: {shown}')
        if self.domains:
            shown = ', '.join(self.domains[:8]) + (', ...' if len(self.domains) > 8 else '')
            lines.append(f'  groups ({len(self.domains):,}): {shown}')
        for name, count in self.splits.items():
            held = f'  (held out: {", ".join(self.held_out)})' if name == OOD and self.held_out else ''
            lines.append(f'  {name:<{width}}{count:>9,}{held}')
        lines += [f'  {note}' for note in self.notes]
        lines += [f'  PROBLEM: {problem}' for problem in self.problems]
        return '\n'.join(line if line.isprintable() else f'  {printable(line)}' for line in lines)


def recognise(
    path: str | os.PathLike,
    hold_out: Sequence[str] = (),
    *,
    table: str | Mapping[str, str] = '',
    tree: str = '',
    columns: Mapping | None = None,
    images: str | Mapping[str, str] = '',
    suffix: str = '',
    split_names: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    val: float | None = None,
    test: float | None = None,
    seed: int = 0,
    whole: str | None = None,
) -> Layout:
    """Find out how images are laid out, read the labels, and decide on the splits.

    What the caller does not say is found: the table or the order of the directories, the columns by their usual names,
    the directory that paths are relative to. No image is opened.

    Args:
        path: A directory, or a table.
        hold_out: Groups (domains, sites) kept for split ``'ood'``.
        table, tree, columns, images, suffix, split_names, classes: As of ``GroupedImages``.
        val: Fraction drawn for ``'val'`` if the data has none; 0 for none. Defaults to 0.1.
        test: The same for ``'test'``, drawn only if the data has neither ``val`` nor ``test``. Defaults to 0.1.
        seed: Seed of the draw.
        whole: Field whose values stay together; ``''`` draws image by image. Defaults to a group with a name like
            ``patient``.

    Returns:
        Layout: What was found.

    Raises:
        UserError: There is no data, it cannot be read, or ``hold_out`` does not exist.
    """
    root = Path(os.path.expanduser(path))
    if not root.exists():
        raise UserError(f'{root}: no such file or directory; correct the path.')
    hold_out = (hold_out,) if isinstance(hold_out, str) else tuple(hold_out)
    given = dict(table=table, tree=tree, columns=columns, images=images, suffix=suffix, split_names=split_names)
    given = {key: value for key, value in given.items() if value}
    found = None if tree else find_table(root, given)
    root, options, notes = found or find_tree(root, given, bool(hold_out))
    options = {key: dict(value) if isinstance(value, Mapping) else value for key, value in options.items() if value}
    source = parse_source(str(root), **options)
    data = read_table(source)
    if classes is None and (named := _class_file(root)):
        classes = _fitting(data, named)
        if classes:
            notes.append(f'names and order of the classes: {named.name}')
    problems = []
    names = data.label_names
    try:
        names, _ = class_indices(data, classes)
    except UserError as error:
        problems.append(str(error))
    if hold_out:
        options['hold_out'] = list(hold_out)
    drawn = _decide_draw(data, hold_out, val, test, seed, whole)
    if drawn:
        options['draw'] = drawn
        notes.append(_describe_draw(data, drawn))
    split_names_found, splits = data.assign(hold_out, parse_draw(drawn))
    has_groups = bool(source.columns.group)
    counts = _count(data, split_names_found, splits, has_groups)
    sizes = Counter()
    for (split, _, _), count in counts.items():
        sizes[split] += count
    order = [name for name in (TRAIN, VAL, TEST) if name in sizes]
    order += sorted(sizes.keys() - {*order, OOD}) + [OOD] * (OOD in sizes)
    problems += _problems(data, names, counts, sizes, drawn)
    notes += _notes(data, names, counts)
    if apart := separated(data, splits):
        shown = ', '.join(f'{column} {value}' for column, value in apart[:3])
        notes.append(f'{len(apart)} values that should stay together are in several splits: {shown} (a leak)')
    return Layout(
        data_root=str(root),
        options=options,
        classes=names,
        domains=data.group_names if has_groups else (),
        held_out=hold_out,
        splits={name: sizes[name] for name in order},
        counts=counts,
        notes=tuple(notes),
        problems=tuple(problems),
        fingerprint=data.fingerprint,
        table=data,
    )


def _class_file(root: Path) -> Path | None:
    """A list of class names beside the data."""
    for name in ('classes.txt', 'meta/classes.txt', 'class_names.txt', 'labels.txt'):
        if (root / name).is_file():
            return root / name
    return None


def _fitting(data: Table, file: Path) -> list[str] | None:
    """The names in a file, if the labels are among them or count them."""
    try:
        names = [line.strip() for line in file.read_text('utf-8-sig').splitlines() if line.strip()]
    except (OSError, ValueError):
        return None
    if len(set(names)) != len(names):
        return None
    try:
        class_indices(data, names)
    except UserError:
        return None
    return names


def _decide_draw(data: Table, hold_out, val, test, seed: int, whole: str | None) -> dict | None:
    """The option ``draw``, for what the data does not give."""
    given = data.split_names
    has_val = VAL in given
    val = (0.0 if has_val else VAL_FRACTION) if val is None else val
    test = (0.0 if has_val or TEST in given else TEST_FRACTION) if test is None else test
    if not val and not test:
        return None
    if whole is None:
        whole = whole_field(data)
    return {'val': val, 'test': test, 'seed': seed, **({'whole': whole} if whole else {})}


def _describe_draw(data: Table, drawn: Mapping) -> str:
    parts = ' and '.join(f'{name} ({drawn[name]:.0%})' for name in (VAL, TEST) if drawn[name])
    base = 'of the split train' if TRAIN in data.split_names else 'of all images' if not data.split_names else ''
    whole = drawn.get('whole')
    column = data.source.columns.group if whole == 'group' else whole
    how = f'every {column} in one split only' if whole else 'stratified by class and group'
    return one_line(f'drawn: {parts} {base}, {how}, seed {drawn["seed"]}').replace(' ,', ',')


def _count(data: Table, names: Sequence[str], splits: np.ndarray, has_groups: bool) -> Counter:
    groups = data.groups if has_groups else np.zeros(len(data), np.int64)
    sizes = (len(data.label_names), len(data.group_names) if has_groups else 1)
    keys = (splits.astype(np.int64) * sizes[0] + data.labels) * sizes[1] + groups
    counts = Counter()
    for key, count in zip(*np.unique(keys, return_counts=True)):
        rest, group = divmod(int(key), sizes[1])
        split, label = divmod(rest, sizes[0])
        cell = names[split], data.label_names[label], data.group_names[group] if has_groups else ''
        counts[cell] = int(count)
    return counts


def _problems(data: Table, classes: Sequence[str], counts: Counter, sizes: Counter, drawn: Mapping | None) -> list[str]:
    """What must be put right before training."""
    problems, name = [], data.source.name
    if TRAIN not in sizes:
        found = ', '.join(sizes)
        return [f"{name}: no split 'train' (found: {found}); say which one it is with split_names=dict(...)."]
    for split in (VAL, TEST):
        if drawn and drawn[split] and split not in sizes:
            problems.append(f'{name}: {drawn[split]:.0%} of {len(data)} images is none for {split}; draw more.')
    total, trained = Counter(), Counter()
    for (split, label, _), count in counts.items():
        total[label] += count
        trained[label] += count * (split == TRAIN)
    if len(total) < 2:
        problems.append(f'{name}: every image is of class {next(iter(total))!r}; training needs two classes.')
    for label, count in sorted(total.items()):
        if count == 1:
            row = int(np.flatnonzero(data.labels == data.label_names.index(label))[0])
            problems.append(f'{data.place(row)}: class {label!r} has 1 image; add images, or leave the class out.')
    return problems


def _notes(data: Table, classes: Sequence[str], counts: Counter) -> list[str]:
    """What a user should know."""
    notes = []
    by_split: dict[str, set] = {}
    for split, label, _ in counts:
        by_split.setdefault(split, set()).add(label)
    for split, labels in by_split.items():
        missing = sorted({label for labels in by_split.values() for label in labels} - labels)
        if missing:
            shown = ', '.join(missing[:5]) + (', ...' if len(missing) > 5 else '')
            notes.append(f'{split} has no image of {len(missing)} classes: {shown} (their labels stay the same)')
    if data.respelled:
        shown = ', '.join(map(repr, data.respelled[:5]))
        notes.append(f'blanks at the ends of labels are left out: {shown}')
    if data.source.columns.group and (several := alike(data.group_names)):
        notes.append(f'groups that are spelled almost alike: {" and ".join(map(repr, several[0]))}')
    if images := data.scan.other_images:
        kinds = Counter(Path(image).suffix.lower() for image in images)
        shown = ', '.join(f'{count} {suffix}' for suffix, count in sorted(kinds.items()))
        notes.append(f'not read: {shown} (convert them to PNG or JPEG)')
    return notes
