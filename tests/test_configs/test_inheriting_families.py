"""A stock MMPretrain config of each of ten families takes a method in three lines, and trains two steps with it."""

import numpy as np
import pytest
import torch
from helpers import unique_name
from mmengine.config import Config
from PIL import Image

from ftsgd_plugin import config_path, list_layers
from ftsgd_plugin.runner.build import build_runner, read_config

THREE_LINES = """
_base_ = 'mmpretrain::{stock}.py'
custom_imports = dict(imports=['ftsgd_plugin'])
optim_wrapper, param_scheduler = __import__('ftsgd_plugin').method_part('{method}', lr=1e-2)
"""
VIT = dict(arch=dict(embed_dims=128, num_layers=4, num_heads=2, feedforward_channels=512), img_size=32)
STAGES = dict(depths=[1, 1, 2, 1])
# Family -> stock config, a smaller backbone, its features, pixels.
FAMILIES = {
    'MAE': ('mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k', {**VIT, 'init_cfg': None}, 128, 32),
    'DeiT3': ('deit3/deit3-small-p16_64xb64_in1k', VIT, 128, 32),
    'BEiTv2': ('beitv2/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k', {**VIT, 'init_cfg': None}, 128, 32),
    'EVA02': ('eva02/eva02-tiny-p14_in1k', {**VIT, 'img_size': 28}, 128, 28),
    'Swin-v2': (
        'swin_transformer_v2/swinv2-tiny-w8_16xb64_in1k-256px',
        dict(
            arch=dict(**STAGES, embed_dims=8, num_heads=[1, 2, 4, 8], extra_norm_every_n_blocks=0),
            img_size=64,
            window_size=[4, 4, 4, 2],
        ),
        64,
        64,
    ),
    'ConvNeXt-v2': (
        'convnext_v2/convnext-v2-atto_32xb32_in1k',
        dict(arch=dict(**STAGES, channels=[8, 16, 16, 32])),
        32,
        64,
    ),
    'EfficientNet-v2': ('efficientnet_v2/efficientnetv2-b0_8xb32_in1k', {}, 1280, 64),
    'RegNet': ('regnet/regnetx-400mf_8xb128_in1k', {}, 384, 64),
    'ResNet': ('resnet/resnet50_8xb32_in1k', dict(depth=18, base_channels=8, stem_channels=8), 64, 64),
    'CLIP': ('clip/vit-base-p16_pt-64xb64_in1k', VIT, 128, 32),
}
FAST = [('ResNet', 'freeze-embed'), ('MAE', 'gradual-unfreezing')]
ALL = [(family, method) for method in ('freeze-embed', 'gradual-unfreezing') for family in FAMILIES]


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Two images of noise in each of two class directories."""
    directory, random = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for name in ('a/0', 'a/1', 'b/0', 'b/1'):
        path = directory / f'{name}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return directory


@pytest.mark.parametrize(
    'family, method',
    [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in FAST)],
)
def test_a_stock_config_takes_a_method_in_three_lines_and_trains(family, method, images, tmp_path):
    stock, backbone, features, pixels = FAMILIES[family]
    (tmp_path / 'config.py').write_text(THREE_LINES.format(stock=stock, method=method))
    cfg = read_config(str(tmp_path / 'config.py'))
    part = Config.fromfile(config_path(f'_base_/methods/{method}'))
    part.optim_wrapper.optimizer.lr = 1e-2
    assert cfg.optim_wrapper == part.optim_wrapper and cfg.param_scheduler == [part.param_scheduler]

    # Small, on noise; everything else is the stock config's.
    for key, value in backbone.items():
        cfg.model.backbone[key] = value
    cfg.model.head.in_channels = features
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=pixels), dict(type='PackInputs')]
    dataset = dict(type='CustomDataset', data_prefix=str(images), with_label=True, pipeline=pipeline)
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset = dataset
    for name in ('val_dataloader', 'val_cfg', 'val_evaluator', 'test_dataloader', 'test_cfg', 'test_evaluator'):
        cfg[name] = None
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2)
    cfg.default_hooks.checkpoint = None
    cfg.update(work_dir=str(tmp_path / 'work'), experiment_name=unique_name(), launcher='none')

    runner = build_runner(cfg)
    runner.model.init_weights()
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    assert runner.iter == 2
    moved = {name for name, value in runner.model.named_parameters() if not torch.equal(value, before[name])}
    layers = list_layers(runner.model)
    embedding = {name for layer in layers if layer.role == 'embed' for name in layer.params}
    blocks = {name for layer in layers if layer.role == 'block' for name in layer.params}
    head = {name for layer in layers if layer.role == 'head' for name in layer.params}
    assert embedding and not embedding & moved and head <= moved
    last = max(layer.block for layer in layers if layer.block is not None)
    upper = {name for layer in layers if layer.block == last for name in layer.params}
    assert upper & moved and blocks - upper
    assert all(torch.isfinite(value).all() for value in runner.model.parameters())
