"""Parquet, by pyarrow: batch after batch, only the columns that are used."""

from collections.abc import Iterator, Sequence

from ...utils.errors import UserError, one_line
from ..source import Columns
from .json_lines import as_text

_BATCH = 65_536  # rows


def read_parquet(file: str, columns: Columns) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows of a Parquet file; the place of a row is its number, from 1.

    Raises:
        UserError: pyarrow is missing, the file cannot be read, a column is missing, or a field is neither text nor a
            number.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{file}: Parquet needs pyarrow; run: pip install 'ftsgd_plugin[hf]'.") from None
    names = columns.used
    try:
        with parquet.ParquetFile(file) as table:
            for name in names:
                if name not in table.schema_arrow.names:
                    found = one_line(', '.join(table.schema_arrow.names), limit=300)
                    raise UserError(
                        f'{file}: column {name!r} is missing (found: {found}); name the right one in '
                        "columns=dict(path='...', label='...')."
                    )
            line = 0
            for batch in table.iter_batches(_BATCH, columns=list(names)):
                # A dictionary column (pandas' categories) is decoded with the others.
                for fields in zip(*(batch.column(name).to_pylist() for name in names)):
                    line += 1
                    yield (
                        line,
                        [
                            one if type(one) is str else as_text(file, line, name, one)
                            for name, one in zip(names, fields)
                        ],
                    )
    except (ArrowException, OSError) as error:
        raise UserError(f'{file}: not a Parquet file ({one_line(error, limit=120)}); write it again.') from None
