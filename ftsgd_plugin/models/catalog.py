"""Pretrained networks by name, over all libraries: ``timm/NAME``, ``open_clip/NAME/TAG``, ``torchvision/NAME``."""

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ..utils.errors import UserError


@dataclass(frozen=True)
class ModelSource:
    """A pretrained network, and how the images for it are prepared.

    Attributes:
        name: Full name, with the tag of the weights (``'timm/vit_small_patch14_dinov2.lvd142m'``).
        backbone: Config of the backbone, with its pretrained weights if the library has some.
        pretrained: Whether the library has weights under this name.
        mean: Mean of every channel (RGB) that images are normalised with, in 0..255.
        std: Standard deviation of every channel, in 0..255.
        image_size: Side of the images in pixels.
        interpolation: ``'bicubic'``, ``'bilinear'`` and so on, of the resize.
        crop_pct: Side of the centre crop as a share of the resized image's shorter side.
        num_features: Width of the features.
        licence: Licence of the weights as the library states it; ``None`` if it does not.
    """

    name: str
    backbone: dict
    pretrained: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    interpolation: str
    crop_pct: float
    num_features: int = 0
    licence: str | None = None


def find_model(name: str) -> ModelSource:
    """Find a network by its name in a library.

    Args:
        name: ``'timm/NAME[.TAG]'``, ``'open_clip/NAME[/TAG]'``, ``'torchvision/NAME[/WEIGHTS]'`` or
            ``'mmpretrain/NAME'``. Without a tag, the library's first.

    Returns:
        ModelSource: Its config and preprocessing.

    Raises:
        UserError: No library has such a network or tag; the message has the closest names of all.
    """
    library, _, rest = name.partition('/')
    if library not in LIBRARIES or not rest:
        raise _unknown(name, f'name one of {", ".join(f"{key}/NAME" for key in LIBRARIES)}')
    source = LIBRARIES[library].find(rest)
    if source is None:
        raise _unknown(name, f'{library} has no such model')
    return replace(source, num_features=_num_features(source))


def _num_features(source: ModelSource) -> int:
    """Width of the features, of the backbone on the meta device; a backbone that does not say it has 0."""
    init_default_scope('mmpretrain')
    if source.num_features:
        return source.num_features
    with torch.device('meta'):
        return MODELS.build({**source.backbone, 'pretrained': False}).num_features


def _unknown(name: str, reason: str) -> UserError:
    close = closest(name)
    remedy = f'did you mean {" or ".join(close)}?' if close else 'tools/print_layers.py --help names the libraries.'
    return UserError(f'model {name!r}: {reason}; {remedy}')


def closest(name: str, count: int = 3) -> list[str]:
    """The names of all libraries that are closest to a mistaken one, best first."""
    first, _, rest = name.partition('/')
    first = next(iter(difflib.get_close_matches(first, LIBRARIES, n=1, cutoff=0.8)), first)
    wanted = rest if first in LIBRARIES else name
    known: dict[str, str] = {}
    for library, entry in LIBRARIES.items():
        for model in entry.names():
            for key in (model, model.partition('.')[0], model.partition('/')[0]):
                known.setdefault(f'{library}/{key}', model)
    plain: dict[str, list[str]] = {}
    for full in known:
        plain.setdefault(full.partition('/')[2].lower(), []).append(full)
    matches = difflib.get_close_matches(wanted.lower(), plain, n=count, cutoff=0.6)
    found = [full for match in matches for full in sorted(plain[match], key=lambda full: not full.startswith(first))]
    return found[:count]


def _timm_names() -> Sequence[str]:
    import timm

    return [*timm.list_models(), *timm.list_pretrained()]


def _timm(name: str) -> ModelSource | None:
    import timm

    if not timm.is_model(name):
        return None
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # no such tag
        return None
    cfg = cfg or timm.models.PretrainedCfg()
    full = f'{name.partition(".")[0]}.{cfg.tag}' if cfg.tag else name
    weights = bool(cfg.has_weights)
    return ModelSource(
        name=f'timm/{full}',
        backbone=dict(type='TimmPooledBackbone', model_name=full, pretrained=weights),
        pretrained=weights,
        mean=_scaled(cfg.mean),
        std=_scaled(cfg.std),
        image_size=max(cfg.input_size[1:]),
        interpolation=cfg.interpolation,
        crop_pct=cfg.crop_pct,
        licence=cfg.license,
    )


def _open_clip_names() -> Sequence[str]:
    import open_clip

    return [*open_clip.list_models(), *(f'{name}/{tag}' for name, tag in open_clip.list_pretrained())]


def _open_clip(name: str) -> ModelSource | None:
    import open_clip

    model, _, tag = name.partition('/')
    cfg = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    tags = open_clip.list_pretrained_tags_by_model(model)
    if cfg is None or (tag and tag not in tags):
        return None
    tag = tag or (tags[0] if tags else '')
    weights = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    size = cfg['vision_cfg'].get('image_size', 224)
    return ModelSource(
        name=f'open_clip/{model}/{tag}'.rstrip('/'),
        backbone=dict(
            type='OpenCLIPVisionTower', model_name=model, pretrained=bool(tags), **(dict(tag=tag) if tag else {})
        ),
        pretrained=bool(tags),
        mean=_scaled(weights.get('mean') or open_clip.OPENAI_DATASET_MEAN),
        std=_scaled(weights.get('std') or open_clip.OPENAI_DATASET_STD),
        image_size=size if isinstance(size, int) else max(size),
        interpolation=weights.get('interpolation') or 'bicubic',
        crop_pct=1.0,
        licence='MIT' if tag == 'openai' else None,  # of OpenAI's repository; open_clip states none
    )


def _torchvision_names() -> Sequence[str]:
    from torchvision import models

    return models.list_models(module=models)


def _torchvision(name: str) -> ModelSource | None:
    from torchvision import models

    model, _, weights_name = name.partition('/')
    if model not in models.list_models(module=models):
        return None
    options = models.get_model_weights(model)
    if not weights_name:
        weights = options.DEFAULT
    elif weights_name in options.__members__:
        weights = options[weights_name]
    else:
        return None
    preset = weights.transforms()
    return ModelSource(
        name=f'torchvision/{model}/{weights.name}',
        backbone=dict(type='TorchvisionBackbone', model_name=model, pretrained=True, weights=weights.name),
        pretrained=True,
        mean=_scaled(preset.mean),
        std=_scaled(preset.std),
        image_size=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        crop_pct=preset.crop_size[0] / preset.resize_size[0],
        licence=weights.meta.get('license'),
    )


def _mmpretrain_names() -> Sequence[str]:
    from mmpretrain import list_models

    return list_models(task='Image Classification')


def _mmpretrain(name: str) -> ModelSource | None:
    from mmpretrain.apis.model import ModelHub

    if name.lower() not in {known.lower() for known in _mmpretrain_names()}:
        return None
    found = ModelHub.get(name)
    cfg = found.config
    backbone = cfg.model.backbone.to_dict()
    if found.weights:
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=found.weights, prefix='backbone')
    steps = cfg.get('test_pipeline') or cfg.test_dataloader.dataset.pipeline
    sizes = _sizes(steps)
    preprocessor = {**(cfg.get('data_preprocessor') or {}), **(cfg.model.get('data_preprocessor') or {})}
    return ModelSource(
        name=f'mmpretrain/{found.name}',
        backbone={**backbone, 'type': f'mmpretrain.{backbone["type"]}'},
        pretrained=bool(found.weights),
        mean=tuple(preprocessor.get('mean') or (0.0,) * 3),
        std=tuple(preprocessor.get('std') or (1.0,) * 3),
        image_size=sizes.get('crop', 224),
        interpolation=sizes.get('interpolation', 'bilinear'),
        crop_pct=sizes.get('crop', 224) / sizes.get('resize', sizes.get('crop', 224)),
        num_features=_head_width(cfg.model),
    )


def _sizes(steps: Sequence[Mapping]) -> dict:
    """Size of the crop, size and interpolation of the resize of a test pipeline."""
    found: dict = {}
    for step in steps:
        if step['type'] in ('CenterCrop', 'mmpretrain.CenterCrop'):
            found['crop'] = step['crop_size']
        elif 'Resize' in str(step['type']) and step.get('scale'):
            scale = step['scale']
            found.update(resize=scale if isinstance(scale, int) else max(scale))
            found.update(interpolation=step.get('interpolation', 'bilinear'))
    found.setdefault('crop', found.get('resize', 224))
    return found


def _head_width(model: Mapping) -> int:
    head = model.get('head') or {}
    width = head.get('in_channels', 0)
    return width if isinstance(width, int) else max(width)


def _scaled(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(255.0 * value for value in values)


@dataclass(frozen=True)
class _Library:
    find: Callable[[str], ModelSource | None]
    names: Callable[[], Sequence[str]]


LIBRARIES = {
    'timm': _Library(_timm, functools.cache(_timm_names)),
    'open_clip': _Library(_open_clip, functools.cache(_open_clip_names)),
    'torchvision': _Library(_torchvision, functools.cache(_torchvision_names)),
    'mmpretrain': _Library(_mmpretrain, functools.cache(_mmpretrain_names)),
}
