"""Images that occur twice: with the same pixels, or nearly.

Near duplicates are found by the perceptual hash pHash (Zauner 2010, as in the package ImageHash: which of the lowest
8 x 8 frequencies of a 32 x 32 grey image are above their median) and confirmed on the grey values themselves: hashes of
similar scenes, such as aligned parts under the same light, can agree by chance.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations

import numpy as np
from PIL import Image
from scipy.fft import dct

from .transforms import load_rgb, why_unreadable

HASH_BITS = 4  # of 64 that may differ
GREY_LEVELS = 6.0  # of 255: largest mean difference of the 16 x 16 grey images
METHOD = (
    f'pHash differs in at most {HASH_BITS} of 64 bits, 16 x 16 grey images by at most {GREY_LEVELS:g} of 255 on average'
)
_BANDS = tuple(np.uint64(sum(1 << bit for bit in range(start, 64, HASH_BITS + 1))) for start in range(HASH_BITS + 1))


@dataclass(frozen=True)
class Look:
    """What is kept of an image.

    Attributes:
        reason: Why it cannot be used; ``None`` if it can, and then the rest is set.
        pixels: Hash of size and RGB values.
        phash: Perceptual hash, 64 bits.
        grey: 16 x 16 grey values.
    """

    reason: str | None = None
    pixels: bytes = b''
    phash: int = 0
    grey: bytes = b''


def look_at(path: str) -> Look:
    """Decode an image and hash it."""
    try:
        image = load_rgb(path)
    except Exception:
        if (reason := why_unreadable(path)) is None:
            raise
        return Look(reason)
    pixels = blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest()
    grey = image.convert('L').resize((32, 32), Image.Resampling.LANCZOS)
    return Look(None, pixels, phash(np.asarray(grey)), grey.resize((16, 16), Image.Resampling.BOX).tobytes())


def phash(grey: np.ndarray) -> int:
    """The perceptual hash of a 32 x 32 grey image, in the bit order of ImageHash."""
    low = dct(dct(grey.astype(float), axis=0), axis=1)[:8, :8]
    bits = (low > np.median(low)).ravel()
    return int(''.join('1' if bit else '0' for bit in bits), 2)


def exact_groups(looks: Sequence[Look]) -> list[list[int]]:
    """Indices of images with the same pixels, two or more each."""
    same: dict[bytes, list[int]] = {}
    for i, look in enumerate(looks):
        if look.reason is None:
            same.setdefault(look.pixels, []).append(i)
    return [several for several in same.values() if len(several) > 1]


def near_pairs(looks: Sequence[Look], splits: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of images of different splits that look the same without having the same pixels.

    Of several images with the same hash in a split, the first ones stand for all: a blank image would have thousands.

    Args:
        looks: What was kept of the images (N).
        splits: (N,) their splits, as numbers.
    """
    usable = [i for i, look in enumerate(looks) if look.reason is None]
    if not usable:
        return []
    hashes = np.array([looks[i].phash for i in usable], np.uint64)
    values, inverse = np.unique(hashes, return_inverse=True)
    members: dict[int, list[int]] = {}
    for i, value in zip(usable, inverse.tolist()):
        members.setdefault(value, []).append(i)
    found = set()
    for a, b in {*((value, value) for value in range(len(values))), *_close(values)}:
        for i, j in _cross(members[a], members[b], splits):
            first, second = looks[i], looks[j]
            if first.pixels == second.pixels:
                continue
            difference = np.frombuffer(first.grey, np.uint8).astype(float) - np.frombuffer(second.grey, np.uint8)
            if np.abs(difference).mean() <= GREY_LEVELS:
                found.add((min(i, j), max(i, j)))
    return sorted(found)


_MOST = 20  # images of a hash and a split that are compared


def _cross(some: Sequence[int], others: Sequence[int], splits: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of different splits, of few images per split."""

    def few(indices: Sequence[int]) -> list[int]:
        taken: dict[int, int] = {}
        kept = []
        for i in indices:
            taken[splits[i]] = taken.get(splits[i], 0) + 1
            if taken[splits[i]] <= _MOST:
                kept.append(i)
        return kept

    pairs = combinations(few(some), 2) if some is others else ((i, j) for i in few(some) for j in few(others))
    return ((i, j) for i, j in pairs if splits[i] != splits[j])


def _close(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of different hashes within ``HASH_BITS`` bits: two such agree in one of ``HASH_BITS + 1`` bands of bits."""
    for band in _BANDS:
        keys = values & band
        order = np.argsort(keys, kind='stable')
        starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0])
        for start, end in zip(starts, np.r_[starts[1:], len(order)]):
            bucket = order[start:end]
            for k in range(len(bucket) - 1):
                distance = _bits(values[bucket[k]] ^ values[bucket[k + 1 :]])
                for other in bucket[k + 1 :][distance <= HASH_BITS]:
                    yield tuple(sorted((int(bucket[k]), int(other))))


def _bits(words: np.ndarray) -> np.ndarray:
    """Number of bits that are set (``numpy.bitwise_count`` needs NumPy 2)."""
    return np.unpackbits(words.view(np.uint8).reshape(len(words), 8), axis=1).sum(axis=1)
