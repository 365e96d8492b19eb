"""Check a user's own images before training: counts, unreadable files, duplicates across splits, label errors."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import check_parent
from ..utils.format import printable
from .duplicates import METHOD, look_at
from .layouts import Layout, recognise
from .own_findings import Findings, count_rows, find, splits_of
from .own_page import write_page
from .scanning import map_images, report_unreadable

_SHOWN = 5  # examples of a finding on the terminal


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
        print(f'page: {write_page(page, layout, findings)}')
    return findings.is_clean and not layout.problems


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


def describe(layout: Layout, findings: Findings) -> list[str]:
    """A line per kind of finding, with examples."""
    table, lines = layout.table, []
    names, splits = splits_of(layout)

    def image(row: int) -> str:
        return f'{names[splits[row]]}: {table.paths[row]} ({table.label_names[table.labels[row]]})'

    def add(found: Sequence, what: str, example) -> None:
        if found:
            lines.append(f'{len(found):,} {what}')
            lines.extend(f'  {printable(example(one))[:240]}' for one in found[:_SHOWN])
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
