"""Find the order of the directories above a user's images."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ..utils.errors import UserError, one_line
from .image_names import SUFFIXES
from .readers.trees import Scan, subdirectories, walk
from .splits import is_split

Found = tuple[Path, dict, list[str]]


def find_tree(root: Path, given: Mapping, domains: bool = False) -> Found:
    """The directory that holds the classes, domains or splits, and their order.

    Args:
        root: A directory.
        given: Options that the caller has set; ``tree`` is taken as it is.
        domains: Whether the directories must name domains, because some are held out.

    Returns:
        tuple: The directory, options of ``GroupedImages``, and notes.

    Raises:
        UserError: There is no image, the path is one level off, or splits and classes are mixed.
    """
    if not root.is_dir():
        raise UserError(f'{root}: is neither a directory nor a table; name the directory of the data.')
    if given.get('tree'):
        return root, dict(given), [f'directories: {given["tree"]}']
    shapes = [tuple(directory.split('/')) if directory else () for directory, _ in walk(str(root), Scan())]
    if not shapes:
        raise UserError(f'{root}: holds no image ({" ".join(SUFFIXES)}) and no table with labels; correct the path.')
    notes, top = [], root
    while () not in shapes and len({shape[0] for shape in shapes}) == 1 and not is_split(shapes[0][0]):
        if all(len(shape) == 1 for shape in shapes):  # one directory of images
            break
        top /= shapes[0][0]
        shapes = [shape[1:] for shape in shapes]
    if top != root:
        notes.append(f'the data is below: {top}')
    _check_level(top, shapes)
    if () in shapes:
        shapes.remove(())
        notes.append(f'images directly in {top} have no class and are left out')
    tree = _order(top, shapes, domains)
    notes += [*_deeper(top, shapes), *_domains_beside(top, shapes)] if tree == 'class' else []
    if 'split' in tree and (flat := sorted({shape[0] for shape in shapes if len(shape) < len(tree.split('/'))})):
        notes.append(f'images directly in {", ".join(flat)} have no class and are left out')
    notes.insert(0, f'directories: {tree}')
    return top, {'tree': tree}, notes


def _check_level(root: Path, shapes: list[tuple]) -> None:
    """Refuse a directory that is one split, or one class, of data that surrounds it."""
    parent = root.resolve().parent
    siblings = [name for name in subdirectories(parent) if name != root.resolve().name]
    if is_split(root.resolve().name) and (others := [name for name in siblings if is_split(name)]):
        raise UserError(
            f'{root}: is one split of {parent}, beside {", ".join(others)}; name {parent}, or pass tree= to use this '
            'part alone.'
        )
    if set(shapes) == {()}:
        if len(siblings) and any(_has_images(parent / name) for name in siblings):
            raise UserError(f'{root}: holds the images of one class, one level too low; name {parent}.')
        raise UserError(
            f'{root}: holds images but no directories of classes and no table with labels; sort them into a directory '
            'per class, or add labels.csv with the columns path and label.'
        )


def _deeper(root: Path, shapes: list[tuple]) -> list[str]:
    """A note if every image is further down than in a directory of a class: the classes may be below.

    Raises:
        UserError: The depths differ as well: these are several sets of data, not classes.
    """
    if any(len(shape) == 1 for shape in shapes):
        return []
    first, second = shapes[0][:2]
    if len({len(shape) for shape in shapes}) > 1:
        names = one_line(', '.join(sorted({shape[0] for shape in shapes})), limit=80)
        raise UserError(
            f'{root}: no image is directly in {names}, and the directories below have different depths: they are not '
            f'classes; name the directory that holds the classes, such as {root / first}.'
        )
    below = root / first
    return [
        f'every image is in a directory below its class, such as {first}/{second}; if that is the class, name {below}'
    ]


def _domains_beside(root: Path, shapes: list[tuple]) -> list[str]:
    """A note if the directories beside this one hold the same classes: it may be one domain of several."""
    own, parent = {shape[0] for shape in shapes}, root.resolve().parent
    beside = [name for name in subdirectories(parent)[:100] if own <= set(subdirectories(parent / name))]
    others = [name for name in beside if name != root.resolve().name]
    return [f'beside it with the same classes: {", ".join(others[:8])} (name {parent} to read all)'] if others else []


def _has_images(directory: Path) -> bool:
    try:
        return any(path.suffix.lower() in SUFFIXES for path in directory.iterdir())
    except OSError:
        return False


def _order(root: Path, shapes: list[tuple], domains: bool) -> str:
    """The order of the directories: which level names splits, domains, classes."""
    first = sorted({shape[0] for shape in shapes})
    if split_first := [name for name in first if is_split(name)]:
        if others := [name for name in first if not is_split(name)]:
            raise UserError(
                f'{root}: {", ".join(split_first)} hold splits, {one_line(", ".join(others), limit=80)} beside them '
                'do not; move these away.'
            )
        inner = [shape[1:] for shape in shapes if len(shape) > 1]
        if not inner:
            raise UserError(f'{root}: {", ".join(split_first)} hold images but no directories of classes; add them.')
        return f'split/{"domain/" if _has_domains(inner, domains) else ""}class'
    second = {shape[1] for shape in shapes if len(shape) > 1}
    if any(map(is_split, second)):
        if wrong := next((name for name in sorted(second) if not is_split(name)), None):
            raise UserError(
                f'{root}: some directories hold splits, others such as {wrong!r} do not; give all the same order.'
            )
        return 'domain/split/class'
    if domains and not any(len(shape) > 1 for shape in shapes):
        raise UserError(
            f'{root}: hold_out needs domains above the classes (domain/class/image), or a table with groups.'
        )
    return 'domain/class' if _has_domains(shapes, domains) else 'class'


def _has_domains(shapes: list[tuple], asked: bool) -> bool:
    """Whether several first directories hold second ones of the same names: domains with the same classes."""
    if asked and all(len(shape) > 1 for shape in shapes):
        return True
    inside = defaultdict(set)
    for shape in shapes:
        if len(shape) < 2:  # images directly in a first directory: that is a class
            return False
        inside[shape[1]].add(shape[0])
    shared = sum(len(parents) > 1 for parents in inside.values())
    return 2 * shared >= len(inside) and len({shape[0] for shape in shapes}) > 1
