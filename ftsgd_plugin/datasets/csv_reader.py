"""Read metadata files row by row, with errors that name file, line and column."""

import csv
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TextIO

from ..utils.errors import UserError, one_line

META = Path(__file__).with_name('meta')  # class names and tables of the benchmarks
_INTEGER = re.compile('-?[0-9]{1,18}')  # int() also takes underscores and the digits of every script
_CONTROL = re.compile('[\x00-\x1f\x7f-\x9f]')


def shown(value: str) -> str:
    """A field in quotation marks on one line of a message, cut off after 60 characters."""
    return one_line(repr(value), limit=60)


def read_names(benchmark: str) -> tuple[str, ...]:
    """Class names of a benchmark in label order, from ``meta/BENCHMARK.txt``."""
    return tuple((META / f'{benchmark}.txt').read_text('utf-8').split())


@contextmanager
def open_text(path: str | os.PathLike, kind: str) -> Iterator[TextIO]:
    """Open a text file in UTF-8, with or without a byte-order mark; line ends stay as they are.

    Args:
        path: The file.
        kind: What it should be, e.g. ``'CSV file'``, for the message.

    Raises:
        UserError: It cannot be opened, or what is read of it is not UTF-8.
    """
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            yield file
    except UnicodeDecodeError:
        line = _first_line_not_in_utf8(path)
        raise UserError(f'{path}: not a {kind} (line {line} is not UTF-8); restore the file.') from None
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); restore the file.') from None


def _first_line_not_in_utf8(path: str | os.PathLike) -> int:
    with open(path, 'rb') as file:
        for line, text in enumerate(file, start=1):
            try:
                text.decode('utf-8')
            except UnicodeDecodeError:
                return line
    return line  # the file ends within a character


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Read a list.

    Yields:
        tuple[int, str]: Line number from 1, and the text without blanks at its ends; blank lines are left out.

    Raises:
        UserError: The file cannot be read.
    """
    with open_text(path, 'list') as file:
        for line, text in enumerate(file, start=1):
            if text := text.strip():
                yield line, text


def read_csv(
    path: str, columns: Sequence[str], delimiter: str = ',', remedy: str = 'restore the file'
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Read columns of a CSV file with a header.

    Args:
        path: The file.
        columns: Names of the columns to read.
        delimiter: What separates the fields; a tab for TSV.
        remedy: What to do about a missing column, for the message.

    Yields:
        tuple[int, tuple[str, ...]]: Line number (the header is line 1) and the fields in the order of ``columns``.

    Raises:
        UserError: The file is not text, a column is missing or there twice, or a row has another number of fields than
            the header or extends over several lines (a quotation mark that nothing closes).
    """
    with open_text(path, 'CSV file') as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            for column in columns:
                if column not in header:
                    found = ', '.join(name or '(unnamed)' for name in header) or 'no header'
                    found = one_line(found, limit=300)
                    raise UserError(f'{path}: column {column!r} is missing (found: {found}); {remedy}.')
                if header.count(column) > 1:
                    raise UserError(f'{path}:1: column {column!r} occurs twice; remove the wrong one.')
            positions = [header.index(column) for column in columns]
            pick = itemgetter(*positions) if len(positions) > 1 else lambda row: (row[positions[0]],)
            line = reader.line_num
            for row in reader:
                line += 1
                if reader.line_num != line:
                    raise UserError(f'{path}:{line}: this row extends over several lines; close its quotation mark.')
                if not row:
                    continue  # a blank line
                if len(row) != len(header):
                    _check_length(path, line, row, header, columns)
                yield line, pick(row)
        except csv.Error as error:
            line = reader.line_num
            raise UserError(f'{path}: not a CSV file (up to line {line}: {error}); restore the file.') from error


def _check_length(path: str, line: int, row: list[str], header: list[str], columns: Sequence[str]) -> None:
    """Refuse a row with more or fewer fields than the header; blank ones after the last do no harm."""
    if len(row) < len(header):
        missing = next((column for column in columns if header.index(column) >= len(row)), header[-1])
        raise UserError(f'{path}:{line}: {missing!r} is missing; restore the file.')
    if any(row[len(header) :]):
        raise UserError(
            f'{path}:{line}: {len(row)} fields under {len(header)} columns; put text that holds a comma into quotation '
            'marks.'
        )


def parse_code(path: str, line: int, column: str, value: str, codes: int) -> int:
    """An integer field in ``0 ... codes - 1``, in the digits 0 to 9.

    Raises:
        UserError: The field is not an integer, or outside the range.
    """
    if not _INTEGER.fullmatch(text := value.strip(' ')):
        raise UserError(f'{path}:{line}: {column}={shown(value)} is not an integer; correct this row.')
    code = int(text)
    if not 0 <= code < codes:
        raise UserError(f'{path}:{line}: {column}={code} is outside 0 to {codes - 1}; correct this row.')
    return code


def look_up(path: str, line: int, column: str, value: str, known: Mapping[str, int]) -> int:
    """The index of a name.

    Raises:
        UserError: The name is unknown.
    """
    if value not in known:
        raise UserError(
            f'{path}:{line}: {column}={shown(value)} is not one of the {len(known)} known; correct this row.'
        )
    return known[value]


class Unique:
    """Refuse an image that is listed twice, or by a text that names no file.

    Stores hashes only: half a million paths would take 100 MB.
    """

    def __init__(self, path: str) -> None:
        self.path, self.seen = path, set()

    def check(self, line: int, image: str) -> str:
        """Remember ``image``; ``./a.jpg`` and ``a.jpg`` are the same, and the latter is returned.

        Raises:
            UserError: It was listed before, is blank, or has control characters.
        """
        if not image.strip() or _CONTROL.search(image):
            raise UserError(f'{self.path}:{line}: {shown(image)} does not name an image; correct this row.')
        normal = posixpath.normpath(image)
        key = hash(normal)
        if key in self.seen:
            raise UserError(
                f'{self.path}:{line}: {one_line(image, limit=200)} is listed twice; remove one of the rows.'
            )
        self.seen.add(key)
        return normal
