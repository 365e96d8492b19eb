"""CSV and TSV."""

from collections.abc import Iterator, Sequence

from ..csv_reader import read_csv
from ..source import Columns


def read_delimited(file: str, columns: Columns, delimiter: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows of a CSV or TSV file with a header; see :func:`~ftsgd_plugin.datasets.csv_reader.read_csv`."""
    return read_csv(file, columns.used, delimiter, "name the right one in columns=dict(path='...', label='...')")
