"""The one table of tiny models: the backbones of configs/ with few or narrow blocks, and MMPretrain's ViT.

All are the same classes of timm, open_clip and MMPretrain as at full size, and train within milliseconds.
"""

from unittest import mock

import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ftsgd_plugin.layers import list_layers

_VIT = dict(type='TimmPooledBackbone', model_name='vit_base_patch16_224.augreg_in21k')
_DINO = {**_VIT, 'model_name': 'vit_base_patch16_224.dino'}
_DINOV2 = dict(type='TimmPooledBackbone', model_name='vit_small_patch14_dinov2.lvd142m')
_CLIP = dict(type='OpenCLIPVisionTower', model_name='ViT-B-16-quickgelu')
_CONVNEXT = dict(type='TimmPooledBackbone', model_name='convnext_base.fb_in22k')
_BIT = dict(type='TimmPooledBackbone', stem_chs=32, channels=(128, 128, 128, 128))
_BIT_R50 = dict(**_BIT, model_name='resnetv2_50x1_bit.goog_in21k')
_AT_32 = dict(img_size=32, patch_size=8, embed_dim=32, num_heads=2)

# name -> (backbone config, blocks)
SMALL = {
    'clip-vit-b16': (dict(**_CLIP, image_size=32, vision_cfg=dict(layers=3, width=64, patch_size=8)), 3),
    'clip-vit-l14': (dict(**_CLIP, image_size=28, vision_cfg=dict(layers=4, width=64, patch_size=14)), 4),
    'vit-b16': (dict(**_VIT, **_AT_32, depth=3), 3),
    'dino-vit-b16': (dict(**_DINO, **_AT_32, depth=2), 2),
    'convnext-b': (dict(**_CONVNEXT, depths=(1, 1, 2, 1), dims=(8, 16, 16, 32)), 4),
    'bit-r50': (_BIT_R50, 13),
    'bit-r101': (dict(**_BIT, model_name='resnetv2_101x1_bit.goog_in21k'), 30),
}

# The parts beside the paper's seven, likewise; only the tests of backbones and weights run on them. name -> backbone
RECENT = {
    'dinov2-vit-s14': dict(**_DINOV2, img_size=28, depth=2, embed_dim=32, num_heads=2),
    'dinov2-vit-b14': dict(
        _DINOV2, model_name='vit_base_patch14_dinov2.lvd142m', img_size=28, depth=2, embed_dim=32, num_heads=2
    ),
    'convnextv2-t': dict(
        type='TimmPooledBackbone',
        model_name='convnextv2_tiny.fcmae_ft_in22k_in1k',
        depths=(1, 1, 2, 1),
        dims=(8, 16, 16, 32),
    ),
    'dinov3-vit-s16': dict(
        type='TimmPooledBackbone',
        model_name='vit_small_patch16_dinov3.lvd1689m',
        global_pool='token',
        img_size=32,
        depth=4,
        embed_dim=96,
        num_heads=2,
    ),
    'siglip2-vit-b16': dict(
        type='TimmPooledBackbone', model_name='vit_base_patch16_siglip_224.v2_webli', **_AT_32, depth=2
    ),
    'eva02-vit-b14': dict(
        type='TimmPooledBackbone',
        model_name='eva02_base_patch14_224.mim_in22k',
        img_size=28,
        depth=4,
        embed_dim=96,
        num_heads=2,
    ),
    'swinv2-t': dict(
        type='TimmPooledBackbone',
        model_name='swinv2_tiny_window8_256.ms_in1k',
        img_size=64,
        window_size=2,
        pretrained_window_sizes=(8, 8, 8, 8),
        drop_path_rate=0.0,
        embed_dim=16,
        depths=(1, 1, 2, 1),
        num_heads=(2, 2, 2, 2),
    ),
}

# Narrow, but with the images (224 px) and patches (16 px) of the published weight files. name -> backbone config
PUBLISHED = {
    'vit-b16': dict(**_VIT, depth=2, embed_dim=64, num_heads=2),
    'dino-vit-b16': dict(**_DINO, depth=2, embed_dim=64, num_heads=2),
    'clip-vit-b16': dict(**_CLIP, vision_cfg=dict(layers=2, width=64)),
    'convnext-b': dict(**_CONVNEXT, depths=(1, 1, 2, 1), dims=(8, 16, 32, 64)),
    'bit-r50': _BIT_R50,
}

# MMPretrain's own ViT: 2 blocks, images of 16 px, 13 layers (14 with pre_norm).
MMPRETRAIN_VIT = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=16,
    patch_size=8,
)
CLASSES = 3


def classifier(
    backbone: dict, num_features: int, num_classes: int = CLASSES, std: float = 1.0, **parts: dict
) -> torch.nn.Module:
    """An ImageClassifier around a backbone config; weights as built, not initialised. ``parts`` may be a neck."""
    return MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', mean=[0.0] * 3, std=[std] * 3),
            backbone=backbone.copy(),
            **parts,
            head=dict(
                type='mmpretrain.LinearClsHead', num_classes=num_classes, in_channels=num_features, init_cfg=None
            ),
        )
    )


def small_classifier(name: str, seed: int = 0, **options) -> torch.nn.Module:
    """One of ``SMALL`` with random weights, none of them zero; ``options`` go to the backbone."""
    init_default_scope('mmpretrain')
    torch.manual_seed(seed)
    backbone = {**SMALL[name][0], **options}
    model = classifier(backbone, MODELS.build(backbone.copy()).num_features)
    randomise(model, seed)
    return model


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Give a model random weights, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param_name, param in model.named_parameters():
            noise = torch.randn(param.shape, generator=generator) * 0.1
            param.copy_(1 + noise if param.ndim == 1 and param_name.endswith('weight') else noise)


def mmpretrain_vit(pre_norm: bool = False, num_classes: int = CLASSES, seed: int = 0, **backbone) -> torch.nn.Module:
    """An initialised classifier with ``MMPRETRAIN_VIT``; more keys override the backbone's."""
    torch.manual_seed(seed)
    model = classifier({**MMPRETRAIN_VIT, 'pre_norm': pre_norm, **backbone}, 16, num_classes, std=255.0)
    model.init_weights()
    return model


def batch(name: str, step: int, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images (size, 3, H, W) and labels (size,) of a step."""
    generator = torch.Generator().manual_seed(step)
    # With a last stage of one pixel, group norm would pass on almost no gradient.
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
    """Names of what trains with that many blocks open, from the paper's code and not by the schedule's own rule."""
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
    """Let ``AmpOptimWrapper`` run on the CPU: a CPU scaler in place of CUDA's, and no check of the device."""
    module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
    return mock.patch.multiple(
        module, is_cuda_available=lambda: True, GradScaler=lambda **kw: torch.amp.GradScaler('cpu', **kw)
    )
