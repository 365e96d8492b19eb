"""Which images to predict, and what is known of each: from image files, directories and tables."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..datasets.csv_reader import read_csv, shown
from ..datasets.image_names import OTHER_IMAGES, SUFFIXES, is_hidden
from ..utils.errors import UserError

# Names of columns that are recognised, the first that a table has; upper and lower case are alike.
COLUMNS = {
    'path': (
        'path',
        'img_path',
        'image_path',
        'filepath',
        'file_path',
        'file_name',
        'filename',
        'file',
        'image',
        'img',
    ),
    'label': ('label', 'class', 'class_name', 'gt_label', 'target', 'y'),
    'group': ('group',),
    'split': ('split',),
}


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
    inputs: Iterable[str | os.PathLike], classes: Sequence[str], columns: dict[str, str] | None = None
) -> list[Image]:
    """The images that files, directories and CSV files name, in this order; those of a directory by name.

    Inside a directory an image belongs to the class whose name a directory above it has, the innermost one, and to the
    group that the directories above that one name. Unless every image of a directory has a class, none has.

    Args:
        inputs: Image files, directories, CSV files.
        classes: Names of the classes.
        columns: Names of the columns of the CSV files: ``path``, ``label``, ``group``, ``split``. Default: those of
            :data:`COLUMNS` that they have; only ``path`` is needed.

    Raises:
        UserError: An input does not exist or names no image, a column is missing, or a label is not one of the classes.
    """
    found: list[Image] = []
    for one in map(Path, inputs):
        if one.is_dir():
            images = _in_directory(one, classes)
        elif not one.is_file():
            raise UserError(f'{one}: no such file or directory; name images, a directory or a CSV file.')
        elif one.suffix.lower() == '.csv':
            images = list(_in_table(one, classes, columns or {}))
        else:
            images = [Image(str(one), str(one))]
        if not images:
            raise UserError(
                f'{one}: holds no image; name images, a directory of images or a CSV file with their paths.'
            )
        found += images
    return found


def _in_directory(root: Path, classes: Sequence[str]) -> list[Image]:
    known = {name: i for i, name in enumerate(classes)}
    images, labelled = [], True
    for directory, inside, files in os.walk(root, followlinks=True):
        inside[:] = sorted(name for name in inside if not is_hidden(name))
        above = Path(directory).relative_to(root).parts
        place = next((i for i in reversed(range(len(above))) if above[i] in known), None)
        for name in sorted(files):
            if is_hidden(name) or Path(name).suffix.lower() not in (*SUFFIXES, *OTHER_IMAGES):
                continue
            path = os.path.join(directory, name)
            if place is None:
                labelled = False
                images.append(Image(path, path))
            else:
                images.append(Image(path, path, known[above[place]], '/'.join(above[:place])))
    return images if labelled else [Image(image.path, image.file) for image in images]


def _in_table(path: Path, classes: Sequence[str], columns: dict[str, str]) -> Iterator[Image]:
    with open(path, encoding='utf-8-sig', errors='replace', newline='') as file:
        header = [name.strip('"\r\n') for name in file.readline().split(',')]
    chosen = {}
    for what, candidates in COLUMNS.items():
        by_lower = {name.lower(): name for name in reversed(header)}
        name = columns.get(what) or next((by_lower[one] for one in candidates if one in by_lower), None)
        if name is not None:
            chosen[what] = name
    if 'path' not in chosen:
        raise UserError(
            f'{path}: no column with the paths of the images (found: {", ".join(header)}); name it with --path-column.'
        )
    known = {name: i for i, name in enumerate(classes)}
    for line, fields in read_csv(str(path), list(chosen.values())):
        row = dict(zip(chosen, fields))
        label = _label(f'{path}:{line}: {chosen.get("label")}', row['label'], known) if 'label' in row else None
        yield Image(
            row['path'], os.path.join(path.parent, row['path']), label, row.get('group', ''), row.get('split', '')
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
