"""Finished runs with random weights, built in memory, for exports."""

from pathlib import Path

import torch
from mmengine.config import Config

from ftsgd_plugin.datasets.preprocessing import describe_preprocessing
from ftsgd_plugin.inference.run import FinishedRun, build_model
from helpers.small_models import SMALL

CLASSES = ('a cat', 'dog', 'élan')


def pipeline(size: int, *resize: dict) -> list[dict]:
    """The project's loading and packing around a resize (default: bicubic, to both sides)."""
    resize = resize or (dict(type='torchvision/Resize', size=(size, size), interpolation='bicubic'),)
    return [dict(type='LoadRGBImage'), *resize, dict(type='PackRGB'), dict(type='PackInputs')]


def resize_and_crop(resize: int, crop: int) -> tuple[dict, dict]:
    """Of the shorter side, and of the centre."""
    return dict(type='torchvision/Resize', size=resize), dict(type='torchvision/CenterCrop', size=crop)


def run_of(backbone: dict, features: int, steps: list[dict], seed: int = 0, **parts) -> FinishedRun:
    """A run of a backbone with a linear head; no weight is zero, so that a lost or swapped one shows."""
    cfg = Config(dict(
        model=dict(
            type='ImageClassifier',
            data_preprocessor=dict(mean=[120.0, 110.0, 100.0], std=[60.0, 70.0, 80.0], to_rgb=True),
            backbone=backbone,
            head=dict(type='LinearClsHead', num_classes=len(CLASSES), in_channels=features),
            **parts,
        ),
        test_dataloader=dict(dataset=dict(type='CustomDataset', pipeline=steps)),
    ))  # fmt: skip
    return finish(cfg, seed)


def finish(cfg: Config, seed: int = 0) -> FinishedRun:
    """Build the model of a config with random weights."""
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape) * 0.1
                positive = name.endswith('running_var') or (value.ndim == 1 and name.endswith('weight'))
                value.copy_(1 + noise.abs() if positive else noise)
    return FinishedRun(cfg, Path('/nowhere/epoch_1.pth'), model, CLASSES, describe_preprocessing(cfg))


def small_run(name: str) -> FinishedRun:
    """One of the project's seven backbones, small."""
    backbone = dict(SMALL[name][0])
    size = backbone.get('image_size', backbone.get('img_size', 64 if name.startswith('bit') else 32))
    probe = build_model(Config(dict(model=dict(type='ImageClassifier', backbone=backbone))))
    steps = pipeline(size, *resize_and_crop(size + 8, size)) if name.startswith('bit') else pipeline(size)
    return run_of(backbone, probe.backbone.num_features, steps)
