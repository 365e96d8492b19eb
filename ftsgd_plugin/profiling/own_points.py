"""Gradient ratios and gains that were measured with this project, beside the paper's: a file that a command writes.

``benchmarks/diagnosis_points.py`` measures a point and writes it from the records of its runs.
"""

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..utils.errors import UserError
from ..utils.files import write_text

POINTS = Path(__file__).with_name('own_points.csv')  # comes with the package
_HEADER = """\
# Measured with this project; written by benchmarks/diagnosis_points.py from records, not by hand. Gains in percentage
# points are means over seeds, each method at its best rate by ID accuracy; profiling/own_points.py has the columns.
"""


@dataclass(frozen=True)
class OwnPoint:
    """A model on a data set, measured with this project.

    Attributes:
        model, dataset: As in the records.
        pixels: Side of the images.
        device: Where the runs trained.
        ratio: Gradient norm of the embedding over that of the largest middle layer, before training.
        gain_id: ID accuracy of SGD (freeze-embed) minus SGD, in percentage points.
        freeze_embed_gain: The same of the OOD accuracy; of Waterbirds the worst group's.
        gain_auroc: The same of the OOD AUROC times 100; ``None`` if it was not measured.
        adamw_gain_id, adamw_gain: ID and OOD accuracy of AdamW minus SGD, likewise; ``None`` without AdamW.
        seeds: Runs of each method at its best rate; the smaller number of SGD and SGD (freeze-embed).
        date: Of the last run, ISO 8601.
    """

    model: str
    dataset: str
    pixels: int
    device: str
    ratio: float
    gain_id: float
    freeze_embed_gain: float
    gain_auroc: float | None
    adamw_gain_id: float | None
    adamw_gain: float | None
    seeds: int
    date: str

    @property
    def key(self) -> tuple:
        """What two measurements of the same point share."""
        return self.model, self.dataset, self.pixels, self.device

    @property
    def label(self) -> str:
        """For tables and legends."""
        return f'{self.model} on {self.dataset}, {self.pixels} px'


_COLUMNS = [one.name for one in fields(OwnPoint)]
_TEXT, _WHOLE = ('model', 'dataset', 'device', 'date'), ('pixels', 'seeds')
_OPTIONAL = ('gain_auroc', 'adamw_gain_id', 'adamw_gain')


def own_points(files: Iterable[str | os.PathLike] = ()) -> list[OwnPoint]:
    """The points that come with the package, then those of further files; of equal ones the last.

    Args:
        files: Files as :func:`write_points` writes them.

    Raises:
        UserError: A file is missing or malformed.
    """
    points = [point for file in (POINTS, *files) for point in read_points(file)]
    return list({point.key: point for point in points}.values())


def read_points(path: str | os.PathLike) -> list[OwnPoint]:
    """Read a file of points.

    Raises:
        UserError: It is missing or malformed; the message names the line.
    """
    try:
        text = Path(path).read_text('utf-8')
    except (OSError, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or 'not UTF-8'
        raise UserError(f'{path}: cannot be read ({reason}); name a file of benchmarks/diagnosis_points.py.') from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line and not line.startswith('#')]
    rows = list(csv.reader([line for _, line in lines]))
    if not rows or rows[0] != _COLUMNS:
        raise UserError(
            f'{path}: its columns are not {",".join(_COLUMNS)}; write it by benchmarks/diagnosis_points.py.'
        )
    return [_parse(f'{path}:{number}', row) for (number, _), row in zip(lines[1:], rows[1:])]


def _parse(where: str, row: Sequence[str]) -> OwnPoint:
    if len(row) != len(_COLUMNS):
        raise UserError(f'{where}: {len(row)} values instead of {len(_COLUMNS)}; correct this line.')
    values = dict(zip(_COLUMNS, row))
    for name, value in values.items():
        try:
            values[name] = _value(name, value)
        except ValueError:
            raise UserError(f'{where}: {name}={value!r} is not a value of this column; correct this line.') from None
    return OwnPoint(**values)


def _value(name: str, text: str) -> str | int | float | None:
    if name in _TEXT:
        if not text:
            raise ValueError
        return text
    if name in _OPTIONAL and not text:
        return None
    value = int(text) if name in _WHOLE else float(text)
    if not math.isfinite(value) or (name in ('ratio', *_WHOLE) and value <= 0):
        raise ValueError
    return value


def add_points(path: str | os.PathLike, points: Sequence[OwnPoint]) -> Path:
    """Add points to a file, or write a new one; a point with the same model, data, pixels and device is replaced.

    Args:
        path: The file.
        points: The points.

    Raises:
        UserError: The file exists and is malformed, or cannot be written.
    """
    known = read_points(path) if Path(path).exists() else []
    merged = {point.key: point for point in (*known, *points)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(_COLUMNS)
    for point in sorted(merged.values(), key=lambda one: one.key):
        values = [getattr(point, name) for name in _COLUMNS]
        writer.writerow(['' if v is None else round(v, 3) if isinstance(v, float) else v for v in values])
    return write_text(path, _HEADER + text.getvalue())
