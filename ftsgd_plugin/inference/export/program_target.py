"""torch.export: a program that runs without the code of the network, with any batch size."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ...utils.errors import UserError, one_line
from ..run import FinishedRun
from .target import Reader, Target, check_names, input_size

_USAGE = """\
import torch
files = {'config.json': ''}
model = torch.export.load('model.pt2', extra_files=files).module()
names = __import__('json').loads(files['config.json'])['label_names']  # of the logits
# logits = model(images), float32 (batch, 3, height, width), prepared as stated above"""


class Logits(nn.Module):
    """The classifier from normalised images to logits."""

    INPUT = 'Input are normalised images; the preprocessing is not part of the export.'

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of images (B, 3, H, W)."""
        return self.model(images, mode='tensor')


def export_program(run: FinishedRun) -> torch.export.ExportedProgram:
    """Trace a run's classifier with any batch size.

    Raises:
        UserError: torch.export cannot trace it.
    """
    images = torch.zeros(2, 3, *input_size(run), device=run.device)
    try:
        batch = torch.export.Dim('batch', min=1)
        return torch.export.export(Logits(run.model).eval(), (images,), dynamic_shapes={'images': {0: batch}})
    except Exception as error:
        reason = one_line(error, first=True, limit=200)
        raise UserError(
            f'{run.cfg.filename}: torch.export cannot trace the network ({reason}); use another target.'
        ) from error


def _write(run: FinishedRun, directory: Path) -> list[str]:
    content = {'label_names': list(run.classes), 'preprocessing': run.preprocessing and run.preprocessing.as_meta()}
    config = json.dumps(content, ensure_ascii=False)
    torch.export.save(export_program(run), directory / 'model.pt2', extra_files={'config.json': config})
    return [Logits.INPUT]


def _read(run: FinishedRun, directory: Path) -> Reader:
    files = {'config.json': ''}
    model = torch.export.load(directory / 'model.pt2', extra_files=files).module()
    check_names(run, json.loads(files['config.json'])['label_names'], 'torch.export')

    def logits(files: Sequence[Path], inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([model(inputs[:1]), model(inputs[1:])])

    return logits


TARGET = Target(
    name='torch-export',
    takes='every classifier that torch.export can trace',
    fits=lambda run: True,
    write=_write,
    read=_read,
    usage=lambda run: _USAGE,
    tags=('pytorch',),
)
