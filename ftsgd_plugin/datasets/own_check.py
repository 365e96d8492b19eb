"""Check a user's own images before training: counts, unreadable files, duplicates across splits, label errors."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..utils.errors import check_parent, one_line
from .classes import alike
from .duplicates import METHOD, Look, exact_groups, look_at, near_pairs
from .layouts import Layout, is_whole, recognise
from .scanning import map_images, report_unreadable
from .splits import parse_draw
from .table import Table

_SHOWN = 5  # examples of a finding on the terminal


@dataclass
class Findings:
    """What is wrong with the images of a :class:`Layout`. Images are rows of its table.

    Attributes:
        unreadable: ``(row, reason)``.
        across: Images with the same pixels in several splits, a list of rows each.
        repeated: Images with the same pixels in one split.
        near: Pairs of rows of different splits that look the same.
        contradicted: Images with the same pixels under several labels.
        spellings: Labels that are spelled almost alike, or have blanks at their ends.
        separated: ``(field, value)`` of patients and the like whose images are in several splits.
    """

    unreadable: list[tuple[int, str]] = field(default_factory=list)
    across: list[list[int]] = field(default_factory=list)
    repeated: list[list[int]] = field(default_factory=list)
    near: list[tuple[int, int]] = field(default_factory=list)
    contradicted: list[list[int]] = field(default_factory=list)
    spellings: list[tuple[str, ...]] = field(default_factory=list)
    separated: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong; images repeated within a split are only told."""
        wrong = self.unreadable, self.across, self.near, self.contradicted, self.spellings, self.separated
        return not any(wrong)


def check_own(
    path: str | os.PathLike,
    hold_out: Sequence[str] = (),
    *,
    page: str | os.PathLike | None = 'own_images.html',
    bad_list: str | os.PathLike = 'bad_images_own.txt',
    workers: int | None = None,
    **options,
) -> bool:
    """Print what a directory of images holds and what is wrong with it, and write a page with sample images.

    Every image is decoded. Nothing is changed in the directory.

    Args:
        path: A directory or a table, as of :func:`~ftsgd_plugin.datasets.recognise`.
        hold_out: Groups kept for split ``'ood'``.
        page: File for the page; ``None``: write none.
        bad_list: File for the images that cannot be decoded.
        workers: Processes. Default: one per core.
        **options: Further arguments of ``recognise``.

    Returns:
        bool: Whether nothing is wrong.

    Raises:
        UserError: The directory holds no data, or cannot be read.
    """
    for file in filter(None, (page, bad_list)):
        check_parent(file)
    layout = recognise(path, hold_out, **options)
    print(layout)
    print_counts(layout)
    files = [os.path.join(layout.data_root, name) for name in layout.table.paths]
    looks = list(map_images(look_at, files, workers or os.cpu_count() or 1, 'looking at images'))
    findings = find(layout, looks)
    report_unreadable([(files[row], reason) for row, reason in findings.unreadable], len(files), Path(bad_list))
    for line in describe(layout, findings):
        print(line)
    if page is not None:
        from .own_page import write_page

        print(f'page: {write_page(page, layout, findings)}')
    return findings.is_clean and not layout.problems


def find(layout: Layout, looks: Sequence[Look]) -> Findings:
    """What is wrong, from what was kept of every image."""
    table = layout.table
    _, splits = splits_of(layout)
    findings = Findings([(row, look.reason) for row, look in enumerate(looks) if look.reason is not None])
    for rows in exact_groups(looks):
        if len(set(splits[rows])) > 1:
            findings.across.append(rows)
        else:
            findings.repeated.append(rows)
        if len(set(table.labels[rows])) > 1:
            findings.contradicted.append(rows)
    findings.near = near_pairs(looks, splits)
    findings.spellings = alike(table.label_names) + [(written, written.strip()) for written in table.respelled]
    findings.separated = _separated(table, splits)
    return findings


def splits_of(layout: Layout) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the splits, and (N,) the split of every row."""
    return layout.table.assign(layout.held_out, parse_draw(layout.options.get('draw')))


def _separated(table: Table, splits: np.ndarray) -> list[tuple[str, str]]:
    """Patients and the like, by the names of the columns, whose images are in several splits."""
    found = []
    columns = [('group', table.source.columns.group), *((name, name) for name in table.source.columns.metadata)]
    for name, column in columns:
        if column and is_whole(column):
            names, codes = table.values(name)
            pairs = np.unique(np.stack([codes, splits.astype(np.int32)], axis=1), axis=0)
            values, counts = np.unique(pairs[:, 0], return_counts=True)
            found += [(column, names[value]) for value in values[counts > 1]]
    return found


def print_counts(layout: Layout, most: int = 20) -> None:
    """Print the number of images by class and split, and by group and split; the largest ``most``."""
    for title, position in (('class', 1), ('group', 2)):
        header, rows = count_rows(layout, position)
        if not rows or (position == 2 and not layout.domains):
            continue
        width = max(len(row[0]) for row in rows[:most])
        width = max(width, len(title)) + 2
        print(f'\n{title:<{width}}' + ''.join(f'{name:>10}' for name in header))
        for name, *counts in rows[:most]:
            print(f'{name:<{width}}' + ''.join(f'{count:>10,}' for count in counts))
        if len(rows) > most:
            print(f'... and {len(rows) - most:,} more')
    print()


def count_rows(layout: Layout, position: int) -> tuple[list[str], list[list]]:
    """Number of images by class (position 1) or group (2), a column per split, largest first."""
    splits = list(layout.splits)
    cells: dict[str, Counter] = {}
    for cell, count in layout.counts.items():
        cells.setdefault(cell[position], Counter())[cell[0]] += count
    order = sorted(cells, key=lambda name: (-sum(cells[name].values()), name))
    return splits, [[one_line(name, limit=60), *(cells[name][split] for split in splits)] for name in order]


def describe(layout: Layout, findings: Findings) -> list[str]:
    """A line per kind of finding, with examples."""
    table, lines = layout.table, []
    names, splits = splits_of(layout)

    def image(row: int) -> str:
        return f'{names[splits[row]]}: {table.paths[row]} ({table.label_names[table.labels[row]]})'

    def add(found: Sequence, what: str, example) -> None:
        if found:
            lines.append(f'{len(found):,} {what}')
            lines.extend(f'  {one_line(example(one), limit=240)}' for one in found[:_SHOWN])
            lines.extend([f'  ... and {len(found) - _SHOWN:,} more'] if len(found) > _SHOWN else [])

    def several(rows: Sequence[int]) -> str:
        more = f' and {len(rows) - 3} more' if len(rows) > 3 else ''
        return ' = '.join(image(row) for row in rows[:3]) + more

    add(findings.across, 'sets of images with the same pixels are in several splits', several)
    add(findings.near, f'pairs of images of different splits look the same ({METHOD})', several)
    add(findings.contradicted, 'sets of images with the same pixels have several labels', several)
    add(findings.spellings, 'labels are spelled almost alike', lambda names: ' and '.join(map(repr, names)))
    add(findings.separated, 'values that should stay together are in several splits', ' '.join)
    add(findings.repeated, 'sets of images with the same pixels are within one split (no error)', several)
    return lines or ['no duplicates and no label errors found']
