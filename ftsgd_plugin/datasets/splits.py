"""Draw the splits of a user's own data: a pure function of paths, classes, groups and a seed.

Nothing depends on the order of the files, the machine or a library's random numbers: what is drawn first is decided by
a hash (BLAKE2b) of seed and path. scikit-learn's splitters draw by position, and their result may change with its
version.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from ..utils.errors import UserError, one_line
from ..utils.names import did_you_mean

TRAIN, VAL, TEST, OOD = 'train', 'val', 'test', 'ood'
DRAWN = (TRAIN, VAL, TEST)
# How others name them. Other names ('id_test') are kept as they are.
_ALIASES = {
    TRAIN: ('train', 'training', 'trn', 'train_set', 'trainset'),
    VAL: ('val', 'valid', 'validation', 'dev', 'development', 'val_set', 'valset'),
    TEST: ('test', 'testing', 'tst', 'eval', 'evaluation', 'test_set', 'testset'),
    OOD: ('ood',),
}
_KNOWN = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
_OWN = ('id_val', 'id_test', 'ood_val', 'ood_test')  # kept, and recognised as names of directories


def split_name(text: str) -> str:
    """The name of a split here: ``'Validation'`` -> ``'val'``; another name as it is."""
    return _KNOWN.get(text.strip().lower(), text.strip())


def is_split(directory: str) -> bool:
    """Whether a directory of this name holds a split, never a class."""
    name = directory.strip().lower()
    return name in _KNOWN or name in _OWN


@dataclass(frozen=True)
class Draw:
    """Which fractions of the data become ``val`` and ``test``; the rest trains.

    Attributes:
        val, test: Fractions, 0 to below 1.
        seed: Another seed draws other images.
        whole: Field whose values stay together (``'group'``, or a metadata column such as ``'patient'``): all images of
            a patient are in one split. Empty: image by image, stratified by class and group.
    """

    val: float = 0.0
    test: float = 0.0
    seed: int = 0
    whole: str = ''

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Of train, val and test."""
        return (1 - self.val - self.test, self.val, self.test)

    @property
    def names(self) -> tuple[str, ...]:
        """The splits that are drawn."""
        return tuple(name for name, fraction in zip(DRAWN, self.fractions) if fraction)


def parse_draw(draw: Mapping | None) -> Draw | None:
    """The option ``draw`` of ``GroupedImages``: ``dict(val=0.1, test=0.2, seed=0, whole='patient')``.

    Raises:
        UserError: A key is unknown, or a value is of another type or outside its range.
    """
    if draw is None:
        return None
    if not isinstance(draw, Mapping):
        raise UserError(f'GroupedImages: draw={one_line(repr(draw), limit=60)} is not a dict(val=, test=, seed=).')
    known = ('val', 'test', 'seed', 'whole')
    if unknown := [key for key in draw if key not in known]:
        raise UserError(f'GroupedImages: draw has no {unknown[0]!r}; {did_you_mean(str(unknown[0]), known)}')
    for key in ('val', 'test'):
        value = draw.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise UserError(f'GroupedImages: draw.{key}={value!r} is not a fraction from 0 to below 1.')
    seed, whole = draw.get('seed', 0), draw.get('whole', '')
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f'GroupedImages: draw.seed={seed!r} is not a whole number from 0.')
    if not isinstance(whole, str):
        raise UserError(f"GroupedImages: draw.whole={whole!r} is not the name of a field, such as 'group'.")
    found = Draw(float(draw.get('val', 0.0)), float(draw.get('test', 0.0)), seed, whole)
    if not 0 < found.val + found.test < 1:
        raise UserError(f'GroupedImages: draw.val={found.val} and draw.test={found.test} must add up to 0 ... 1.')
    return found


def draw_splits(
    paths: Sequence[str], labels: np.ndarray, groups: np.ndarray, draw: Draw, whole: np.ndarray | None = None
) -> np.ndarray:
    """Draw train, val and test.

    Args:
        paths: Paths of the images (N), relative, each once.
        labels: (N,) classes, 0 ... in the order of their names.
        groups: (N,) groups, in the same way.
        draw: Fractions and seed.
        whole: (N,) what stays together, in the same way; ``None``: draw image by image.

    Returns:
        np.ndarray: (N,) int8, indices into :data:`DRAWN`.

    Raises:
        UserError: There are fewer units than splits.
    """
    if whole is None:
        keys = hash_order(draw.seed, paths)
        return _draw_images(keys, np.asarray(labels), np.asarray(groups), draw)
    units, whole = np.unique(whole, return_inverse=True)
    if len(units) < len(draw.names):
        raise UserError(
            f'GroupedImages: {len(units)} values of draw.whole={draw.whole!r} cannot be drawn into {len(draw.names)} '
            f'splits ({", ".join(draw.names)}); draw fewer, or image by image.'
        )
    # The name of a unit is its first path: a code would depend on which other units exist.
    first = {}
    for path, unit in zip(paths, whole.tolist()):
        if unit not in first or path < first[unit]:
            first[unit] = path
    keys = hash_order(draw.seed, [first[unit] for unit in range(len(units))])
    return _draw_units(keys, whole, np.asarray(labels), draw)[whole]


def hash_order(seed: int, texts: Iterable[str]) -> np.ndarray:
    """(N,) uint64: sorted by these numbers, the texts are in an order that depends on each text and the seed alone."""
    key = str(seed).encode()
    digests = b''.join([blake2b(_bytes(text), digest_size=8, key=key).digest() for text in texts])
    return np.frombuffer(digests, '>u8').astype(np.uint64)


def _bytes(text: str) -> bytes:
    # File systems of macOS decompose accents; names that are not UTF-8 arrive with surrogates.
    return (text if text.isascii() else unicodedata.normalize('NFC', text)).encode('utf-8', 'surrogateescape')


def _draw_images(keys: np.ndarray, labels: np.ndarray, groups: np.ndarray, draw: Draw) -> np.ndarray:
    """Every class gets its share of every split, rounded so that the sums over the classes are right too; within a
    class the images of a split are spread evenly over its groups."""
    splits = np.zeros(len(keys), np.int8)
    # Classes and groups in an order that the seed decides: that of the names would always favour the first ones.
    class_order = np.argsort(hash_order(draw.seed, map(str, range(labels.max(initial=-1) + 1))))
    group_rank = np.argsort(np.argsort(hash_order(draw.seed, map(str, range(groups.max(initial=-1) + 1)))))
    order = np.lexsort((keys, group_rank[groups], labels))
    ends = np.cumsum(np.bincount(labels, minlength=len(class_order)))
    seen, given, drawn = 0, [0, 0, 0], [0, 0, 0]
    for label in class_order:
        start, end = (ends[label - 1] if label else 0), ends[label]
        rows, count = order[start:end], int(end - start)
        if not count:
            continue
        seen += count
        counts = [0, *(round(seen * draw.fractions[i]) - given[i] for i in (1, 2))]
        given = [before + more for before, more in zip(given, counts)]  # what a small class cannot give, none makes up
        while sum(counts) > max(count - 1, 0):  # one image at least trains
            counts[max((1, 2), key=lambda i: (counts[i], drawn[i]))] -= 1
        drawn = [before + more for before, more in zip(drawn, counts)]
        for i in (1, 2):
            if counts[i] > 0:
                chosen = ((np.arange(counts[i]) + 0.5) * len(rows) / counts[i]).astype(int)
                splits[rows[chosen]] = i
                rows = np.delete(rows, chosen)
    return splits


def _draw_units(keys: np.ndarray, whole: np.ndarray, labels: np.ndarray, draw: Draw) -> np.ndarray:
    """The split of every unit: large ones first, each where it brings the classes nearest to their shares.

    The distance is chi-squared: per split and class, the squared difference to the share, divided by the share. (As in
    scikit-learn's StratifiedGroupKFold, which compares standard deviations and knows only equal shares.)
    """
    classes = int(labels.max()) + 1
    pairs, counts = np.unique(whole.astype(np.int64) * classes + labels, return_counts=True)
    of_unit, of_class = pairs // classes, pairs % classes
    bounds = np.searchsorted(of_unit, np.arange(len(keys) + 1))
    totals = np.bincount(labels, minlength=classes)
    fractions = np.array(draw.fractions)
    active = np.flatnonzero(fractions)
    targets = fractions[active, None] * totals  # (splits, classes)
    have = np.zeros_like(targets)
    # Units of similar size in an order that the seed decides.
    sizes = np.bincount(whole, minlength=len(keys))
    splits = np.zeros(len(keys), np.int8)
    for unit in np.lexsort((keys, -np.floor(np.log2(sizes)))):
        cells = slice(bounds[unit], bounds[unit + 1])
        where, more = of_class[cells], counts[cells]
        change = (more * (2 * (have[:, where] - targets[:, where]) + more) / targets[:, where]).sum(axis=1)
        best = int(change.argmin())
        have[best, where] += more
        splits[unit] = active[best]
    return _fill(splits, sizes, keys, of_unit, of_class, active)


def _fill(splits, sizes, keys, of_unit, of_class, active) -> np.ndarray:
    """Move units so that no split is empty and every class trains, where that is possible."""
    for split in active[1:]:
        if not (splits == split).any():
            donors = np.flatnonzero(splits == np.bincount(splits).argmax())
            splits[donors[np.lexsort((keys[donors], sizes[donors]))[0]]] = split
    trained = np.zeros(of_class.max() + 1, bool)
    trained[of_class[splits[of_unit] == 0]] = True
    for label in np.flatnonzero(~trained):
        holders = of_unit[of_class == label]
        spare = [unit for unit in holders if (splits == splits[unit]).sum() > 1]
        if len(spare) and not (splits[holders] == 0).any():
            splits[min(spare, key=lambda unit: (sizes[unit], keys[unit]))] = 0
    return splits
