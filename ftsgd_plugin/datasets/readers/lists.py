"""MMPretrain's list files: a line per image, its path and the number of its class."""

from collections.abc import Iterator, Sequence

from ...utils.errors import UserError
from ..csv_reader import read_lines, shown
from ..source import Columns


def read_list(file: str, columns: Columns) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows of a list: ``path label``, of which the path may hold blanks. Other columns do not exist.

    Raises:
        UserError: A line has no label, or other columns are asked for.
    """
    if more := columns.used[2:]:
        raise UserError(f'{file}: a list has no column {more[0]!r}; use a CSV file, or leave it out.')
    for line, text in read_lines(file):
        parts = text.rsplit(maxsplit=1)
        if len(parts) != 2:
            raise UserError(f'{file}:{line}: {shown(text)} is not "path label"; correct this line.')
        yield line, parts
