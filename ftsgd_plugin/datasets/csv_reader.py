"""Read metadata files row by row, with errors that name file, line and column."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..utils.errors import UserError

META = Path(__file__).with_name('meta')  # class names and tables of the benchmarks


def read_names(benchmark: str) -> tuple[str, ...]:
    """Class names of a benchmark in label order, from ``meta/BENCHMARK.txt``."""
    return tuple((META / f'{benchmark}.txt').read_text('utf-8').split())


def read_csv(path: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Read columns of a CSV file with a header.

    Args:
        path: The file.
        columns: Names of the columns to read.

    Yields:
        tuple[int, list[str]]: Line number (the header is line 1) and the fields in the order of ``columns``.

    Raises:
        UserError: The file is not text, or a column or a field is missing.
    """
    with open(path, newline='', encoding='utf-8') as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            for column in columns:
                if column not in header:
                    found = ', '.join(name or '(unnamed)' for name in header) or 'no header'
                    raise UserError(f'{path}: column {column!r} is missing (found: {found}); restore the file.')
            positions = [header.index(column) for column in columns]
            for row in reader:
                if not row:
                    continue  # a blank line
                try:
                    yield reader.line_num, [row[position] for position in positions]
                except IndexError:
                    missing = next(c for c, position in zip(columns, positions) if position >= len(row))
                    raise UserError(f'{path}:{reader.line_num}: {missing!r} is missing; restore the file.') from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f'{path}: not a CSV file ({error}); restore the file.') from error


def parse_code(path: str, line: int, column: str, value: str, codes: int) -> int:
    """An integer field in ``0 ... codes - 1``.

    Raises:
        UserError: The field is not an integer, or outside the range.
    """
    try:
        code = int(value)
    except ValueError:
        raise UserError(f'{path}:{line}: {column}={value!r} is not an integer; correct this row.') from None
    if not 0 <= code < codes:
        raise UserError(f'{path}:{line}: {column}={code} is outside 0 to {codes - 1}; correct this row.')
    return code


def look_up(path: str, line: int, column: str, value: str, known: Mapping[str, int]) -> int:
    """The index of a name.

    Raises:
        UserError: The name is unknown.
    """
    if value not in known:
        raise UserError(f'{path}:{line}: {column}={value!r} is not one of the {len(known)} known; correct this row.')
    return known[value]


class Unique:
    """Refuse an image that is listed twice. Stores hashes only: half a million paths would take 100 MB."""

    def __init__(self, path: str) -> None:
        self.path, self.seen = path, set()

    def check(self, line: int, image: str) -> None:
        """Remember ``image``.

        Raises:
            UserError: It was listed before.
        """
        key = hash(image)
        if key in self.seen:
            raise UserError(f'{self.path}:{line}: {image} is listed twice; remove one of the rows.')
        self.seen.add(key)
