"""Values as the text of a config file, in the style of ``configs/``."""

import keyword
from collections.abc import Mapping

WIDTH = 116


class Name(str):
    """A variable of the config file, written without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def assignment(name: str, value: object) -> str:
    """``name = value`` with a line break at the end."""
    return f'{name} = {code_text(value, first=len(name) + 3)}\n'


def code_text(value: object, indent: int = 0, first: int = 0) -> str:
    """A value as Python: on one line if it fits, else an item per line, dictionaries as ``dict(key=value)``.

    Args:
        value: Dictionaries, lists, tuples, text, numbers, :class:`Name`.
        indent: Columns that the lines below the first are indented by.
        first: Columns that are taken on the first line.
    """
    line = _on_one_line(value)
    if indent + first + len(line) <= WIDTH or not isinstance(value, Mapping | list | tuple) or not value:
        return line
    inner, space = indent + 4, ' ' * (indent + 4)
    if isinstance(value, Mapping):
        opening, closing = ('dict(', ')') if _are_names(value) else ('{', '}')
        labels = [_label(key, opening) for key in value]
        items = [label + code_text(item, inner, len(label)) for label, item in zip(labels, value.values())]
    else:
        opening, closing = ('[', ']') if isinstance(value, list) else ('(', ')')
        items = [code_text(item, inner) for item in value]
        if all(isinstance(item, str | int | float) for item in value):
            items = _filled(items, WIDTH - inner)
    lines = ''.join(f'{space}{item},\n' for item in items)
    return f'{opening}\n{lines}{" " * indent}{closing}'


def _on_one_line(value: object) -> str:
    if isinstance(value, Mapping):
        opening, closing = ('dict(', ')') if _are_names(value) else ('{', '}')
        return opening + ', '.join(_label(key, opening) + _on_one_line(item) for key, item in value.items()) + closing
    if isinstance(value, list):
        return f'[{", ".join(map(_on_one_line, value))}]'
    if isinstance(value, tuple):
        return f'({", ".join(map(_on_one_line, value))}{"," if len(value) == 1 else ""})'
    return repr(value)


def _are_names(value: Mapping) -> bool:
    return all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in value)


def _label(key: object, opening: str) -> str:
    return f'{key}=' if opening == 'dict(' else f'{key!r}: '


def _filled(items: list[str], width: int) -> list[str]:
    """Several short items per line."""
    lines = [items[0]]
    for item in items[1:]:
        if len(lines[-1]) + 2 + len(item) < width:
            lines[-1] += f', {item}'
        else:
            lines.append(item)
    return lines
