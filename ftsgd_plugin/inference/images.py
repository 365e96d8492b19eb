"""Which images to predict, and what is known of each: from image files, directories and tables."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log

from ..datasets.csv_reader import read_lines, shown
from ..datasets.find_tables import header_of, usual_columns
from ..datasets.image_names import OTHER_IMAGES, SUFFIXES, is_hidden
from ..datasets.readers import read_rows
from ..datasets.source import TABLE_SUFFIXES, Columns
from ..utils.errors import UserError


class Image(NamedTuple):
    """An image to predict.

    Attributes:
        path: As the output names it: as given, or as its table has it.
        file: The file to open.
        label: Index of its class, if it is known.
        group, split: Its group and split; empty if unknown.
    """

    path: str
    file: str
    label: int | None = None
    group: str = ''
    split: str = ''


def find_images(
    inputs: Iterable[str | os.PathLike],
    classes: Sequence[str],
    columns: dict[str, str] | None = None,
    root: str | os.PathLike | None = None,
) -> list[Image]:
    """The images that files, directories and tables name, in this order; those of a directory by name.

    Inside a directory an image belongs to the class whose name a directory above it has, the innermost one, and to the
    group that the directories above that one name. Unless every image of a directory has a class, none has.

    Args:
        inputs: Image files, directories, tables (CSV, TSV, JSON lines, Parquet), lists (``.txt``: ``path`` or
            ``path label``).
        classes: Names of the classes.
        columns: Names of the columns of the tables: ``path``, ``label``, ``group``, ``split``. Default: by their usual
            names; only ``path`` is needed.
        root: Directory that the paths in tables are relative to. Default: that of the table.

    Raises:
        UserError: An input does not exist or names no image, a column is missing, or a label is not one of the classes.
    """
    found: list[Image] = []
    for one in map(Path, inputs):
        if one.is_dir():
            images = _in_directory(one, classes)
        elif not one.is_file():
            raise UserError(f'{one}: no such file or directory; name images, a directory or a table.')
        elif one.suffix.lower() in TABLE_SUFFIXES:
            images = list(_in_table(one, classes, columns or {}, one.parent if root is None else Path(root)))
        else:
            images = [Image(str(one), str(one))]
        if not images:
            raise UserError(f'{one}: holds no image; name images, a directory of images or a table with their paths.')
        found += images
    return found


def _in_directory(root: Path, classes: Sequence[str]) -> list[Image]:
    known = {name: i for i, name in enumerate(classes)}
    images = []
    for directory, inside, files in os.walk(root, followlinks=True):
        inside[:] = sorted(name for name in inside if not is_hidden(name))
        above = Path(directory).relative_to(root).parts
        place = next((i for i in reversed(range(len(above))) if above[i] in known), None)
        for name in sorted(files):
            if is_hidden(name) or Path(name).suffix.lower() not in (*SUFFIXES, *OTHER_IMAGES):
                continue
            path = os.path.join(directory, name)
            if place is None:
                images.append(Image(path, path))
            else:
                images.append(Image(path, path, known[above[place]], '/'.join(above[:place])))
    outside = [image.path for image in images if image.label is None]
    if not outside:
        return images
    if len(outside) < len(images):
        print_log(
            f'{root}: {len(outside)} of {len(images)} images are in no directory of a class of the run '
            f'({outside[0]}, ...): no accuracy is computed',
            logger='current',
            level=logging.WARNING,
        )
    return [Image(image.path, image.file) for image in images]


def _in_table(path: Path, classes: Sequence[str], columns: dict[str, str], root: Path) -> Iterator[Image]:
    known = {name: i for i, name in enumerate(classes)}
    if path.suffix.lower() == '.txt':
        yield from _in_list(path, known, root)
        return
    header = header_of(str(path))
    found = usual_columns(header, columns)
    if 'path' not in found:
        raise UserError(
            f'{path}: no column with the paths of the images (found: {", ".join(header)}); name it with --path-column.'
        )
    chosen = Columns(**{'label': '', **found})
    order = [key for key in ('path', 'label', 'split', 'group') if getattr(chosen, key)]
    for line, fields in read_rows(str(path), chosen):
        row = dict(zip(order, fields))
        label = _label(f'{path}:{line}: {chosen.label}', row['label'], known) if 'label' in row else None
        yield Image(row['path'], os.path.join(root, row['path']), label, row.get('group', ''), row.get('split', ''))


def _in_list(path: Path, known: dict[str, int], root: Path) -> Iterator[Image]:
    """Lines ``path`` or, as in MMPretrain's lists, ``path label``."""
    for line, text in read_lines(path):
        file, *label = [text] if os.path.isfile(os.path.join(root, text)) else text.rsplit(maxsplit=1)
        yield Image(
            file, os.path.join(root, file), _label(f'{path}:{line}: the label', label[0], known) if label else None
        )


def _label(where: str, text: str, known: dict[str, int]) -> int | None:
    """The index that a name or a number gives; ``None`` for an empty field."""
    if not text:
        return None
    if text in known:
        return known[text]
    if text.isascii() and text.isdigit() and int(text) < len(known):
        return int(text)
    names = ', '.join(list(known)[:4]) + (', ...' if len(known) > 4 else '')
    raise UserError(f'{where}={shown(text)} is neither a class of the run ({names}) nor its number; correct this row.')
