"""One page about a user's own images: counts, findings, and sample images per class and split."""

import io
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from ..utils.files import write_text
from ..utils.format import printable
from ..utils.pages import render_page
from ..utils.version import __version__
from .duplicates import METHOD
from .layouts import Layout
from .own_findings import Findings, count_rows, splits_of
from .splits import hash_order
from .transforms import load_rgb

TEMPLATE = Path(__file__).with_name('templates') / 'own_images.html.j2'
SIZE = 96  # pixels, longer side of a sample
PER_CELL = 4  # samples per class and split
CLASSES = 40  # classes with samples: the largest and the smallest
PAIRS = 24  # duplicates that are shown


def write_page(path: str | os.PathLike, layout: Layout, findings: Findings) -> Path:
    """Write the page; samples are chosen by a hash of their paths, so that the page stays the same."""
    table = layout.table
    unreadable = {row for row, _ in findings.unreadable}

    def shown(row: int) -> dict:
        return dict(
            image=None if row in unreadable else thumbnail(os.path.join(layout.data_root, table.paths[row])),
            path=printable(table.paths[row]),
            label=printable(table.label_names[table.labels[row]]),
            split=names[splits[row]],
        )

    names, splits = splits_of(layout)
    kinds = [
        ('Images in several splits (same pixels)', [rows[:PER_CELL] for rows in findings.across]),
        ('Images of different splits that look the same', findings.near),
        ('Images with several labels (same pixels)', [rows[:PER_CELL] for rows in findings.contradicted]),
    ]
    text = render_page(
        TEMPLATE,
        title=f'Images in {layout.data_root}',
        footer=f'{datetime.now():%Y-%m-%d %H:%M}, ftsgd_plugin {__version__}',
        layout=layout,
        findings=findings,
        method=METHOD,
        counts=[('class', *count_rows(layout, 1))] + ([('group', *count_rows(layout, 2))] if layout.domains else []),
        unreadable=[printable(f'{table.paths[row]}: {reason}') for row, reason in findings.unreadable],
        duplicates=[
            (title, len(found), [[shown(row) for row in rows] for rows in found[:PAIRS]]) for title, found in kinds
        ],
        samples_of=[
            (printable(label), [(split, [shown(row) for row in rows]) for split, rows in by_split])
            for label, by_split in _samples(layout, names, splits, unreadable)
        ],
    )
    return write_text(path, text)


def _samples(layout: Layout, names: Sequence[str], splits, unreadable: set[int]) -> Iterator[tuple[str, list]]:
    """Some classes, and of each some rows per split."""
    table, cells = layout.table, defaultdict(list)
    sizes = np.bincount(table.labels, minlength=len(table.label_names))
    by_size = [table.label_names[code] for code in np.argsort(-sizes, kind='stable') if sizes[code]]
    wanted = set(by_size if len(by_size) <= CLASSES else [*by_size[: CLASSES // 2], *by_size[-CLASSES // 2 :]])
    order = hash_order(0, table.paths).argsort()
    for row in order.tolist():
        label = table.label_names[table.labels[row]]
        cell = cells[label, names[splits[row]]]
        if len(cell) < PER_CELL and row not in unreadable and label in wanted:
            cell.append(row)
    for label in table.label_names:
        if label in wanted:
            yield label, [(split, cells[label, split]) for split in layout.splits if cells[label, split]]


def thumbnail(path: str) -> bytes:
    """A small version of an image, as PNG."""
    image = load_rgb(path)
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.quantize(64).save(buffer, 'png', optimize=True)
    return buffer.getvalue()
