"""Images in directories: by class, split and domain."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...utils.errors import UserError
from ..image_names import OTHER_IMAGES, SUFFIXES, is_hidden
from ..source import Source

_DEEPEST = 12  # directories below the root


@dataclass
class Scan:
    """What a walk over a directory has found.

    Attributes:
        directories: Visited directories with the time of their last change, in nanoseconds.
        others: Files that are not read, by suffix in lower case.
        other_images: Those among them that are images of a format which is not read, as paths.
    """

    directories: list[tuple[str, int]] = field(default_factory=list)
    others: Counter = field(default_factory=Counter)
    other_images: list[str] = field(default_factory=list)


def walk(root: str, scan: Scan, below: str = '', _above: tuple = ()) -> Iterator[tuple[str, list[str]]]:
    """Directories with the images directly in them, in the order of their names; hidden ones are left out.

    Args:
        root: The directory to walk over. Links to directories are followed, circles are not.
        scan: Filled on the way.
        below: Where to start, relative to ``root``.

    Yields:
        tuple[str, list[str]]: Path relative to ``root`` (empty for itself), and names; only where there are any.

    Raises:
        UserError: A directory cannot be read, or directories are nested too deep.
    """
    path = os.path.join(root, below) if below else root
    try:
        state = os.stat(path)
        if (identity := (state.st_dev, state.st_ino)) in _above:
            return
        with os.scandir(path) as entries:
            entries = [(entry.name, entry.is_dir()) for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); correct the path or its permissions.') from None
    if len(_above) > _DEEPEST:
        raise UserError(
            f'{path}: more than {_DEEPEST} directories below {root}; name a directory nearer to the images.'
        )
    scan.directories.append((path, state.st_mtime_ns))
    images = []
    for name, is_directory in entries:
        if is_directory:
            continue
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            images.append(name)
            continue
        scan.others[suffix] += 1
        if suffix in OTHER_IMAGES:
            scan.other_images.append(f'{below}/{name}' if below else name)
    if images:
        yield below, sorted(images)
    for name in sorted(name for name, is_directory in entries if is_directory):
        yield from walk(root, scan, f'{below}/{name}' if below else name, (*_above, identity))


def read_tree(source: Source, scan: Scan) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows ``path, label[, split][, domain]`` of a tree. Images above the directory of their class are left out."""
    parts = source.tree.split('/')
    places = [parts.index(name) for name in ('class', 'split', 'domain') if name in parts]
    for directory, names in walk(source.root, scan):
        above = directory.split('/')
        if len(above) < len(parts) or not directory:
            continue
        fields = [above[place] for place in places]
        for name in names:
            yield 0, [f'{directory}/{name}', *fields]


def subdirectories(path: str | os.PathLike) -> list[str]:
    """Names of the directories in a directory, hidden ones left out, sorted; empty if it cannot be read."""
    try:
        return sorted(entry.name for entry in Path(path).iterdir() if not is_hidden(entry.name) and entry.is_dir())
    except OSError:
        return []
