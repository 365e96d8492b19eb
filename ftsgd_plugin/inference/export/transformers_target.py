"""transformers: ``AutoModelForImageClassification.from_pretrained(DIR)``, by its wrapper of timm or its own model."""

import tempfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from ...utils.errors import UserError
from ...utils.names import type_name
from ..run import FinishedRun
from .as_timm import fits_timm, timm_data
from .target import Reader, Target, check_names, last_linear
from .timm_target import write_timm

_USAGE = """\
from transformers import AutoImageProcessor, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained('.')
processor = AutoImageProcessor.from_pretrained('.')
# logits = model(**processor(image, return_tensors='pt')).logits of a PIL image in RGB
names = model.config.id2label  # of the logits"""


def _is_native(run: FinishedRun) -> bool:
    """Whether the network is a classification model of transformers itself."""
    if type_name(run.cfg.model) == 'HuggingFaceClassifier':
        return True
    if type_name(run.cfg.model.get('backbone')) != 'TransformersBackbone' or last_linear(run) is None:
        return False
    return type(run.model.backbone.net).__name__.endswith('ForImageClassification')


def _native_model(run: FinishedRun) -> nn.Module:
    """A classification model of transformers with the run's weights and names of classes."""
    source = run.model.backbone.net if hasattr(run.model, 'backbone') else run.model.model
    config = deepcopy(source.config)
    config.id2label = dict(enumerate(run.classes))
    config.label2id = {name: i for i, name in enumerate(run.classes)}
    model = type(source)(config)
    missing, unexpected = model.load_state_dict(source.state_dict(), strict=False)
    places = [place for place, module in model.named_modules() if f'{place}.weight' in missing]
    if (
        unexpected
        or len(places) > 1
        or {*missing} != {f'{place}.{kind}' for place in places for kind in ('weight', 'bias')}
    ):
        differing = next(iter([*unexpected, *missing]))
        raise UserError(
            f'{run.cfg.filename}: transformers builds its {type(source).__name__} differently with a classifier '
            f'({differing}); export to onnx, torch-export or mmpretrain.'
        )
    for place in places:
        with torch.no_grad():
            model.get_submodule(place).weight.copy_(last_linear(run).weight)
            model.get_submodule(place).bias.copy_(last_linear(run).bias)
    return model.eval()


def _write(run: FinishedRun, directory: Path) -> list[str]:
    _without_progress_bars()
    if _is_native(run):
        _native_model(run).save_pretrained(directory)
        return ['The preprocessing is not part of the export; prepare images as stated above.']
    from transformers import TimmWrapperForImageClassification

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
    takes="what timm takes, TransformersBackbone with a linear head, and MMPretrain's HuggingFaceClassifier",
    fits=lambda run: _is_native(run) or fits_timm(run),
    write=_write,
    read=_read,
    usage=lambda run: _USAGE if not _is_native(run) else '\n'.join(_USAGE.splitlines()[i] for i in (0, 1, 4)),
    packages=('transformers',),
    extra='hf',
    tags=('transformers', 'timm'),
)
