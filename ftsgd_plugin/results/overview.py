"""Everything that the tables and the report say of some folders of runs."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..evaluation.selection import RULES
from .aggregate import cells_frame, compare, runs_frame
from .collect import Collection, collect
from .plots import draw_id_ood, draw_learning_rates, draw_memory
from .sensitivity import lr_curves, lr_sensitivity
from .tables import Table, build_tables


@dataclass(frozen=True)
class Overview:
    """What the runs give under one selection rule.

    Attributes:
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`.
        found: The records, and what was left out.
        runs: One line per run (:func:`ftsgd_plugin.results.aggregate.runs_frame`).
        cells: One line per cell (:func:`ftsgd_plugin.results.aggregate.cells_frame`).
        compared: Cells beside the paper's (:func:`ftsgd_plugin.results.aggregate.compare`).
        tables: The tables.
        notes: The rule, how much was left out, warnings, remarks on cells; a line each.
        losses: Loss from other learning rates than the best, per cell
            (:func:`ftsgd_plugin.results.sensitivity.lr_sensitivity`).
    """

    rule: str
    found: Collection
    runs: pd.DataFrame
    cells: pd.DataFrame
    compared: pd.DataFrame
    tables: list[Table]
    notes: list[str]
    losses: pd.DataFrame


def look_at(paths: Iterable[str | os.PathLike], rule: str = 'id') -> Overview:
    """Read the records below folders and make the tables.

    Args:
        paths: Folders of runs.
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`.

    Raises:
        UserError: A path does not exist, or there is no record.
    """
    found = collect(paths)
    runs = runs_frame((record for _, record in found.runs), rule)
    cells = cells_frame(runs, rule)
    compared = compare(cells, rule)
    tables, remarks = build_tables(compared, rule)
    notes = [f'rule: {RULES[rule]}.', *found.notes(), *remarks]
    return Overview(rule, found, runs, cells, compared, tables, notes, lr_sensitivity(lr_curves(runs)))


def draw_all(overview: Overview, folder: str | os.PathLike) -> dict[str, Path]:
    """Draw the pictures that the runs allow: ``id_ood.png``, ``memory.png`` and ``learning_rates.png``.

    Args:
        overview: The runs.
        folder: Where the files go; it exists.

    Returns:
        dict: Heading -> file.
    """
    folder, title = Path(folder), RULES[overview.rule]
    if overview.runs.empty:
        return {}
    known = overview.runs[overview.runs['peak_bytes'].notna()]
    devices = sorted({device or 'unknown device' for device in known['device']})
    shown = ', '.join(devices[:3]) + (f' and {len(devices) - 3} more' if len(devices) > 3 else '')
    pictures = {
        'Out of distribution against in distribution': draw_id_ood(overview.runs, folder / 'id_ood.png', title),
        'Accuracy against memory': draw_memory(
            overview.cells, folder / 'memory.png', f'{title}; memory measured on: {shown}'
        ),
        'Learning rates': draw_learning_rates(lr_curves(overview.runs), folder / 'learning_rates.png', title),
    }
    return {heading: path for heading, path in pictures.items() if path is not None}
