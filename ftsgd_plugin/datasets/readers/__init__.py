"""Rows of a user's own data, one reader per format.

A reader is a generator ``read(file, columns)`` of ``(line, fields)``: the place for messages, and the fields in the
order of ``columns.used``, as text.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import PurePath

from ...utils.errors import UserError
from ..source import TABLE_SUFFIXES, Columns
from .delimited import read_delimited
from .json_lines import read_json_lines
from .lists import read_list
from .parquet import read_parquet
from .saved import is_saved, read_saved

Rows = Iterator[tuple[int, Sequence[str]]]
Reader = Callable[[str, Columns], Rows]

READERS: dict[str, Reader] = {
    '.csv': partial(read_delimited, delimiter=','),
    '.tsv': partial(read_delimited, delimiter='\t'),
    '.jsonl': read_json_lines,
    '.ndjson': read_json_lines,
    '.parquet': read_parquet,
    '.txt': read_list,
}


def read_rows(file: str, columns: Columns) -> Rows:
    """Rows of a table, by the suffix of its name, or of a saved data set.

    Raises:
        UserError: No reader has this suffix; and what the reader raises.
    """
    if is_saved(file):
        return read_saved(file, columns)
    reader = READERS.get(PurePath(file).suffix.lower())
    if reader is None:
        raise UserError(f'{file}: is not a table; a name ends in one of {" ".join(TABLE_SUFFIXES)}.')
    return reader(file, columns)
