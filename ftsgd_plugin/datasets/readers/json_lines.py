"""JSON lines: an object per line."""

import json
from collections.abc import Iterator, Sequence

from ...utils.errors import UserError, one_line
from ..csv_reader import read_lines, shown
from ..source import Columns


def read_json_lines(file: str, columns: Columns) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows of a JSON lines file; numbers become text as JSON writes them.

    Raises:
        UserError: A line is not an object, or a field is missing or neither text nor a number.
    """
    names, decode = columns.used, json.JSONDecoder().decode
    for line, text in read_lines(file):
        try:
            row = decode(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f'{file}:{line}: not JSON ({one_line(error)}); correct this line.') from None
        if not isinstance(row, dict):
            raise UserError(f'{file}:{line}: {shown(text)} is not an object; write {{"path": ..., "label": ...}}.')
        try:
            fields = [row[name] for name in names]
        except KeyError as error:
            found = one_line(', '.join(map(str, row)), limit=300) or 'none'
            raise UserError(
                f'{file}:{line}: {error.args[0]!r} is missing (found: {found}); name the right one in '
                "columns=dict(path='...', label='...')."
            ) from None
        yield (
            line,
            [field if type(field) is str else as_text(file, line, name, field) for name, field in zip(names, fields)],
        )


def as_text(file: str, line: int, name: str, value: object) -> str:
    """A field that is not text: a number as JSON writes it, nothing for ``null``.

    Raises:
        UserError: It is of another type.
    """
    if value is None:
        return ''
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    raise UserError(
        f'{file}:{line}: {name}={one_line(repr(value), limit=60)} is neither text nor a number; correct it.'
    )
