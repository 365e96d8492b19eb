"""Every model part of configs/ combines with the demo's data."""

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config

from ftsgd_plugin.runner.build import build_runner

SEVEN = ['clip-vit-b16', 'clip-vit-l14', 'vit-b16', 'dino-vit-b16', 'convnext-b', 'bit-r50', 'bit-r101']


def three_lines(tmp_path, name: str) -> Config:
    """A config of three lines with a model part and the demo's data."""
    path = tmp_path / f'{name}_freeze-embed_digits.py'
    parts = [f'models/{name}.py', 'methods/freeze-embed.py', 'datasets/digits-224.py', 'runtime.py']
    path.write_text(
        f'_base_ = {[str(ROOT / "configs/_base_" / part) for part in parts]!r}\n'
        'model = dict(backbone=dict(pretrained=False), head=dict(num_classes=2))\n'
        "work_dir = 'work'\n"
    )
    return Config.fromfile(path)


@pytest.mark.parametrize('name', [pytest.param(one, marks=[pytest.mark.slow] * one.startswith('bit')) for one in SEVEN])
def test_every_model_part_builds_into_a_runner_with_the_digits(tmp_path, monkeypatch, digits_root, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits_root)
    cfg = three_lines(tmp_path, name)
    cfg.launcher, cfg.experiment_name = 'none', f'{tmp_path.name}_{name}'
    trains = name == 'bit-r50'  # the smallest
    if trains:
        cfg.train_cfg.max_epochs = 1
        cfg.train_dataloader.dataset.indices = 8
        cfg.train_dataloader.batch_size = 4
        for dataset in cfg.val_dataloader.dataset.datasets:
            dataset.indices = 4
    runner = build_runner(cfg)
    assert runner.train_dataloader.dataset is not None
    if trains:
        before = {name: param.clone() for name, param in runner.model.named_parameters()}
        runner.train()
        own = dict(runner.model.named_parameters())
        moved = {n for n, value in before.items() if not torch.equal(own[n], value)}
        assert moved and not {n for n in moved if n.startswith(('backbone.net.stem', 'backbone.net.stages.0'))}
