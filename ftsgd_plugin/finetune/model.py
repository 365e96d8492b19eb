"""The model of a fine-tuning: a part of ours, or one of the libraries' by its name."""

from collections.abc import Iterator, Mapping, Sequence
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
from ..utils.errors import UserError, one_line
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
    net = _built({**backbone, **changes})
    size = options.image_size or built_for(net) or 224
    if options.image_size:
        changes |= _resized(backbone, net, size)
    net, _, _ = _sized({**backbone, **changes}, size)
    lines = [_describe(options.model, net, size, _weights_text(options))]
    source = _published(backbone)
    resizing = (source.interpolation, source.crop_pct) if source else ('bilinear', 1.0)
    return Model(options.model, changes, size, *resizing, part=options.model, lines=lines)


def _published(backbone: Mapping) -> catalog.ModelSource | None:
    """How the library of a part evaluates its network; ``None`` for one that is in no library."""
    kind, name = type_name(backbone), backbone.get('model_name')
    names = {
        'TimmPooledBackbone': f'timm/{name}',
        'OpenCLIPVisionTower': f'open_clip/{name}/{backbone.get("tag", "openai")}',
    }
    return catalog.find_model(names[kind]) if kind in names else None


def _of_library(options: Options) -> Model:
    source = catalog.find_model(options.model)
    if options.pretrained is True and not source.pretrained:
        raise UserError(f'--model {options.model}: has no published weights; name a file with --pretrained, or none.')
    backbone = {**source.backbone, **_weights(source.backbone, options.pretrained)}
    size = options.image_size or source.image_size
    if size != source.image_size:
        backbone |= _resized(backbone, _built(backbone), size)
    net, features, neck = _sized(backbone, size)
    licence = f', licence {source.licence}' if source.licence and options.pretrained is True else ''
    return Model(
        source.name,
        {key: value for key, value in backbone.items() if value is not None},
        size,
        source.interpolation,
        source.crop_pct,
        mean=source.mean,
        std=source.std,
        num_features=source.num_features or features,
        neck=neck,
        lines=[_describe(source.name, net, size, _weights_text(options) + licence)],
    )


def _built(backbone: Mapping) -> nn.Module:
    """The backbone with random weights; without memory, where its library can build it so."""
    settings = {key: value for key, value in backbone.items() if key != 'init_cfg'}
    if not str(settings['type']).startswith('mmpretrain.') and 'pretrained' in settings:
        with torch.device('meta'):
            return MODELS.build(settings)
    return MODELS.build(settings)  # MMPretrain's read numbers from tensors while they are built


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


def _sized(backbone: Mapping, size: int) -> tuple[nn.Module, int, dict]:
    """The backbone, the width of its features, and the neck that pools them, by a pass without data.

    Raises:
        UserError: It does not take images of this size.
    """
    try:
        net = _built(backbone)
        tensors = {name: torch.empty_like(one, device='meta') for name, one in _tensors(net)}
        net.eval()  # MMPretrain's return nothing
        with torch.no_grad():
            output = torch.func.functional_call(net, tensors, (torch.empty(2, 3, size, size, device='meta'),))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f'--image-size {size}: the model does not take it ({one_line(error, limit=200)}); give another one.'
        ) from error
    last = output[-1] if isinstance(output, tuple | list) else output
    return net, last.shape[1], dict(type='GlobalAveragePooling') if last.ndim > 2 else {}


def _tensors(net: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from net.named_parameters()
    yield from net.named_buffers()


def _describe(name: str, net: nn.Module, size: int, weights: str) -> str:
    parameters = sum(param.numel() for param in net.parameters())
    return f'{name}: {parameters / 1e6:.3g} M parameters, images of {size} x {size}, {weights}'


def _weights_text(options: Options) -> str:
    if options.pretrained is True:
        return 'published weights'
    return f'weights of {options.pretrained}' if options.pretrained else 'random weights'
