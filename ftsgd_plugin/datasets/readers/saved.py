"""Data sets saved on disk by the ``datasets`` library of Hugging Face, whose images are inside its files.

An image has a path all the same, which everything that takes paths can open: ``DIRECTORY/COLUMN/ROW``, with seven
digits or more and no suffix.
"""

import io
import os.path as osp
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from ...utils.errors import UserError, one_line
from ..source import Columns
from .json_lines import as_text

STATE = 'state.json'  # in the directory of a saved data set, or of each split of several
_BATCH = 10_000  # rows


def is_saved(directory: str) -> bool:
    """Whether a directory holds one saved data set."""
    return osp.isfile(osp.join(directory, STATE)) and osp.isfile(osp.join(directory, 'dataset_info.json'))


@lru_cache(maxsize=16)
def _open(directory: str, version: int) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f"{directory}: is saved by datasets; run: pip install 'ftsgd_plugin[hf]'.") from None
    try:
        return datasets.load_from_disk(directory)
    except Exception as error:  # whatever the library meets in a damaged file
        raise UserError(
            f'{directory}: cannot be loaded by datasets ({one_line(error, limit=120)}); save it again.'
        ) from None


def open_saved(directory: str) -> Any:
    """The ``datasets.Dataset`` in a directory; its files are mapped into memory once per process.

    Raises:
        UserError: The library is missing, or the directory cannot be loaded.
    """
    return _open(directory, osp.getmtime(osp.join(directory, STATE)))


def image_columns(directory: str) -> list[str]:
    """Names of the columns that hold images."""
    return [name for name, feature in open_saved(directory).features.items() if type(feature).__name__ == 'Image']


def label_columns(directory: str) -> list[str]:
    """Names of the columns that hold classes with names."""
    return [name for name, feature in open_saved(directory).features.items() if type(feature).__name__ == 'ClassLabel']


def read_saved(directory: str, columns: Columns) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows of a saved data set; the place of a row is its number, from 1. Numbers of named classes become their names.

    Raises:
        UserError: It cannot be loaded, a column is missing, or a field is neither text nor a number.
    """
    data, names = open_saved(directory), columns.used
    for name in names:
        if name not in data.features:
            found = one_line(', '.join(data.features), limit=300)
            raise UserError(
                f'{directory}: column {name!r} is missing (found: {found}); name the right one in '
                "columns=dict(path='...', label='...')."
            )
    inside = columns.path in image_columns(directory)
    named = {name: data.features[name].names for name in names if name in label_columns(directory)}
    read = [name for name in names if not (inside and name == columns.path)]
    row = 0
    for batch in data.select_columns(read).iter(_BATCH):
        columns_read = [batch[name] for name in read]
        for i, column in enumerate(columns_read):
            if kinds := named.get(read[i]):
                columns_read[i] = ['' if code is None or code < 0 else kinds[code] for code in column]
        for fields in zip(*columns_read):
            row += 1
            texts = [one if type(one) is str else as_text(directory, row, name, one) for name, one in zip(read, fields)]
            yield row, [f'{columns.path}/{row - 1:07d}', *texts] if inside else texts


def saved_image(path: str) -> io.BytesIO | str:
    """What to open for a path: an image inside a saved data set, or the path itself.

    Raises:
        OSError: The row has no image.
    """
    above, row = osp.split(path)
    directory, column = osp.split(above)
    if not (row.isascii() and row.isdigit() and is_saved(directory)):
        return path
    import datasets

    data = open_saved(directory)
    if column not in data.features or int(row) >= len(data):
        return path
    cell = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))[int(row)][column]
    if cell and cell.get('bytes') is not None:
        return io.BytesIO(cell['bytes'])
    if cell and cell.get('path'):
        return cell['path']
    raise OSError('the row has no image')
