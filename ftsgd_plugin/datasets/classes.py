"""The classes of a user's own data: their order, and labels that are none of them."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from ..utils.errors import UserError
from ..utils.names import did_you_mean
from .csv_reader import shown
from .table import Table

NUMBER = re.compile(r'[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?')


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that are spelled almost alike: ``Cat`` and ``cat``, ``a_b`` and ``a b``, ``1`` and ``1.0``."""
    same: dict[object, list[str]] = {}
    for name in names:
        text = unicodedata.normalize('NFKC', name)
        key = float(text) if NUMBER.fullmatch(text) else ' '.join(re.split(r'[\s_-]+', text.casefold())).strip()
        same.setdefault(key, []).append(name)
    return [tuple(sorted(several)) for several in same.values() if len(several) > 1]


def class_indices(table: Table, classes: Sequence[str] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes, and for every label of the table its class.

    Args:
        table: The data.
        classes: Names in the order of the model's outputs; ``None``: the labels of all splits, in their order. Labels
            that are numbers count the names, unless they are names themselves.

    Returns:
        tuple: Names, and (labels,) int32.

    Raises:
        UserError: A label is none of the names, or two labels are spelled almost alike.
    """
    if classes is None:
        if several := alike(table.label_names):
            rare = min(several[0], key=lambda name: (table.labels == table.label_names.index(name)).sum())
            other = next(name for name in several[0] if name != rare)
            row = int(np.flatnonzero(table.labels == table.label_names.index(rare))[0])
            raise UserError(
                f'{table.place(row)}: label {shown(rare)} is spelled like {shown(other)}; correct one, or name all '
                'classes with classes=[...].'
            )
        return table.label_names, np.arange(len(table.label_names), dtype=np.int32)
    place = {name: i for i, name in enumerate(classes)}
    used = np.unique(table.labels)
    names = [table.label_names[code] for code in used]
    if not any(name in place for name in names) and all(name.isascii() and name.isdigit() for name in names):
        place = {str(i): i for i in range(len(classes))} | {
            name: int(name) for name in names if int(name) < len(classes)
        }
    found = np.full(len(table.label_names), -1, np.int32)
    for code, name in zip(used, names):
        if name not in place:
            row = int(np.flatnonzero(table.labels == code)[0])
            raise UserError(
                f'{table.place(row)}: label {shown(name)} is not one of the {len(classes)} classes; '
                f'{did_you_mean(name, classes)}'
            )
        found[code] = place[name]
    return tuple(classes), found
