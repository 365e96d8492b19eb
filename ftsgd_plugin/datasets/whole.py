"""Values whose images are alike and belong in one split: patients, videos, cameras."""

import numpy as np

from .table import Table

# Columns and domains whose images are alike: they are drawn whole, so that none is in two splits.
WHOLE = (
    *(
        'patient',
        'subject',
        'person',
        'participant',
        'case',
        'individual',
        'animal',
        'specimen',
        'slide',
        'scan',
        'study',
    ),
    *('sequence', 'video', 'clip', 'camera', 'scene', 'burst', 'session', 'plant', 'tree', 'series'),
)


def whole_field(data: Table) -> str:
    """The field whose values should stay together, by its name."""
    columns = data.source.columns
    for name, column in [*((name, name) for name in columns.metadata), ('group', columns.group)]:
        if column and is_whole(column):
            return name
    return ''


def is_whole(column: str) -> bool:
    """Whether the values of a column of this name should not be separated: ``patient_id``, ``Slides``."""
    words = column.lower().replace('-', '_').replace(' ', '_').split('_')
    return any(word in WHOLE or word.removesuffix('s') in WHOLE or word.removesuffix('id') in WHOLE for word in words)


def separated(table: Table, splits: np.ndarray) -> list[tuple[str, str]]:
    """Patients and the like, by the names of the columns, whose images are in several splits."""
    found = []
    columns = [('group', table.source.columns.group), *((name, name) for name in table.source.columns.metadata)]
    for name, column in columns:
        if column and is_whole(column):
            names, codes = table.values(name)
            pairs = np.unique(np.stack([codes, splits.astype(np.int32)], axis=1), axis=0)
            values, counts = np.unique(pairs[:, 0], return_counts=True)
            found += [(column, names[value]) for value in values[counts > 1]]
    return found
