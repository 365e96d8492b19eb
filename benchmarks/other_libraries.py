"""The networks of MMPretrain, torchvision and transformers that ``benchmarks/backbones.py`` counts."""

import functools
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

# Types of models of transformers that take images and have no model for classification.
_FEATURES = (
    'clip_vision_model',
    'dinov3_convnext',
    'dinov3_vit',
    'siglip2_vision_model',
    'siglip_vision_model',
    'vit_mae',
)


def mmpretrain_names() -> Sequence[str]:
    """MMPretrain's configs of image classifiers, without those that cannot be read here."""
    from mmengine.config import Config

    root, names = _configs(), []
    for file in sorted(root.glob('*/**/*.py')):
        if '_base_' in file.parts:
            continue
        try:
            model = Config.fromfile(file).get('model') or {}
        except Exception:  # needs another package, or a missing config
            continue
        if model.get('type') == 'ImageClassifier':
            names.append(str(file.relative_to(root).with_suffix('')))
    return names


def mmpretrain(name: str) -> object:
    """The backbone of a config."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    backbone = Config.fromfile(_configs() / f'{name}.py').model.backbone
    backbone.pop('init_cfg', None)  # weights
    on_cpu = functools.partial(torch.linspace, device='cpu')  # rates of stochastic depth, which are read as numbers
    try:
        with mock.patch('torch.linspace', on_cpu):
            return MODELS.build(backbone)
    except (NotImplementedError, RuntimeError):
        with torch.device('cpu'):
            return MODELS.build(backbone)


def _configs() -> Path:
    import mmpretrain

    return Path(mmpretrain.__file__).parent / '.mim' / 'configs'


def torchvision_names() -> Sequence[str]:
    """torchvision's networks for classification."""
    from torchvision import models

    return models.list_models(module=models)


def torchvision(name: str) -> object:
    """A network of torchvision without its last layer."""
    import torch

    from ftsgd_plugin.models import TorchvisionBackbone

    with torch.device('cpu' if name.startswith('regnet') else 'meta'):  # RegNet's widths are computed with tensors
        return TorchvisionBackbone(name)


def transformers_names() -> Sequence[str]:
    """Classes of transformers: models for image classification, and the models of features of the same types."""
    from transformers.models.auto import modeling_auto as auto

    names = []
    for kind in (*auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, *_FEATURES):
        for mapping in (auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, auto.MODEL_MAPPING_NAMES):
            classes = mapping.get(kind, ())
            names += [f'{kind}/{cls}' for cls in ((classes,) if isinstance(classes, str) else classes)]
    return list(dict.fromkeys(names))


def transformers(name: str) -> object:
    """A model of transformers with its default config."""
    import transformers as library

    kind, cls = name.split('/')
    library.logging.set_verbosity_error()
    return getattr(library, cls)(library.AutoConfig.for_model(kind))
