"""``lr_mult='gradient'``: measured once before the first update, kept in checkpoints.

Two ranks have the multipliers of one process: ``test_other_methods.py``, whose ranks measure too.
"""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.digits import load_digits_config
from helpers.measured_rates import ITEMS, built, of_items
from helpers.other_methods import part
from helpers.small_models import batch, expected_names, loss_of, small_classifier, trained
from mmengine.optim.scheduler import CosineAnnealingLR, LinearLR

from ftsgd_plugin import gradient_lr_mult, read_record
from ftsgd_plugin.hooks import gradient_rates
from ftsgd_plugin.optim import GradualUnfreezingLR
from ftsgd_plugin.optim.measured_rates import measured_lr_mult, scale_rates
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import UserError


def first_gradients(accumulate: int = 1) -> dict[str, float]:
    """The rule on the gradient of the first batch, by a plain backward pass."""
    model = small_classifier('vit-b16').train()
    for images, labels in (batch('vit-b16', step) for step in range(accumulate)):
        (loss_of(model, images, labels) / accumulate).backward()
    return gradient_lr_mult(model)


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'SGDInBackwardOptimWrapper'])
def test_one_batch_is_the_rule_on_its_gradient_and_nothing_changes(accumulate, wrapper):
    model, optim_wrapper = built(wrapper)
    GradualUnfreezingLR(optim_wrapper, end=4)  # closes all but the head
    closed, states = trained(model), (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = of_items(model, optim_wrapper, 1, accumulate)
    assert found == pytest.approx(first_gradients(accumulate), rel=1e-4)
    assert min(found.values()) < 1 and trained(model) == closed == expected_names(model, 0, frozen=())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(param.grad is None for param in model.parameters())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_running_statistics_are_those_of_before():
    model, optim_wrapper = built()
    norm = torch.nn.BatchNorm2d(3)
    model.data_preprocessor.register_module('norm', norm)  # sees every image
    forward = model.data_preprocessor.forward
    model.data_preprocessor.forward = lambda data, training: (
        norm(torch.stack(data['inputs'])),
        forward(data, training),
    )[1]
    of_items(model, optim_wrapper, 1)
    assert norm.running_mean.eq(0).all() and norm.num_batches_tracked == 0


def test_several_batches_give_the_mean_norm_and_no_batch_is_refused():
    model, optim_wrapper = built()
    found = of_items(model, optim_wrapper, 8)
    assert found != of_items(model, optim_wrapper, 1) and found == of_items(model, optim_wrapper, ITEMS // 4)
    with pytest.raises(UserError, match='the training data has no batch of this size'):
        of_items(model, optim_wrapper, 1, accumulate=8)


def test_schedules_multiply_on_top():
    """Warm-up, cosine and gradual unfreezing: at every step each group's rate is its multiplier times the plain one."""
    lr_mult = {'embed': 0.1, 'blocks.0': 0.5, 'blocks.2': 0.8}

    def trace(scaled: bool) -> list[list[float]]:
        model, optim_wrapper = built()
        schedulers = [
            LinearLR(optim_wrapper, start_factor=0.5, end=2, by_epoch=False),
            CosineAnnealingLR(optim_wrapper, T_max=6, end=6, by_epoch=False),
            GradualUnfreezingLR(optim_wrapper, end=6, by_epoch=False),
        ]
        scale_rates(optim_wrapper, schedulers, lr_mult if scaled else {})
        found = []
        for step in range(6):
            found.append([group['lr'] for group in optim_wrapper.optimizer.param_groups])
            optim_wrapper.update_params(loss_of(model, *batch('vit-b16', step)))
            for scheduler in schedulers:
                scheduler.step()
        stages = [g['role'] if g['block'] is None else f'blocks.{g["block"]}' for g in optim_wrapper.param_groups[:-1]]
        assert measured_lr_mult(optim_wrapper.optimizer.param_groups) == {
            stage: lr_mult.get(stage, 1.0) if scaled else 1.0 for stage in stages
        }
        return [stages, *found]

    (stages, *plain), (_, *scaled) = trace(False), trace(True)
    factors = [lr_mult.get(stage, 1.0) for stage in stages]
    for before, after in zip(plain, scaled):
        assert after == pytest.approx([rate * factor for rate, factor in zip(before, factors)])


def test_without_its_hook_training_is_refused():
    model, optim_wrapper = built()
    with pytest.raises(UserError, match=r"nothing has measured the gradients; .*custom_hooks=\[dict\(type='Gradient"):
        optim_wrapper.update_params(loss_of(model, *batch('vit-b16', 0)))
    with pytest.raises(UserError, match='batches=0 is not a positive whole number'):
        gradient_rates.GradientRatesHook(batches=0)


def run(digits_root, directory: Path, **options):
    cfg = load_digits_config(digits_root, 'sgd', 64, work_dir=str(directory), **{'train_cfg.max_epochs': 2, **options})
    method = part('sgd-gradient-rates')
    cfg.optim_wrapper, cfg.param_scheduler, cfg.launcher = method.optim_wrapper, method.param_scheduler, 'none'
    return build_runner(cfg)


def test_a_run_is_that_of_plain_groups_and_a_resumed_one_never_measures_again(digits_root, tmp_path, monkeypatch):
    whole = run(digits_root, tmp_path / 'whole')
    whole.train()
    record = read_record(tmp_path / 'whole')
    groups = whole.optim_wrapper.optimizer.param_groups
    assert record.lr_mult == measured_lr_mult(groups) and record.lr_mult['head'] == 1.0
    assert min(record.lr_mult.values()) < 1

    by_hand = run(digits_root, tmp_path / 'by_hand', **{'optim_wrapper.paramwise_cfg.lr_mult': None})
    by_hand.cfg.optim_wrapper.paramwise_cfg['lr_mult'] = dict(record.lr_mult)
    by_hand.optim_wrapper = by_hand.cfg.optim_wrapper
    by_hand.train()

    def measured_again(*args):
        raise AssertionError('a resumed run has measured')

    monkeypatch.setattr(gradient_rates, 'measure_lr_mult', measured_again)
    first = tmp_path / 'whole/previous/epoch_1.pth'
    again = run(digits_root, tmp_path / 'again', resume=True, load_from=str(first))
    again.train()
    assert read_record(tmp_path / 'again').lr_mult == record.lr_mult
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
        assert torch.equal(by_hand.model.state_dict()[name], value), name
