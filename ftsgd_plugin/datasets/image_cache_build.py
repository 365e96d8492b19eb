"""Build an image cache: once, with progress, by one process at a time; a half-built one is never read."""

import contextlib
import hashlib
import json
import logging
import math
import multiprocessing
import os
import os.path as osp
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import PIL
import torch
import torchvision
from mmengine.logging import print_log
from PIL import features
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..utils.errors import UserError
from ..utils.files import atomic_directory, temporary_name, write_text
from ..utils.format import format_bytes, format_duration, printable
from ..utils.locks import hold_lock, try_lock
from ..utils.paths import cache_directory
from ..utils.version import __version__
from .image_cache import ABOUT, PIXELS, SHAPES, ImageCache, Plan, is_finished, name_digest
from .readers.saved import is_saved

_FORMAT = 1  # a new number where this package begins to load or store pixels in another way
_BATCH = 8  # images that a process hands over at once
_FEW = 256  # of fewer images no process is started
_WAIT_SECONDS = 24 * 3600.0  # for another process that builds the same cache
_CODECS = ('jpg', 'jpg_2000', 'zlib', 'libtiff', 'webp', 'libjpeg_turbo')


class UnfitImagesError(ValueError):
    """The images of a split do not have one shape after the steps without randomness, or none can be read."""


class Source(NamedTuple):
    """What is cached.

    Attributes:
        name: Of the data set and the split, for messages and the directory.
        paths: Of the images, in the order of the records.
        plan: The steps, as configs.
        steps: The same steps, built, see :func:`ftsgd_plugin.datasets.image_cache.replaced_steps`.
    """

    name: str
    paths: Sequence[str]
    plan: Plan
    steps: Sequence[Callable]


def open_cache(source: Source, place: bool | str) -> ImageCache | None:
    """The cache of a split, built if it does not exist.

    Args:
        source: The images and what is done to them.
        place: The directory of all caches; ``True``: ``ftsgd_plugin/images`` in ``XDG_CACHE_HOME``, by default
            ``~/.cache``.

    Returns:
        ImageCache | None: ``None``, after a warning, if no image can be read or their shapes differ.

    Raises:
        UserError: There is no room, the directory cannot be written, or a finished cache is damaged.
    """
    root = Path(place).expanduser().absolute() if isinstance(place, str) else cache_directory() / 'images'
    key = cache_key(source.paths, source.plan)
    directory = root / f'{re.sub("[^A-Za-z0-9_-]+", "-", source.name)}-{key[:16]}'
    if not is_finished(directory, key):
        with _lock(directory, source.name) as alone:
            if alone:
                _remove_leftovers(directory)
            reason = None if is_finished(directory, key) else _build_or_refuse(source, directory, key)
        if reason is not None:
            print_log(f'image cache: {source.name} is read without it: {reason}', 'current', logging.WARNING)
            return None
    names = np.fromiter(map(name_digest, source.paths), np.uint64, len(source.paths))
    cache = ImageCache(directory, names)
    print_log(f'image cache: {source.name} is read from {directory}', 'current', logging.INFO)
    return cache


def cache_key(paths: Sequence[str], plan: Plan) -> str:
    """SHA-256 of everything that the stored pixels depend on.

    These are path, size and modification time of every file, the steps with their options, and the versions of the
    libraries that decode and resize.
    """
    digest = hashlib.sha256(json.dumps(_recipe(plan), sort_keys=True, default=str).encode())
    for path in paths:
        line = f'{osp.abspath(path)}\0{_stamp(path)}\n'
        digest.update(line.encode('utf-8', 'surrogateescape'))
    return digest.hexdigest()


def _recipe(plan: Plan) -> dict:
    versions = {'ftsgd_plugin': __version__, 'pillow': PIL.__version__, 'torchvision': torchvision.__version__}
    versions |= {name: features.version(name) for name in _CODECS}
    return {'format': _FORMAT, 'steps': plan.steps, 'packed': plan.packed, 'versions': versions}


def _stamp(path: str) -> str:
    """Size and modification time of an image; ``'missing'`` if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        directory = osp.dirname(osp.dirname(path))  # an image inside a saved data set has a path and no file
        return _saved_stamp(directory) if is_saved(directory) else 'missing'
    return f'{found.st_size} {found.st_mtime_ns}'


@lru_cache(maxsize=16)
def _saved_stamp(directory: str) -> str:
    return ' '.join(f'{file.name} {_stamp(str(file))}' for file in sorted(Path(directory).iterdir()) if file.is_file())


@contextlib.contextmanager
def _lock(directory: Path, name: str) -> Iterator[bool]:
    """Wait until no other process builds this cache; yields whether it is certain, which needs file locks."""
    path = directory.with_name(f'.{directory.name}.lock')
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = stack.enter_context(hold_lock(path, 0))
            except filelock.Timeout:
                print_log(f'image cache: waiting for the process that builds the one of {name}', 'current')
                descriptor = stack.enter_context(hold_lock(path, _WAIT_SECONDS))
        except filelock.Timeout:
            raise UserError(
                f'{path}: another process has held it for {format_duration(_WAIT_SECONDS)}; end it, or leave out '
                'image_cache.'
            ) from None
        except OSError as error:
            raise UserError(
                f'{path}: cannot be written ({error.strerror or error}); choose another directory: image_cache=DIR.'
            ) from error
        yield try_lock(descriptor) is True


def _remove_leftovers(directory: Path) -> None:
    """Remove what builds of this cache have left that were killed."""
    for leftover in directory.parent.glob(temporary_name(f'{directory.name}.*')):
        shutil.rmtree(leftover, ignore_errors=True)


def _build_or_refuse(source: Source, directory: Path, key: str) -> str | None:
    """Write a cache; if it cannot be one, why not: that is kept too, for it may take long to find."""
    refusal = directory.with_name(f'{directory.name}.refused')
    with contextlib.suppress(OSError, ValueError):
        kept, _, reason = refusal.read_text(encoding='utf-8').partition('\n')
        if kept == key:
            return reason
    try:
        _build(source, directory, key)
    except UnfitImagesError as error:
        write_text(refusal, f'{key}\n{printable(str(error))}')
        return str(error)
    return None


def _build(source: Source, directory: Path, key: str) -> None:
    count, images = len(source.paths), _Decoded(source)
    first = next((found for found in map(images.__getitem__, range(count)) if found is not None), None)
    if first is None:
        raise UnfitImagesError('no image can be read')
    shape = first.pixels.shape
    size = count * math.prod(shape)
    height, width = shape[1:] if source.plan.packed else shape[:2]
    free = shutil.disk_usage(directory.parent).free
    what = f'{count:,} images x {height} x {width} x 3 = {format_bytes(size)}'
    if free < size:
        raise UserError(
            f'image cache: {source.name} needs {what}, {directory.parent} has {format_bytes(free)} left; make room or '
            'choose another directory: image_cache=DIR.'
        )
    print_log(f'image cache: building {source.name}: {what} in {directory} ({format_bytes(free)} are free)', 'current')
    own = f'{directory.name}.{socket.gethostname()}-{os.getpid()}'  # where locks do not work, two may build at once
    start = time.monotonic()
    with atomic_directory(directory.with_name(own)) as temporary:
        shapes = _write_pixels(source.name, images, temporary / PIXELS, shape)
        with open(temporary / SHAPES, 'wb') as file:
            np.lib.format.write_array(file, shapes, allow_pickle=False)
        about = {'key': key, 'images': source.name, 'count': count, 'shape': shape, 'bytes': size}
        text = json.dumps({**about, **_recipe(source.plan)}, indent=1, default=str)
        with open(temporary / ABOUT, 'w', encoding='utf-8') as file:
            file.write(text)
    _rename(directory.with_name(own), directory, key)
    missing = int((shapes[:, 0] == 0).sum())
    left = f'; {missing:,} images cannot be read and are left to on_bad_image' if missing else ''
    took = format_duration(time.monotonic() - start)
    print_log(f'image cache: {source.name} is complete after {took}{left}', 'current')


def _write_pixels(name: str, images: '_Decoded', path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Decode every image into a ``.npy`` file; returns the shapes, int32, count x 2."""
    count = len(images)
    # Writes into a map would end the process where the disk is full; these fail with an error.
    with open(path, 'wb') as file, tqdm(total=count, desc=f'image cache of {name}', unit='img', disable=None) as bar:
        header = {'descr': '|u1', 'fortran_order': False, 'shape': (count, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        shapes, empty = np.zeros((count, 2), np.int32), bytes(math.prod(shape))
        row = 0
        for batch in _batches(images):
            for found in batch:
                if found is None:
                    file.write(empty)
                elif found.pixels.shape != shape:
                    raise UnfitImagesError(
                        f'after its first steps {images.source.paths[row]} has the shape {found.pixels.shape} and the '
                        f'first image {shape}; a Resize to (height, width) or a CenterCrop would make them equal'
                    )
                else:
                    file.write(found.pixels.data)
                    shapes[row] = found.shape
                row += 1
            bar.update(len(batch))
    return shapes


class _Image(NamedTuple):
    pixels: np.ndarray
    shape: tuple[int, int]  # of the image in its file


class _Decoded(Dataset):
    """The images of a source after the steps; ``None`` for one that fails: a run without a cache meets it too."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.paths)

    def __getitem__(self, row: int) -> _Image | None:
        results = {'img_path': self.source.paths[row]}
        try:
            for step in self.source.steps:
                results = step(results)
        except Exception:
            return None
        return _Image(np.ascontiguousarray(results['img']), results['ori_shape'])


def _batches(images: _Decoded) -> Iterator[list[_Image | None]]:
    """Every image in order, decoded by all cores; draws no random number of this process."""
    inside = multiprocessing.parent_process() is not None and multiprocessing.current_process().daemon
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    workers = 0 if inside or len(images) < _FEW or cores == 1 else cores
    yield from DataLoader(images, batch_size=_BATCH, num_workers=workers, collate_fn=list, generator=torch.Generator())


def _rename(finished: Path, directory: Path, key: str) -> None:
    """Give a complete cache its name, unless another process was faster."""
    try:
        os.rename(finished, directory)
    except OSError as error:
        if not is_finished(directory, key):
            damaged = f'{directory}: is not the image cache of its name ({error.strerror}); remove this directory.'
            raise UserError(damaged) from error
    finally:
        shutil.rmtree(finished, ignore_errors=True)
