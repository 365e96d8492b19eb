"""What the benchmarks share: records ``img_path, gt_label, split, group``, read from a metadata file, with checks."""

import csv
import os.path as osp
from collections.abc import Iterable

from mmpretrain.datasets import BaseDataset
from PIL import Image

from ..errors import UserError


class BenchmarkDataset(BaseDataset):
    """A split of a benchmark with known distribution shift.

    A subclass sets ``METAINFO['classes']``, ``SPLITS`` and ``METADATA``, and yields its records in
    :meth:`read_records`. Lazy initialisation, serialised records, ``indices`` and pipelines are MMPretrain's.

    Args:
        data_root (str): The folder that holds the metadata file.
        split (str): One of ``SPLITS``.
        **kwargs: Arguments of MMPretrain's ``BaseDataset``, such as ``pipeline``, ``metainfo``, ``indices``.

    Raises:
        UserError: Unknown split, missing or malformed metadata, an empty split, or (when a picture is loaded) a file
            that is missing, truncated or no image.
    """

    METADATA: str = ''
    SPLITS: tuple[str, ...] = ()
    WHERE: str = ''  # where to get the data, for the error message

    def __init__(self, data_root: str, split: str, **kwargs) -> None:
        if split not in self.SPLITS:
            raise UserError(f'{type(self).__name__}: split={split!r} is none of {", ".join(self.SPLITS)}.')
        self.split = split
        super().__init__(**{'ann_file': self.METADATA, **kwargs, 'data_root': osp.expanduser(data_root)})

    def read_records(self) -> Iterable[dict]:
        """Yield ``img_path`` (relative to ``data_root``), ``gt_label``, ``split``, ``group`` of every picture."""
        raise NotImplementedError

    def load_data_list(self) -> list[dict]:
        """The records of this split, with ``img_path`` joined to ``data_root``."""
        if not osp.isfile(self.ann_file):
            raise UserError(f'{self.ann_file}: not found; set data_root to the folder that holds it. {self.WHERE}')
        records = [
            {**record, 'img_path': osp.join(self.data_root, record['img_path'])}
            for record in self.read_records()
            if record['split'] == self.split
        ]
        if not records:
            raise UserError(f'{self.ann_file}: no row belongs to split {self.split!r}; get the complete file.')
        return records

    def prepare_data(self, idx: int) -> dict:
        """Run the pipeline; if it fails because of the picture, say which one."""
        try:
            return super().prepare_data(idx)
        except Exception as error:
            path = self.get_data_info(idx)['img_path']
            reason = _why_unreadable(path)
            if reason is None:
                raise
            raise UserError(f'{path}: {reason}; restore the file or remove its row from {self.ann_file}.') from error


def _why_unreadable(path: str) -> str | None:
    """Why PIL cannot decode a file, in words; ``None`` if it can."""
    if not osp.isfile(path):
        return 'image not found'
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        return f'not a complete image ({" ".join(str(error).split()).replace(repr(path), "file")})'
    return None


def read_csv(path: str, columns: Iterable[str]) -> Iterable[tuple[int, dict[str, str]]]:
    """Read a metadata file row by row.

    Args:
        path: CSV file with a header.
        columns: Columns that must be there.

    Yields:
        tuple[int, dict]: Line number in the file (the header is line 1) and the row.

    Raises:
        UserError: The file is no text, or a column or a field is missing.
    """
    with open(path, newline='', encoding='utf-8') as file:
        reader = csv.DictReader(file)
        try:
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                found = ', '.join(reader.fieldnames or ()) or 'no header'
                raise UserError(f'{path}: column {missing[0]!r} is absent (found: {found}); restore the original file.')
            for row in reader:
                for column in columns:
                    if row[column] is None:
                        raise UserError(f'{path}:{reader.line_num}: no {column!r}; restore the original file.')
                yield reader.line_num, row
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f'{path}: not a CSV file ({error}); restore the original file.') from error


def parse_code(path: str, line: int, row: dict[str, str], column: str, codes: int) -> int:
    """An integer field in ``0 ... codes - 1``.

    Raises:
        UserError: The field is no integer, or outside the range.
    """
    try:
        code = int(row[column])
    except ValueError:
        raise UserError(f'{path}:{line}: {column}={row[column]!r} is not an integer; correct this row.') from None
    if not 0 <= code < codes:
        raise UserError(f'{path}:{line}: {column}={code} is outside 0 to {codes - 1}; correct this row.')
    return code
