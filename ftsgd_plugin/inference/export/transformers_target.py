"""transformers: ``AutoModelForImageClassification.from_pretrained(DIR)``, by its wrapper of timm or its own model."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ...utils.names import type_name
from ..run import FinishedRun
from .as_timm import fits_timm, timm_data
from .target import Reader, Target, check_names
from .timm_target import write_timm

_USAGE = """\
from transformers import AutoImageProcessor, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained('.')
processor = AutoImageProcessor.from_pretrained('.')
# logits = model(**processor(image, return_tensors='pt')).logits of a PIL image in RGB
names = model.config.id2label  # of the logits"""


def _is_native(run: FinishedRun) -> bool:
    return type_name(run.cfg.model) == 'HuggingFaceClassifier'


def _write(run: FinishedRun, directory: Path) -> list[str]:
    if _is_native(run):
        run.model.model.config.id2label = dict(enumerate(run.classes))
        run.model.model.config.label2id = {name: i for i, name in enumerate(run.classes)}
        run.model.model.save_pretrained(directory)
        return ['The preprocessing is not part of the export; prepare images as stated above.']
    from transformers import TimmWrapperForImageClassification

    _without_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        remarks = write_timm(run, Path(scratch))
        TimmWrapperForImageClassification.from_pretrained(scratch).save_pretrained(directory)
    return [remark.replace('timm cannot', 'transformers cannot') for remark in remarks]


def _without_progress_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


def _read(run: FinishedRun, directory: Path) -> Reader:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(directory).eval()
    check_names(run, [model.config.id2label[i] for i in range(model.config.num_labels)], 'transformers')
    processor = None if _is_native(run) or timm_data(run)[1] else AutoImageProcessor.from_pretrained(directory)

    def logits(files: Sequence[Path], inputs: torch.Tensor) -> torch.Tensor:
        if processor is not None:
            images = [Image.open(file).convert('RGB') for file in files]
            inputs = processor(images, return_tensors='pt')['pixel_values']
        return model(inputs).logits

    return logits


TARGET = Target(
    name='transformers',
    takes="what timm takes, and the models of MMPretrain's HuggingFaceClassifier",
    fits=lambda run: _is_native(run) or fits_timm(run),
    write=_write,
    read=_read,
    usage=lambda run: _USAGE if not _is_native(run) else '\n'.join(_USAGE.splitlines()[i] for i in (0, 1, 4)),
    packages=('transformers',),
    extra='hf',
    tags=('transformers', 'timm'),
)
