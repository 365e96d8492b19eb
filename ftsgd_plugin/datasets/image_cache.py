"""An optional cache of decoded, resized images, in files that are mapped into memory.

Decoding a photograph takes a core 2 to 3 ms, more than a GPU takes to train on it. Where a pipeline begins with steps
without randomness, their result is the same in every epoch and every run: it is stored once as uint8
(:mod:`ftsgd_plugin.datasets.image_cache_build`) and read from there. Pixels and random draws are those of the pipeline
without a cache, bit for bit.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..utils.errors import UserError
from ..utils.names import type_name
from .transforms import PackRGB

ABOUT, PIXELS, SHAPES = 'about.json', 'images.npy', 'shapes.npy'  # the files of a cache
_LOADER = 'LoadRGBImage'
_WITHOUT_RANDOMNESS = ('torchvision/Resize', 'torchvision/CenterCrop', 'torchvision/Pad')
_ALSO_WITHOUT_RANDOMNESS = (  # but nothing that is stored
    *('LoadImageFromFile', 'Resize', 'ResizeEdge', 'CenterCrop', 'PackRGB', 'PackInputs'),
    *('NumpyToPIL', 'PILToNumpy', 'ToPIL', 'ToNumpy'),
)
# Random steps that only move pixels, with the options for which they draw and do the same on a tensor as on an image.
_MOVING = {
    'torchvision/RandomHorizontalFlip': {'type', 'p'},
    'torchvision/RandomVerticalFlip': {'type', 'p'},
    'torchvision/RandomCrop': {'type', 'size'},
}


@dataclass(frozen=True)
class Plan:
    """Which part of a pipeline is cached.

    Attributes:
        steps: Configs of the first steps, those without randomness.
        moving: How many steps follow that only move pixels, if ``PackRGB`` comes after them: they are then applied to
            packed tensors. ``None``: the steps that follow need PIL images.
    """

    steps: tuple[Mapping, ...]
    moving: int | None

    @property
    def packed(self) -> bool:
        """Whether tensors are stored (3 x height x width, as :class:`PackRGB` makes them), or images (H x W x 3)."""
        return self.moving is not None


def plan_cache(pipeline: Sequence) -> Plan | None:
    """The part of a pipeline that a cache replaces.

    Returns:
        Plan | None: ``None`` if the pipeline does not begin with ``LoadRGBImage``, or if what is random in it needs the
        whole image (``RandomResizedCrop``).
    """
    if not pipeline or not isinstance(pipeline[0], Mapping) or type_name(pipeline[0]) != _LOADER:
        return None
    count = 1
    while count < len(pipeline) and _is(pipeline[count], _WITHOUT_RANDOMNESS):
        count += 1
    after = count
    while after < len(pipeline) and _only_moves(pipeline[after]):
        after += 1
    packs = after < len(pipeline) and _is(pipeline[after], ('PackRGB',))
    return Plan(tuple(pipeline[:count]), after - count if packs else None) if packs or count > 1 else None


def has_no_randomness(pipeline: Sequence) -> bool:
    """Whether a pipeline gives the same for the same file every time, as far as its steps are known."""
    known = (_LOADER, *_WITHOUT_RANDOMNESS, *_ALSO_WITHOUT_RANDOMNESS)
    return bool(pipeline) and all(_is(step, known) for step in pipeline)


def _is(step: object, names) -> bool:
    return isinstance(step, Mapping) and type_name(step) in names


def _only_moves(step: object) -> bool:
    return _is(step, _MOVING) and step.keys() <= _MOVING[type_name(step)] | {'_scope_'}


def name_digest(path: str) -> int:
    """64 bits of a path, by which :class:`ImageCache` tells that a row is the one that is asked for."""
    return int.from_bytes(hashlib.blake2b(path.encode('utf-8', 'surrogateescape'), digest_size=8).digest(), 'little')


class ImageCache:
    """The rows of a finished cache; every process maps the same file.

    Args:
        directory: It holds :data:`PIXELS` (uint8, one image per row), :data:`SHAPES` (int32, height and width of the
            image in its file; zeros where there is no row) and :data:`ABOUT`.
        names: :func:`name_digest` of the path of every row, uint64.

    Raises:
        UserError: A file is missing or damaged.
    """

    def __init__(self, directory: Path, names: np.ndarray) -> None:
        self.directory, self.names = directory, names
        self._open()

    def _open(self) -> None:
        try:
            pixels = np.load(self.directory / PIXELS, mmap_mode='r')
            self._shapes = np.load(self.directory / SHAPES)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f'{self.directory}: the image cache is damaged ({error}); remove this directory.') from None
        if len(pixels) != len(self.names) or self._shapes.shape != (len(pixels), 2):
            raise UserError(f'{self.directory}: the image cache is incomplete; remove this directory.')
        self._pixels = pixels.view(np.ndarray)  # a view of a memmap costs several times that of an array

    def __getstate__(self) -> dict:
        return {'directory': self.directory, 'names': self.names}  # a pickled map would be the pixels themselves

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def __deepcopy__(self, memo: dict) -> 'ImageCache':
        return self  # nothing in it changes

    def get(self, row: int | None, path: str) -> tuple[np.ndarray, tuple[int, int]] | None:
        """The pixels of a row (read-only) and the shape of the image in its file.

        Args:
            row: Number of the record in the data set.
            path: Its image.

        Returns:
            tuple | None: ``None`` if the row is of another image, or was not stored.
        """
        if row is None or row >= len(self.names) or int(self.names[row]) != name_digest(path):
            return None
        height, width = self._shapes[row].tolist()
        return (self._pixels[row], (height, width)) if height else None


class CachedImage:
    """The first step of a pipeline with a cache: what is not stored goes through the steps that it replaces.

    Args:
        cache: Where to look.
        steps: The replaced steps, built, ``PackRGB`` included if ``packed``.
        packed: See :class:`Plan`.
    """

    def __init__(self, cache: ImageCache, steps: Sequence[Callable], packed: bool) -> None:
        self.cache, self.steps, self.packed = cache, steps, packed

    def __call__(self, results: dict) -> dict:
        found = self.cache.get(results.get('sample_idx'), results['img_path'])
        if found is None:
            for step in self.steps:
                results = step(results)
            return results
        pixels, shape = found
        results['img'] = torch.from_numpy(pixels.copy()) if self.packed else Image.fromarray(pixels)
        results['ori_shape'] = shape
        results['img_shape'] = pixels.shape[1:] if self.packed else shape
        return results

    def __repr__(self) -> str:
        return f'CachedImage({self.cache.directory}) of {", ".join(map(repr, self.steps))}'


class Repacked:
    """What is left of ``PackRGB`` after a step that has moved the pixels of a packed tensor."""

    def __call__(self, results: dict) -> dict:
        results['img'] = results['img'].contiguous()
        results['img_shape'] = tuple(results['img'].shape[1:])
        return results

    def __repr__(self) -> str:
        return 'Repacked()'


def replaced_steps(plan: Plan, transforms: Sequence[Callable]) -> list[Callable]:
    """The steps whose result is stored, of the built pipeline."""
    return [*transforms[: len(plan.steps)], *([PackRGB()] if plan.packed else [])]


def cached_pipeline(plan: Plan, transforms: Sequence[Callable], cache: ImageCache) -> list[Callable]:
    """The built pipeline with a cache in the place of its first steps."""
    first = CachedImage(cache, replaced_steps(plan, transforms), plan.packed)
    rest = list(transforms[len(plan.steps) :])
    if not plan.packed:
        return [first, *rest]
    moved = [each for step in rest[: plan.moving] for each in (step, Repacked())]  # a crop is flipped faster packed
    return [first, *moved, *rest[plan.moving + 1 :]]


def is_finished(directory: Path, key: str) -> bool:
    """Whether a directory holds the cache of a key; it gets its name when it is complete."""
    try:
        return json.loads((directory / ABOUT).read_text(encoding='utf-8'))['key'] == key
    except (OSError, ValueError, KeyError, TypeError):
        return False
