"""Inside an accumulation window the rate and the blocks change together, at the update."""

import copy
import functools
import math

import pytest
import torch
from helpers.gradual import BASE, build, factor, saved
from helpers.small_models import amp_wrapper, batch, expected_names, loss_of, small_classifier, trained
from mmengine.optim import CosineAnnealingLR, build_optim_wrapper

from ftsgd_plugin.optim import GradualUnfreezingLR
from ftsgd_plugin.optim.schedule import open_blocks


@pytest.mark.parametrize('accumulate', [1, 2, 3])
def test_inside_an_accumulation_window_a_change_waits_for_the_update(accumulate):
    """The schedule steps after every fifth backward pass, inside some of the windows."""
    model = small_classifier('vit-b16')
    optim_wrapper = build(model, accumulate=accumulate)
    optim_wrapper.initialize_count_status(model, 0, 20)
    scheduler = GradualUnfreezingLR(optim_wrapper, end=4)
    for iteration in range(20):
        window_start = iteration - iteration % accumulate
        in_force = window_start // 5  # epochs completed when this window began
        assert trained(model) == expected_names(model, in_force), f'iteration {iteration}'
        (rate,) = {group['lr'] for group in optim_wrapper.optimizer.param_groups}
        assert rate == pytest.approx(BASE * factor(in_force, 4), rel=1e-12), f'iteration {iteration}'
        with optim_wrapper.optim_context(model):
            loss = loss_of(model, *batch('vit-b16', iteration))
        optim_wrapper.update_params(loss)
        if iteration % 5 == 4:
            scheduler.step()
            (state,) = torch.load(saved([scheduler.state_dict()]), weights_only=True)
            assert state['_waiting'] == (iteration % accumulate != accumulate - 1 and iteration < 19)
        if iteration % accumulate == accumulate - 1:
            assert 'zero_grad' not in vars(optim_wrapper)  # replaced only while a change waits


@pytest.mark.parametrize('accumulate', [1, 4])
def test_rate_and_blocks_of_every_update_are_those_of_one_step(accumulate):
    """The schedule counts iterations, so it steps inside every window, beside a cosine that does not wait."""
    model, total = small_classifier('vit-b16'), 16
    optim_wrapper = build(model, accumulate=accumulate)
    optim_wrapper.initialize_count_status(model, 0, total)
    cosine = CosineAnnealingLR(optim_wrapper, T_max=total, eta_min=0.0, by_epoch=False)
    scheduler = GradualUnfreezingLR(optim_wrapper, end=total, by_epoch=False)
    updates, step = [], optim_wrapper.step

    def noting_step(**kwargs):
        names = {name for name, param in model.named_parameters() if param.grad is not None}
        updates.append((optim_wrapper.optimizer.param_groups[0]['lr'], names))
        step(**kwargs)

    optim_wrapper.step = functools.wraps(step)(noting_step)
    for iteration in range(total):
        optim_wrapper.update_params(loss_of(model, *batch('vit-b16', iteration)))
        cosine.step(), scheduler.step()
    for number, (rate, names) in enumerate(updates):
        first = number * accumulate  # the schedule's step at the window's start
        last = first + accumulate - 1  # the cosine's step at the update
        outer = BASE * (1 + math.cos(math.pi * last / total)) / 2
        assert rate == pytest.approx(outer * factor(first, total), rel=1e-9)
        assert names == expected_names(model, open_blocks(first, 3, total))
    assert len(updates) == total // accumulate


def test_a_state_inside_a_window_loads_with_the_rates_and_blocks_of_its_step():
    """And a state of version 0.1.0, which had no factor and changed the rate at once."""
    model = small_classifier('vit-b16')
    optim_wrapper = build(model, accumulate=2)
    scheduler = GradualUnfreezingLR(optim_wrapper, end=4)
    optim_wrapper.update_params(loss_of(model, *batch('vit-b16', 0)))
    scheduler.step()
    assert optim_wrapper.optimizer.param_groups[0]['lr'] == pytest.approx(BASE * factor(0, 4), rel=1e-12)
    saved = optim_wrapper.state_dict(), scheduler.state_dict()
    assert saved[1]['_waiting']
    for version in ('now', '0.1.0'):
        twin = small_classifier('vit-b16')
        again = build(twin, accumulate=2)
        loaded = GradualUnfreezingLR(again, end=4)
        optimizer_state, state = copy.deepcopy(saved)
        if version == '0.1.0':
            for group in optimizer_state['param_groups']:
                group['lr'] *= factor(1, 4) / factor(0, 4)
            state['_applied'] = [outer * factor(1, 4) for outer in state['_outer']]
            del state['_factor']
        again.load_state_dict(optimizer_state)
        loaded.load_state_dict(state)
        for step in (1, 2, 3):
            assert again.optimizer.param_groups[0]['lr'] == pytest.approx(BASE * factor(step, 4), rel=1e-12)
            assert trained(twin) == expected_names(twin, step)
            loaded.step()


def test_amp_opens_at_the_end_of_the_window_also_if_its_update_is_skipped():
    """Windows of two; an infinite loss in one, so that the scaler skips its update; changes wait for a window's end."""
    models = small_classifier('vit-b16'), small_classifier('vit-b16')
    with amp_wrapper():
        cfg = dict(type='AmpOptimWrapper', loss_scale=dict(init_scale=65536.0), dtype='float32', accumulative_counts=2)
        scaled = build_optim_wrapper(
            models[0],
            dict(
                **cfg,
                optimizer=dict(type='SGD', lr=BASE, momentum=0.9),
                constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
            ),
        )
    plain = build(models[1], accumulate=2)
    schedulers = [GradualUnfreezingLR(optim_wrapper, end=4) for optim_wrapper in (scaled, plain)]
    opened = []
    for iteration in range(12):
        skipped = iteration in (6, 7)  # all of one window
        opened.append([len(trained(model)) for model in models])
        for model, optim_wrapper in zip(models, (scaled, plain)):
            if skipped and optim_wrapper is plain:
                continue
            loss = loss_of(model, *batch('vit-b16', iteration)) * (float('inf') if skipped else 1)
            optim_wrapper.update_params(loss)
        if iteration in (2, 6, 9):  # two of them inside a window
            for scheduler in schedulers:
                scheduler.step()
    counts = [len(expected_names(models[0], opened)) for opened in range(4)]
    assert [mine for mine, _ in opened] == [counts[0]] * 4 + [counts[1]] * 4 + [counts[2]] * 2 + [counts[3]] * 2
    for ours, reference in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)
