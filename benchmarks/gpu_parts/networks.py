"""The networks that the parts measure, at full size and as small twins for a dry run on a CPU."""

import sys
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """A network in the three forms that are compared.

    Attributes:
        part: Name of the model part of this package.
        timm: timm's name of the same network, and the arguments of ``timm.create_model``, for a plain loop.
        stock: MMPretrain's own backbone of the same shape.
        width: Features of the stock backbone.
        pixels: Side of the images.
        batch: Images per step where speed is measured.
        backbone: The part's backbone in a dry run; ``None`` for that of the part.
        features: The features of that backbone.
    """

    part: str
    timm: tuple[str, dict]
    stock: dict
    width: int
    pixels: int = 224
    batch: int = 128
    backbone: dict | None = None
    features: int = 0

    def config(self, **others) -> Config:
        """The part as a config, random weights, with further keys."""
        cfg = Config.fromfile(ROOT / f'configs/_base_/models/{self.part}.py')
        if self.backbone is not None:
            cfg.model.backbone = self.backbone
            cfg.model.head.in_channels = self.features
        cfg.model.backbone.pretrained = False
        cfg.model.head.num_classes = CLASSES
        for key, value in others.items():
            cfg[key] = value
        return cfg

    def stock_model(self) -> dict:
        """MMPretrain's classifier, with the normalisation of the part."""
        return dict(
            type='ImageClassifier',
            data_preprocessor=self.config().model.data_preprocessor.to_dict(),
            backbone=self.stock,
            head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=self.width),
        )


def networks(small: bool) -> dict[str, Network]:
    """The networks by the names of their parts.

    Args:
        small: Those of a dry run: the same classes, a few thousand parameters, from the tests' table.
    """
    vit, clip, convnext = (
        'vit_base_patch16_224.augreg_in21k',
        'vit_large_patch14_clip_quickgelu_224',
        'convnext_base.fb_in22k',
    )
    if not small:
        square = dict(type='VisionTransformer', img_size=224)
        return {
            'vit-b16': Network('vit-b16', (vit, {}), dict(**square, arch='b', patch_size=16), 768, batch=256),
            'vit-l14': Network(
                'clip-vit-l14', (clip, {}), dict(**square, arch='l', patch_size=14, pre_norm=True), 1024
            ),
            'convnext-b': Network('convnext-b', (convnext, {}), dict(type='ConvNeXt', arch='base'), 1024),
        }
    sys.path.append(str(ROOT / 'tests'))
    from helpers.small_models import SMALL

    shape = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
    one_block = dict(depth=1, embed_dim=32, num_heads=2)
    stages = dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 32))
    clip_tower = SMALL['clip-vit-l14'][0]
    return {
        'vit-b16': Network(
            'vit-b16',
            (vit, dict(**one_block, img_size=32, patch_size=8)),
            dict(type='VisionTransformer', arch=shape, img_size=32, patch_size=8),
            *(32, 32, 2),
            backbone={**SMALL['vit-b16'][0], 'depth': 1},
            features=32,
        ),
        'vit-l14': Network(
            'clip-vit-l14',
            (clip, dict(**one_block, img_size=28)),
            dict(type='VisionTransformer', arch=shape, img_size=28, patch_size=14, pre_norm=True),
            *(32, 28, 2),
            backbone={**clip_tower, 'vision_cfg': {**clip_tower['vision_cfg'], 'layers': 1}},
            features=512,
        ),
        'convnext-b': Network(
            'convnext-b',
            (convnext, stages),
            dict(type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 16, 32])),
            *(32, 32, 2),
            backbone={**SMALL['convnext-b'][0], **stages},
            features=32,
        ),
    }
