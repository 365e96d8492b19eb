"""Tables that are written row by row: CSV, JSON lines, Parquet."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..utils.errors import UserError, check_parent
from ..utils.files import atomic_write

SUFFIXES = ('.csv', '.jsonl', '.parquet')


class TableWriter(Protocol):
    """Takes rows with the columns that the table was opened with."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows; a missing value is ``None``."""


def check_table(path: str | os.PathLike) -> None:
    """Find that a table cannot be written before the work whose outcome it is to hold.

    Raises:
        UserError: The suffix is none of :data:`SUFFIXES`, the directory does not exist, or pyarrow is missing.
    """
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f'{path}: predictions are written as {", ".join(SUFFIXES)}; use one of these suffixes.')
    check_parent(path)
    if Path(path).suffix == '.parquet':
        _pyarrow()


@contextmanager
def open_table(path: str | os.PathLike, columns: Mapping[str, type]) -> Iterator[TableWriter]:
    """Open a table, which exists once the block has ended without an exception.

    Args:
        path: The file; its suffix names the format.
        columns: Names and types of the columns: ``str``, ``int``, ``bool`` or ``np.float32``, whose shortest decimal
            that gives the same number is written.

    Yields:
        TableWriter: Takes the rows.
    """
    suffix = Path(path).suffix
    with atomic_write(path) as temporary:
        if suffix == '.parquet':
            with _Parquet(temporary, columns) as writer:
                yield writer
        else:
            with open(temporary, 'w', newline='', encoding='utf-8') as file:
                yield _Csv(file, columns) if suffix == '.csv' else _JsonLines(file)


class _Csv:
    def __init__(self, file, columns: Mapping[str, type]) -> None:
        self._writer, self._columns = csv.writer(file, lineterminator='\n'), list(columns)
        self._writer.writerow(self._columns)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._writer.writerows([row.get(name) for name in self._columns] for row in rows)


class _JsonLines:
    def __init__(self, file) -> None:
        self._file = file

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            plain = {name: float(str(value)) if isinstance(value, np.float32) else value for name, value in row.items()}
            self._file.write(json.dumps(plain, ensure_ascii=False) + '\n')


class _Parquet:
    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        arrow, parquet = _pyarrow()
        kinds = {str: arrow.string(), int: arrow.int64(), bool: arrow.bool_(), np.float32: arrow.float32()}
        self._arrow, self._schema = arrow, arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self._writer = parquet.ParquetWriter(path, self._schema)

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self._writer.close()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        values = {name: [row.get(name) for row in rows] for name in self._schema.names}
        self._writer.write_table(self._arrow.table(values, schema=self._schema))


def _pyarrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"Parquet files need pyarrow ({error}); run: pip install 'ftsgd_plugin[hf]'") from error
    return pyarrow, pyarrow.parquet
