"""The seven backbones, small: the same classes of timm and open_clip with few or narrow blocks."""

from unittest import mock

import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ftsgd_plugin.layers import list_layers

_VIT = dict(type='TimmPooledBackbone', model_name='vit_base_patch16_224.augreg_in21k', img_size=32, patch_size=8)
_CLIP = dict(type='OpenCLIPVisionTower', model_name='ViT-B-16-quickgelu', image_size=32)
_BIT = dict(type='TimmPooledBackbone', stem_chs=32, channels=(128, 128, 128, 128))

# name -> (backbone config, blocks)
SMALL = {
    'clip-vit-b16': (dict(**_CLIP, vision_cfg=dict(layers=3, width=64, patch_size=8)), 3),
    'clip-vit-l14': (dict(**{**_CLIP, 'image_size': 28}, vision_cfg=dict(layers=4, width=64, patch_size=14)), 4),
    'vit-b16': (dict(**_VIT, embed_dim=32, depth=3, num_heads=2), 3),
    'dino-vit-b16': (
        dict(**{**_VIT, 'model_name': 'vit_base_patch16_224.dino'}, embed_dim=32, depth=2, num_heads=2),
        2,
    ),
    'convnext-b': (
        dict(type='TimmPooledBackbone', model_name='convnext_base.fb_in22k', depths=(1, 1, 2, 1), dims=(8, 16, 16, 32)),
        4,
    ),
    'bit-r50': (dict(**_BIT, model_name='resnetv2_50x1_bit.goog_in21k'), 13),
    'bit-r101': (dict(**_BIT, model_name='resnetv2_101x1_bit.goog_in21k'), 30),
}
CLASSES = 3


def small_classifier(name: str, seed: int = 0) -> torch.nn.Module:
    """One of the seven with random weights, none of them zero."""
    init_default_scope('mmpretrain')
    torch.manual_seed(seed)
    backbone = MODELS.build(SMALL[name][0].copy())
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
            backbone=SMALL[name][0].copy(),
            head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=backbone.num_features, init_cfg=None),
        )
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param_name, param in model.named_parameters():
            noise = torch.randn(param.shape, generator=generator) * 0.1
            param.copy_(1 + noise if param.ndim == 1 and param_name.endswith('weight') else noise)
    return model


def batch(name: str, step: int, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pictures and labels of a step."""
    generator = torch.Generator().manual_seed(step)
    # A last stage of one pixel would leave group norm almost nothing to pass gradients through.
    pixels = 64 if name.startswith('bit') else SMALL[name][0].get('image_size', 32)
    return (
        torch.randn(size, 3, pixels, pixels, generator=generator),
        torch.randint(CLASSES, (size,), generator=generator),
    )


def loss_of(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the classifier, as a plain loop computes it."""
    return torch.nn.functional.cross_entropy(model(images), labels)


def trained(model: torch.nn.Module) -> set[str]:
    """Names of the parameters that train."""
    return {name for name, param in model.named_parameters() if param.requires_grad}


def expected_names(model: torch.nn.Module, opened: int, frozen=('embed',)) -> set[str]:
    """What trains with that many blocks open; from the paper's code, independently of the schedule's own rule."""
    layers = list_layers(model)
    count = len({layer.block for layer in layers if layer.role == 'block'})
    names = set()
    for layer in layers:
        if layer.role in frozen:
            continue
        if layer.role == 'block' and layer.block < count - opened:
            continue
        if (layer.role == 'norm' and opened == 0) or (layer.role in ('position', 'embed') and opened < count):
            continue
        names.update(layer.params)
    return names


def amp_wrapper():
    """``AmpOptimWrapper`` asserts a GPU; its CPU twin has the same code with a CPU scaler and no device check."""
    module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    return mock.patch.multiple(
        module, is_cuda_available=lambda: True, GradScaler=lambda **kw: torch.amp.GradScaler('cpu', **kw)
    )
