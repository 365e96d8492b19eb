"""What the exports share: the description of a target, and the images that every export is checked with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from PIL import Image
from torch import nn

from ...datasets.preprocessing import evaluation_pipeline
from ...datasets.transforms import why_unreadable
from ...models.image_size import built_for
from ...utils.errors import UserError
from ..run import FinishedRun

IMAGES = 32
# Of PyTorch with PyTorch: float32 sums in another order.
TOLERANCE = 1e-4

# Files and the network's input (B, 3, H, W) -> logits (B, classes); an export that has the preprocessing ignores the
# second, any other the first.
Reader = Callable[[Sequence[Path], torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Target:
    """A library or format that a run can be exported to.

    Attributes:
        name: As ``--to`` takes it.
        takes: The networks that fit, for messages.
        fits: Whether a run fits, without building anything.
        write: Writes weights and config into an empty directory; returns remarks for the model card.
        read: Loads the export with its own library and returns its logits.
        usage: Python code that loads the export from the current directory, at most five lines.
        packages: What must be importable; with the extra that has it.
        extra: The extra of this project that installs the packages.
        tags: Of the model card.
        tolerance: Largest difference of a logit, as a share of the largest logit (at least 1).
    """

    name: str
    takes: str
    fits: Callable[[FinishedRun], bool]
    write: Callable[[FinishedRun, Path], list[str]]
    read: Callable[[FinishedRun, Path], Reader]
    usage: Callable[[FinishedRun], str]
    packages: Sequence[str] = ()
    extra: str = ''
    tags: Sequence[str] = field(default_factory=tuple)
    tolerance: float = TOLERANCE


def last_linear(run: FinishedRun) -> nn.Linear | None:
    """The layer from pooled features to logits, if the head is nothing else; with dropout it may begin."""
    head = getattr(run.model, 'head', None)
    layers = [module for module in head.modules() if next(module.parameters(False), None) is not None] if head else []
    return layers[0] if len(layers) == 1 and isinstance(layers[0], nn.Linear) else None


def check_names(run: FinishedRun, found: Sequence[str], library: str) -> None:
    """Compare the names of the classes that a library reads with the run's.

    Raises:
        UserError: They differ.
    """
    if tuple(found) != run.classes:
        raise UserError(f'{library} reads other names of classes than the run has; nothing is written.')


def plain(value: object) -> object:
    """A config's value without MMEngine's classes."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


def input_size(run: FinishedRun) -> tuple[int, int]:
    """Height and width that the network gets.

    Raises:
        UserError: Neither the preprocessing nor the backbone says it.
    """
    size = run.preprocessing.image_size if run.preprocessing else None
    side = built_for(getattr(run.model, 'backbone', run.model))
    if size is None and side is None:
        raise UserError(
            f'{run.cfg.filename}: neither the test pipeline nor the backbone sets an image size; add a crop.'
        )
    return size or (side, side)


def write_images(run: FinishedRun, directory: Path) -> list[Path]:
    """Write images that the run takes: of any shape if it resizes, else of its size; smooth, with noise, seeded."""
    height, width = input_size(run)
    resizes = run.preprocessing is not None and run.preprocessing.resize is not None
    random, files = np.random.default_rng(0), []
    for i in range(IMAGES):
        size = (
            tuple(int(side * random.uniform(0.8, 1.6)) + 1 for side in (width, height)) if resizes else (width, height)
        )
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse) + random.normal(0, 12, (*size[::-1], 3))
        files.append(directory / f'{i:02d}.png')
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(files[-1])
    return files


def logits_of_run(run: FinishedRun, files: Sequence[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's inputs (B, 3, H, W) and the run's logits (B, classes).

    Raises:
        UserError: A file cannot be read, or their sizes differ and the run does not resize.
    """
    with DefaultScope.overwrite_default_scope(run.cfg.get('default_scope') or 'mmpretrain'):
        pipeline = Compose(evaluation_pipeline(run.cfg, str(run.cfg.filename)))
    loaded = []
    for file in files:
        try:
            loaded.append(pipeline({'img_path': str(file)})['inputs'])
        except Exception as error:
            if (reason := why_unreadable(str(file))) is None:
                raise
            raise UserError(f'{file}: {reason}; name other images.') from error
        if loaded[-1].shape != loaded[0].shape:
            raise UserError(
                f'{file}: has another size than {files[0]}, and this run does not resize; name other images.'
            )
    images = torch.stack(loaded)
    with torch.no_grad():
        inputs = run.model.data_preprocessor({'inputs': images})['inputs']
        return inputs, run.model(inputs, mode='tensor')
