"""Gradual unfreezing in real runs of six named cases: what moves, what stays, and every learning rate."""

import math

import pytest
import torch
from helpers.small_models import expected_names, trained
from mmengine.hooks import Hook

from ftsgd_plugin.optim.schedule import lr_factor, open_blocks
from ftsgd_plugin.runner.build import build_runner

BASE, BLOCKS, PER_EPOCH = 1e-4, 6, 2
GRADUAL = dict(type='GradualUnfreezingLR', by_epoch=True)
WARM_UP = dict(type='LinearLR', start_factor=0.25, begin=0, end=3)
# name -> epochs, schedulers, (iteration -> step, steps, warm-up, cool-down, outer factor of the learning rate)
CASES = {
    'epochs': (4, [GRADUAL], lambda i: (i // PER_EPOCH, 4, 0, 0, 1)),
    'one epoch': (1, [GRADUAL], lambda i: (0, 1, 0, 0, 1)),
    'warm-up and cool-down': (
        5,
        [dict(GRADUAL, warmup=1, cooldown=1)],
        lambda i: (i // PER_EPOCH, 5, 1, 1, 1),
    ),
    'iterations': (4, [dict(GRADUAL, by_epoch=False)], lambda i: (i, 8, 0, 0, 1)),
    'converted to iterations': (4, [dict(GRADUAL, convert_to_iter_based=True)], lambda i: (i, 8, 0, 0, 1)),
    'after a linear warm-up': (
        6,
        [WARM_UP, dict(GRADUAL, begin=2)],
        lambda i: (i // PER_EPOCH - 2, 4, 0, 0, [0.25, 0.625, 1, 1, 1, 1][i // PER_EPOCH]),
    ),
}


class Witness(Hook):
    """Compare the weights before and after every iteration."""

    priority = 'VERY_HIGH'

    def __init__(self, expected):
        self.expected, self.iterations, self.opened = expected, 0, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        step, total, warmup, cooldown, outer = self.expected(runner.iter)
        opened = open_blocks(step, BLOCKS, total, warmup, cooldown)
        factor = lr_factor(step, total, warmup, cooldown) if step >= 0 else 1
        for group in runner.optim_wrapper.optimizer.param_groups:
            assert math.isclose(group['lr'], BASE * outer * factor, rel_tol=1e-12)
        assert trained(runner.model) == expected_names(runner.model, opened)
        self.before = {name: param.detach().clone() for name, param in runner.model.named_parameters()}
        self.opened.append(opened)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        should_move = expected_names(runner.model, self.opened[-1])
        for name, param in runner.model.named_parameters():
            assert torch.equal(param, self.before[name]) != (name in should_move), f'{name} at {runner.iter}'
            assert name in should_move or param.grad is None
        self.iterations += 1


@pytest.mark.parametrize('case', CASES)
def test_opened_tensors_move_closed_ones_do_not_and_rates_are_the_closed_form(digits_config, case):
    epochs, schedulers, expected = CASES[case]
    cfg = digits_config('gradual-unfreezing', 32 * PER_EPOCH, launcher='none')
    cfg.param_scheduler, cfg.train_cfg.max_epochs = schedulers, epochs
    cfg.optim_wrapper.optimizer.lr = BASE
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = None
    runner = build_runner(cfg)
    witness = Witness(expected)
    runner.register_hook(witness)
    runner.train()
    assert witness.iterations == epochs * PER_EPOCH
    assert witness.opened == sorted(witness.opened) and witness.opened[-1] == BLOCKS
    if epochs > 1:
        assert len(set(witness.opened)) >= 3
    embedding = {'backbone.patch_embed.projection.weight', 'backbone.patch_embed.projection.bias'}
    assert trained(runner.model) == {name for name, _ in runner.model.named_parameters()} - embedding


@pytest.mark.slow  # compiles a training step for every phase
def test_a_compiled_training_step_opens_what_an_uncompiled_one_opens(digits_config):
    """MMEngine's ``compile=`` wraps the whole training step; accumulation windows straddle the epochs' ends."""
    runs = []
    for compiled in (False, dict(backend='aot_eager')):
        cfg = digits_config('gradual-unfreezing', 96, launcher='none', compile=compiled)
        cfg.train_cfg.max_epochs, cfg.optim_wrapper.accumulative_counts = 3, 2
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = cfg.default_hooks.checkpoint = None
        cfg.custom_hooks = []
        # Compilation takes most of the time: three narrow blocks.
        arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
        cfg.model.backbone.arch, cfg.model.backbone.init_cfg, cfg.model.head.in_channels = arch, None, 16
        runner = build_runner(cfg)
        runner.train()
        runs.append((runner.param_schedulers[0].blocks, runner.model.state_dict()))
    (blocks, expected), (_, found) = runs
    assert blocks == 3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)
