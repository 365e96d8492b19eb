"""The model of a fine-tuning: a part of ours, or one of the libraries' by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from ..checkpoint.io import read_weights
from ..models import catalog
from ..models.image_size import built_for
from ..utils.errors import UserError
from ..utils.names import near, type_name
from ..utils.paths import config_path
from .options import Options

# Backbone -> its key for the side of the images; MMPretrain's have the other one.
_SIZE_KEYS = {
    'TimmPooledBackbone': 'img_size',
    'OpenCLIPVisionTower': 'image_size',
    'TorchvisionBackbone': 'image_size',
}


@dataclass(frozen=True)
class Model:
    """A model with what its input has to be.

    Attributes:
        name: As the user gives it.
        backbone: Config of the backbone; of a part: the keys that differ from it.
        image_size: Side of the input in pixels.
        interpolation: Of resizing.
        crop_pct: ``image_size`` over the shorter side of the image that it is cropped from.
        part: Name in ``configs/_base_/models``; ``''`` for a model of a library.
        mean, std: Of the channels, 0 to 255; of a part: those of its config.
        num_features: Width of the features; of a part: that of its config.
        neck: Config of the neck, if there is one.
        lines: What was found, for the user.
    """

    name: str
    backbone: dict
    image_size: int
    interpolation: str = 'bilinear'
    crop_pct: float = 1.0
    part: str = ''
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    num_features: int = 0
    neck: dict = field(default_factory=dict)
    lines: Sequence[str] = ()


def find_model(options: Options) -> Model:
    """The model that a user asks for, with the weights and the image size that the options say.

    Raises:
        UserError: There is no such model, it has no published weights, or it takes no other image size.
    """
    init_default_scope('mmpretrain')
    parts = sorted(file.stem for file in Path(config_path('_base_/models/vit-tiny')).parent.glob('*.py'))
    if options.model in parts:
        return _part(options)
    if '/' not in options.model and (close := near(options.model, parts)):
        raise UserError(f'--model {options.model}: no such model; did you mean {" or ".join(map(repr, close))}?')
    return _of_library(options)


def _part(options: Options) -> Model:
    backbone = Config.fromfile(config_path(f'_base_/models/{options.model}')).model.backbone.to_dict()
    changes = _weights(backbone, options.pretrained)
    net = _on_meta({**backbone, **changes})
    size = options.image_size or built_for(net) or 224
    if options.image_size:
        changes |= _resized(backbone, net, size)
    lines = [_describe(options.model, net, size, _weights_text(options))]
    return Model(options.model, changes, size, part=options.model, lines=lines)


def _of_library(options: Options) -> Model:
    source = catalog.find_model(options.model)
    if options.pretrained is True and not source.pretrained:
        raise UserError(f'--model {options.model}: has no published weights; name a file with --pretrained, or none.')
    backbone = dict(source.backbone)
    backbone |= _weights(backbone, options.pretrained)
    net = _on_meta(backbone)
    size = options.image_size or source.image_size
    if size != source.image_size:
        backbone |= _resized(backbone, net, size)
        net = _on_meta(backbone)
    features, neck = source.num_features, {}
    if source.name.startswith('mmpretrain/'):
        features, neck = _features(net, size)
    licence = f', licence {source.licence}' if source.licence and options.pretrained is True else ''
    return Model(
        source.name,
        {key: value for key, value in backbone.items() if value is not None},
        size,
        source.interpolation,
        source.crop_pct,
        mean=source.mean,
        std=source.std,
        num_features=features,
        neck=neck,
        lines=[_describe(source.name, net, size, _weights_text(options) + licence)],
    )


def _on_meta(backbone: Mapping) -> nn.Module:
    with torch.device('meta'):
        return MODELS.build({**backbone, 'init_cfg': None} if 'init_cfg' in backbone else dict(backbone))


def _weights(backbone: Mapping, pretrained: bool | str) -> dict:
    """The keys of a backbone that name other weights than its own."""
    if pretrained is True:
        return {}
    path = str(Path(pretrained).expanduser().absolute()) if pretrained else None
    if 'pretrained' in backbone:
        return {'pretrained': path or False}
    if path is None:
        return {'init_cfg': None}
    prefix = {'prefix': 'backbone.'} if any(name.startswith('backbone.') for name in read_weights(path)) else {}
    return {'init_cfg': dict(type='Pretrained', checkpoint=path, **prefix)}


def _resized(backbone: Mapping, net: nn.Module, size: int) -> dict:
    """The keys of a backbone for another image size; none for a network that takes any."""
    if built_for(net) is None:
        return {}
    return {_SIZE_KEYS.get(type_name(backbone), 'img_size'): size}


def _features(net: nn.Module, size: int) -> tuple[int, dict]:
    """Width of the features of a backbone of MMPretrain, and the neck that pools them, by a pass without data."""
    with torch.no_grad():
        output = net.eval()(torch.empty(2, 3, size, size, device='meta'))
    last = output[-1] if isinstance(output, tuple | list) else output
    return last.shape[1], dict(type='GlobalAveragePooling') if last.ndim > 2 else {}


def _describe(name: str, net: nn.Module, size: int, weights: str) -> str:
    parameters = sum(param.numel() for param in net.parameters())
    return f'{name}: {parameters / 1e6:.3g} M parameters, images of {size} x {size}, {weights}'


def _weights_text(options: Options) -> str:
    if options.pretrained is True:
        return 'published weights'
    return f'weights of {options.pretrained}' if options.pretrained else 'random weights'
