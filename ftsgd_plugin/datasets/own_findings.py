"""What is wrong with a user's own images, and how many there are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..utils.format import printable
from .classes import alike
from .duplicates import Look, exact_groups, near_pairs
from .layouts import Layout
from .splits import parse_draw
from .whole import separated


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
    findings.separated = separated(table, splits)
    return findings


def splits_of(layout: Layout) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the splits, and (N,) the split of every row."""
    return layout.table.assign(layout.held_out, parse_draw(layout.options.get('draw')))


def count_rows(layout: Layout, position: int) -> tuple[list[str], list[list]]:
    """Number of images by class (position 1) or group (2), a column per split, largest first."""
    splits = list(layout.splits)
    cells: dict[str, Counter] = {}
    for cell, count in layout.counts.items():
        cells.setdefault(cell[position], Counter())[cell[0]] += count
    order = sorted(cells, key=lambda name: (-sum(cells[name].values()), name))
    return splits, [[printable(name)[:60], *(cells[name][split] for split in splits)] for name in order]
