"""open_clip: the vision tower in its layout, and the head in a file of its own: CLIP has no place for a classifier."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ...utils.names import type_name
from ..run import FinishedRun
from .as_timm import timm_data
from .target import Reader, Target, input_size, last_linear
from .timm_target import open_images

_USAGE = """\
import open_clip, safetensors.torch
model, _, transform = open_clip.create_model_and_transforms(
    'local-dir:.', load_weights=False, pretrained_image_path='visual.safetensors')
head = safetensors.torch.load_file('head.safetensors')
# logits = model.eval().encode_image(transform(image)[None]) @ head['weight'].T + head['bias']"""
_REMARKS = [
    'The text tower is not part of the export: without `load_weights=False, pretrained_image_path=...` it would be '
    'missing, with it it is random. `open_clip.create_model(NAME, pretrained=TAG, pretrained_image_path='
    "'visual.safetensors')` joins the fine-tuned vision tower and a pretrained text tower.",
    'The classifier is `head.safetensors`: `weight` (classes, features) and `bias` (classes), in the order of '
    '`labels.json`. It takes the features after the projection, not normalised to unit length.',
]


def _write(run: FinishedRun, directory: Path) -> list[str]:
    import open_clip

    backbone, linear = run.model.backbone, last_linear(run)
    cfg, own = open_clip.get_model_config(backbone.model_name), run.cfg.model.backbone
    cfg['vision_cfg'].update(own.get('vision_cfg') or {})
    if own.get('image_size') is not None:
        cfg['vision_cfg']['image_size'] = own.image_size
    data, reason = _preprocess(run)
    content = {'model_cfg': cfg, 'preprocess_cfg': data}
    (directory / 'open_clip_config.json').write_text(json.dumps(content, indent=2) + '\n')
    (directory / 'labels.json').write_text(json.dumps(list(run.classes), indent=1, ensure_ascii=False) + '\n')
    save_file({name: value.contiguous() for name, value in backbone.net.state_dict().items()},
              directory / 'visual.safetensors')  # fmt: skip
    save_file(
        {name: value.detach().contiguous() for name, value in linear.named_parameters()},
        directory / 'head.safetensors',
    )
    unfit = f'open_clip cannot express the preprocessing of the run ({reason}); prepare images as stated above.'
    return [*_REMARKS, *([unfit] if reason else [])]


def _preprocess(run: FinishedRun) -> tuple[dict, str]:
    data, reason = timm_data(run)
    config = {'size': list(input_size(run)), 'interpolation': data['interpolation'],
              'resize_mode': 'squash' if data['crop_mode'] == 'squash' else 'shortest',
              'mean': list(data.get('mean', ())), 'std': list(data.get('std', ()))}  # fmt: skip
    if not reason and data['crop_pct'] != 1.0:
        reason = f'a resize to {run.preprocessing.resize} before the crop'
    return {key: value for key, value in config.items() if value}, reason


def _read(run: FinishedRun, directory: Path) -> Reader:
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(
        f'local-dir:{directory}', load_weights=False, pretrained_image_path=str(directory / 'visual.safetensors')
    )
    head, own_transform = load_file(directory / 'head.safetensors'), not _preprocess(run)[1]
    model.eval()

    def logits(files: Sequence[Path], inputs: torch.Tensor) -> torch.Tensor:
        features = model.encode_image(open_images(files, transform) if own_transform else inputs)
        return features @ head['weight'].T + head['bias']

    return logits


TARGET = Target(
    name='open_clip',
    takes='OpenCLIPVisionTower with a linear head',
    fits=lambda run: type_name(run.cfg.model.get('backbone')) == 'OpenCLIPVisionTower' and last_linear(run) is not None,
    write=_write,
    read=_read,
    usage=lambda run: _USAGE,
    packages=('open_clip',),
    tags=('open_clip', 'clip'),
)
