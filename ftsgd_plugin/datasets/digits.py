"""Handwritten digits on photographs: a Waterbirds-like benchmark made from images that come inside Python packages.

The images are the 1,797 handwritten digits of scikit-learn (UCI optdigits, 8x8) and photographs of scikit-image.
Nothing is downloaded. The label is the digit's half (0-4 or 5-9), the place is the photograph (grass or gravel).
In training the place predicts the label in 95 % of the images, as in Waterbirds; in the test split every digit appears
once on each place, so the place carries no information.

Pretraining uses the first ``PRETRAIN_DIGITS`` digits (by other writers: the set is ordered by writer) and all other
photographs, so that the benchmark shows nothing from pretraining.
"""

import csv
import importlib
import os
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from ..utils.errors import UserError, one_line

IMAGE_SIZE = 32  # pixels, height and width
DIGIT_SIZE = 20  # pixels of the pasted digit
PRETRAIN_DIGITS = 600
PLACES = ('grass', 'gravel')
PRETRAIN_PHOTOS = ('brick', 'coffee', 'chelsea', 'astronaut', 'rocket', 'coins', 'moon', 'camera', 'retina')
CORRELATION = 0.95  # share of train and val images whose place agrees with their label
SPLITS = {'train': 0, 'val': 1, 'test': 2}  # the codes of Waterbirds' metadata.csv
DIGITS_PER_SPLIT = {'train': 400, 'val': 200, 'test': 397}
IMAGES_PER_DIGIT = 2
VERSION = 1  # raise it with every change of the images: a directory of another version is refused, not reused
RECIPE = f'Digits of scikit-learn on photographs of scikit-image, by tools/make_digits.py of ftsgd_plugin, v{VERSION}.'
# Disjoint columns of the photographs, so that splits share no piece of background.
COLUMNS = {'train': (0.0, 0.5), 'val': (0.5, 0.75), 'test': (0.75, 1.0)}


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The UCI digits in their published order.

    Returns:
        tuple: images (1797, 8, 8) float32 in [0, 1] and labels (1797,) int64.
    """
    bunch = _module_of_the_demo('sklearn.datasets').load_digits()
    return (bunch.images / 16.0).astype(np.float32), bunch.target.astype(np.int64)


def load_photo(name: str) -> np.ndarray:
    """A photograph of ``skimage.data`` as (H, W, 3) uint8."""
    photo = getattr(_module_of_the_demo('skimage.data'), name)()
    return np.repeat(photo[..., None], 3, axis=2) if photo.ndim == 2 else photo[..., :3]


def _module_of_the_demo(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name.split('.')[0]}: cannot be imported ({one_line(error)}); run: pip install 'ftsgd_plugin[demo]'."
        ) from error


def paste(
    digit: np.ndarray, photo: np.ndarray, rng: np.random.RandomState, columns: tuple[float, float] = (0.0, 1.0)
) -> Image.Image:
    """Paste a digit at a random place on a random piece of a photograph.

    Args:
        digit: (8, 8) float32 in [0, 1].
        photo: (H, W, 3) uint8.
        rng: Source of every random choice.
        columns: The part of the photograph's width to cut from, as fractions.

    Returns:
        PIL.Image.Image: RGB image of ``IMAGE_SIZE`` x ``IMAGE_SIZE``.
    """
    crop = 2 * IMAGE_SIZE
    height, width = photo.shape[:2]
    left = rng.randint(int(columns[0] * width), int(columns[1] * width) - crop + 1)
    top = rng.randint(0, height - crop + 1)
    background = Image.fromarray(photo[top : top + crop, left : left + crop]).reduce(2)

    mask = Image.fromarray((digit * 255).astype(np.uint8)).resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BICUBIC)
    opacity = rng.uniform(0.5, 1.0)
    mask = mask.point(lambda value: value * opacity)
    ink = Image.new('RGB', mask.size, (255, 255, 255) if rng.rand() < 0.5 else (0, 0, 0))
    corner = tuple(int(v) for v in rng.randint(0, IMAGE_SIZE - DIGIT_SIZE + 1, size=2))
    background.paste(ink, corner, mask)
    return background


def write_benchmark(root: str | os.PathLike, seed: int = 0) -> Path:
    """Write the benchmark in the on-disk layout of Waterbirds (``metadata.csv`` and the images).

    The directory is written atomically. The same seed gives the same bytes; a directory that already holds the
    benchmark of this seed is left unchanged.

    Args:
        root: The directory to write; it will hold ``metadata.csv``.
        seed: Seed of the split of the digits, the places and the compositions.

    Returns:
        Path: The written ``metadata.csv``.

    Raises:
        UserError: ``root`` exists and holds something else.
    """
    root, recipe = Path(root), f'{RECIPE}\nseed {seed}\n'
    if root.exists():
        readme = root / 'README.txt'
        if readme.is_file() and readme.read_text() == recipe:
            return root / 'metadata.csv'
        if not root.is_dir() or any(root.iterdir()):
            raise UserError(f'{root}: does not hold the digits of seed {seed}; remove it or name a new directory.')
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
    try:
        rows = _write_images(unfinished, np.random.RandomState(seed))
        with open(unfinished / 'metadata.csv', 'w', newline='') as file:
            writer = csv.writer(file)
            writer.writerow(('img_id', 'img_filename', 'y', 'split', 'place', 'place_filename'))
            writer.writerows(rows)
        (unfinished / 'README.txt').write_text(recipe)
        os.chmod(unfinished, 0o755)
        os.replace(unfinished, root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return root / 'metadata.csv'


def _write_images(root: Path, rng: np.random.RandomState) -> list[tuple]:
    """Write every image below ``root``; return the rows of ``metadata.csv``."""
    images, labels = load_digits()
    photos = [load_photo(name) for name in PLACES]
    order = PRETRAIN_DIGITS + rng.permutation(len(images) - PRETRAIN_DIGITS)
    rows, start = [], 0
    for split, count in DIGITS_PER_SPLIT.items():
        (root / split).mkdir()
        for index in order[start : start + count]:
            y = int(labels[index] >= 5)
            for copy in range(IMAGES_PER_DIGIT):
                likely = y if rng.rand() < CORRELATION else 1 - y
                place = copy if split == 'test' else likely
                name = f'{split}/{index:04d}_{copy}.png'
                paste(images[index], photos[place], rng, COLUMNS[split]).save(root / name)
                rows.append((len(rows) + 1, name, y, SPLITS[split], place, f'{PLACES[place]}.png'))
        start += count
    return rows
