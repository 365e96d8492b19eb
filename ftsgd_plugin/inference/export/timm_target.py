"""timm: ``timm.create_model('local-dir:DIR', pretrained=True)``; also the layout of its models on the hub."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..run import FinishedRun
from .as_timm import as_timm, fits_timm, timm_data
from .target import Reader, Target, check_names

_USAGE = """\
import timm
model = timm.create_model('local-dir:.', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
names = model.pretrained_cfg['label_names']  # of the logits
# logits = model(transform(image)[None]) of a PIL image in RGB"""


def write_timm(run: FinishedRun, directory: Path) -> list[str]:
    """Write ``config.json`` and ``model.safetensors`` with timm's own function."""
    from timm.models import save_for_hf

    net, args = as_timm(run)
    save_for_hf(
        net, str(directory), model_config={'label_names': list(run.classes)}, model_args=args, safe_serialization=True
    )
    file = directory / 'config.json'
    content = json.loads(file.read_text())
    # Beside the names, timm states the number of classes in model_args too; transformers takes it from one place only.
    content.get('model_args', {}).pop('num_classes', None)
    content['pretrained_cfg'].pop('tag', None)  # of the weights that training started from
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n')
    reason = timm_data(run)[1]
    return [f'timm cannot express the preprocessing of the run ({reason}); prepare images as stated above.'] * bool(
        reason
    )


def _read(run: FinishedRun, directory: Path) -> Reader:
    import timm

    model = timm.create_model(f'local-dir:{directory}', pretrained=True).eval()
    check_names(run, model.pretrained_cfg['label_names'], 'timm')
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    own_transform = not timm_data(run)[1]

    def logits(files: Sequence[Path], inputs: torch.Tensor) -> torch.Tensor:
        return model(open_images(files, transform) if own_transform else inputs)

    return logits


def open_images(files: Sequence[Path], transform) -> torch.Tensor:
    """Files through a transform of PIL images, as a batch."""
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(transform(image.convert('RGB')))
    return torch.stack(images)


TARGET = Target(
    name='timm',
    takes='timm networks, plain ViT towers of open_clip, and ViT and ResNet of MMPretrain, with a linear head',
    fits=fits_timm,
    write=write_timm,
    read=_read,
    usage=lambda run: _USAGE,
    packages=('timm',),
    tags=('timm',),
)
