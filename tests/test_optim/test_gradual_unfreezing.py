"""GradualUnfreezingLR without a runner: what trains and how fast, on seven backbones and with other schedulers."""

import copy
import functools
import io
import itertools
import math
from unittest import mock

import pytest
import torch
from helpers.small_models import SMALL, amp_wrapper, batch, expected_names, loss_of, small_classifier, trained
from mmengine.optim import ConstantLR, CosineAnnealingLR, LinearLR, OptimWrapper, build_optim_wrapper
from mmpretrain.registry import PARAM_SCHEDULERS

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim import GradualUnfreezingLR
from ftsgd_plugin.optim.ddp import follow_trained_parameters
from ftsgd_plugin.optim.schedule import open_blocks
from ftsgd_plugin.utils.errors import UserError

BASE = 1e-3


def build(model, freeze='embed', accumulate=1, **optimizer) -> OptimWrapper:
    return build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=BASE, momentum=0.9, **optimizer),
            constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
            paramwise_cfg=dict(freeze=freeze),
            accumulative_counts=accumulate,
        ),
    )


@pytest.mark.parametrize('name', SMALL)
def test_opens_block_by_block_and_moves_exactly_what_is_open(name):
    model, total = small_classifier(name), 6
    blocks = SMALL[name][1]
    optim_wrapper = build(model)
    scheduler = GradualUnfreezingLR(optim_wrapper, end=total)
    assert scheduler.blocks == blocks
    frozen_permanently = {key for layer in list_layers(model) if layer.role == 'embed' for key in layer.params}
    for step in range(total):
        opened = blocks * step // (total - 1)
        assert trained(model) == expected_names(model, opened), f'step {step}'
        (rate,) = {group['lr'] for group in optim_wrapper.optimizer.param_groups}
        assert rate == pytest.approx(BASE * factor(step, total), rel=1e-12)
        before = {key: param.detach().clone() for key, param in model.named_parameters()}
        optim_wrapper.update_params(loss_of(model, *batch(name, step)))
        for key, param in model.named_parameters():
            assert torch.equal(param, before[key]) != (key in trained(model)), f'{key} at step {step}'
            assert param.requires_grad or (param.grad is None and param not in optim_wrapper.optimizer.state)
        scheduler.step()
    assert trained(model) == {key for key, _ in model.named_parameters()} - frozen_permanently


def test_registered_under_its_name():
    optim_wrapper = build(small_classifier('vit-b16'))
    cfg = dict(type='GradualUnfreezingLR', end=4)
    assert isinstance(PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optim_wrapper)), GradualUnfreezingLR)


def test_bare_optimizer_works_too():
    model = small_classifier('vit-b16')
    optimizer = build(model).optimizer
    scheduler = GradualUnfreezingLR(optimizer, end=2)
    assert trained(model) == expected_names(model, 0)
    scheduler.step()
    assert trained(model) == expected_names(model, 3)


def test_only_the_constructor_freezes_permanently():
    model = small_classifier('vit-b16')
    optim_wrapper = build(model, freeze='none')
    scheduler = GradualUnfreezingLR(optim_wrapper, end=3)
    assert trained(model) == expected_names(model, 0, frozen=())
    scheduler.step()
    assert 'backbone.net.patch_embed.proj.weight' not in trained(model)
    scheduler.step()
    assert trained(model) == {key for key, _ in model.named_parameters()}


def rates_of(optim_wrapper, schedulers, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        (rate,) = {group['lr'] for group in optim_wrapper.optimizer.param_groups}
        found.append(rate)
        for scheduler in schedulers:
            scheduler.step()
    return found


def factor(step: int, total: int) -> float:
    return math.exp(3.73 * (1 - step / (total - 1)))


@pytest.mark.parametrize('first', ['warm-up', 'unfreezing'])
def test_composes_with_a_linear_warm_up(first):
    """Before ``begin`` the other scheduler sets the rate and only the head trains."""
    model = small_classifier('vit-b16')
    optim_wrapper = build(model)
    make = {
        'warm-up': lambda: LinearLR(optim_wrapper, start_factor=0.1, begin=0, end=4),
        'unfreezing': lambda: GradualUnfreezingLR(optim_wrapper, begin=3, end=9),
    }
    names = [first, *make.keys() - {first}]
    schedulers = [make[name]() for name in names]
    assert trained(model) == expected_names(model, 0)
    linear = [0.1, 0.4, 0.7] + [1.0] * 7
    expected = [BASE * linear[t] * (factor(t - 3, 6) if t >= 3 else 1) for t in range(9)]
    assert rates_of(optim_wrapper, schedulers, 9) == pytest.approx(expected, rel=1e-12)
    assert trained(model) == expected_names(model, 3)


def test_a_rate_of_zero_stays_zero_and_an_outer_factor_stays():
    optim_wrapper = build(small_classifier('vit-b16'))
    schedulers = [GradualUnfreezingLR(optim_wrapper, end=6), ConstantLR(optim_wrapper, factor=0.5, begin=0, end=3)]
    found = rates_of(optim_wrapper, schedulers, 6)
    expected = [BASE * factor(t, 6) * (0.5 if t < 2 else 1) for t in range(6)]
    assert found == pytest.approx(expected, rel=1e-12)
    for group in optim_wrapper.optimizer.param_groups:
        group['lr'] = 0.0
    optim_wrapper = build(small_classifier('vit-b16'))
    scheduler = GradualUnfreezingLR(optim_wrapper, end=6)
    optim_wrapper.optimizer.param_groups[0]['lr'] = 0.0
    for _ in range(4):
        scheduler.step()
        assert optim_wrapper.optimizer.param_groups[0]['lr'] == 0.0
        assert optim_wrapper.optimizer.param_groups[1]['lr'] > 0


def test_rates_of_the_groups_keep_their_ratio():
    model = small_classifier('vit-b16')
    optim_wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=BASE),
            constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
            paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10)}),
        ),
    )
    scheduler = GradualUnfreezingLR(optim_wrapper, end=4)
    for step in range(4):
        for group in optim_wrapper.optimizer.param_groups:
            own = 10 if group['role'] == 'head' else 1
            assert group['lr'] == pytest.approx(BASE * own * factor(step, 4), rel=1e-12)
        scheduler.step()


def test_long_iteration_schedules_stay_at_the_closed_form():
    optim_wrapper, total = build(small_classifier('vit-b16')), 30_000
    scheduler = GradualUnfreezingLR(optim_wrapper, end=total, by_epoch=False)
    for step in range(1, total):
        scheduler.step()
        if step % 2999 == 0 or step == total - 1:
            expected = BASE * factor(step, total)
            assert optim_wrapper.optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=1e-12)


def test_converted_to_iterations():
    model = small_classifier('vit-b16')
    cfg = dict(
        type='GradualUnfreezingLR', by_epoch=True, convert_to_iter_based=True, warmup=1, cooldown=1, begin=1, end=6
    )
    scheduler = PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=build(model), epoch_length=10))
    assert (scheduler.by_epoch, scheduler.begin, scheduler.end) == (False, 10, 60)
    assert (scheduler.warmup, scheduler.cooldown) == (10, 10)
    opened = []
    for _ in range(60):
        opened.append(scheduler.open_blocks)
        assert trained(model) == expected_names(model, scheduler.open_blocks)
        scheduler.step()
    assert opened == [0] * 20 + [3 * eff // 29 for eff in range(30)] + [3] * 10


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
            (state,) = torch.load(_saved([scheduler.state_dict()]), weights_only=True)
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


def test_loading_a_state_restores_what_trains_and_the_rates():
    model = small_classifier('vit-b16')
    optim_wrapper = build(model)
    scheduler = GradualUnfreezingLR(optim_wrapper, end=6)
    states = []
    for step in range(6):
        states.append((scheduler.state_dict().copy(), optim_wrapper.state_dict(), trained(model)))
        states[-1] = torch.load(_saved(states[-1][:2]), weights_only=True) + [states[-1][2]]
        optim_wrapper.update_params(loss_of(model, *batch('vit-b16', step)))
        scheduler.step()
    for state, optimizer_state, names in [states[3], states[0], states[5]]:  # forwards and backwards
        optim_wrapper.load_state_dict(optimizer_state)
        scheduler.load_state_dict(state)
        assert trained(model) == names
        assert all(param.grad is None for key, param in model.named_parameters() if key not in names)
    optim_wrapper.load_state_dict(states[2][1])
    scheduler.load_state_dict(states[2][0])
    scheduler.step()
    assert optim_wrapper.optimizer.param_groups[0]['lr'] == pytest.approx(BASE * factor(3, 6), rel=1e-12)
    other = GradualUnfreezingLR(build(small_classifier('bit-r101')), end=6)
    with pytest.raises(UserError, match='the state is of a model with 3 blocks, this one has 30'):
        other.load_state_dict(states[2][0])


def _saved(content):
    buffer = io.BytesIO()
    torch.save(list(content), buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize('options, message', [
    (dict(), 'end is not set'),
    (dict(end=3, last_step=1), 'last_step does not say what trains'),
    (dict(end=3, warmup=-1), 'warmup=-1 is not a whole number'),
    (dict(end=3, cooldown=0.5), r'cooldown=0\.5 is not a whole number'),
])  # fmt: skip
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        GradualUnfreezingLR(build(small_classifier('vit-b16')), **options)


def test_groups_without_roles_are_refused(vit):
    model = vit()
    with pytest.raises(UserError, match="constructor='FreezeEmbedOptimWrapperConstructor'"):
        GradualUnfreezingLR(OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)), end=3)
    with pytest.raises(UserError, match='no block trains'):
        GradualUnfreezingLR(build(vit(), freeze=['blocks.*']), end=3)


def test_closed_layers_are_in_eval_mode_and_open_ones_are_not():
    model = small_classifier('convnext-b')
    optim_wrapper = build(model)
    scheduler = GradualUnfreezingLR(optim_wrapper, end=3)
    model.train()
    for step in range(3):
        optim_wrapper.update_params(loss_of(model, *batch('convnext-b', step)))
        model.train()
        for layer in list_layers(model):
            training = {module.training for module in layer.modules.values()}
            assert training <= {layer.params.keys() <= trained(model)}, f'{layer.name} at step {step}'
        scheduler.step()
    model.eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.slow
def test_compiled_code_follows():
    """Without a reset, torch.compile keeps the backward pass of the first phase and opened layers get no gradient."""
    model = small_classifier('vit-b16')
    optim_wrapper = build(model)
    scheduler = GradualUnfreezingLR(optim_wrapper, end=4)
    model.backbone.net.compile(backend='aot_eager')
    for step in range(4):
        loss_of(model, *batch('vit-b16', step)).backward()
        with_gradient = {key for key, param in model.named_parameters() if param.grad is not None}
        assert with_gradient == expected_names(model, step)
        optim_wrapper.zero_grad()
        scheduler.step()


def test_model_wrapped_after_its_optimizer_is_refused():
    """Its reducer would never reduce the layers that open later."""
    model = small_classifier('vit-b16')
    optim_wrapper = build(model)  # noqa: F841  (its hooks leave the model with it)
    model.train()
    with (
        mock.patch.object(torch.nn.parallel.DistributedDataParallel, '_active_ddp_module', torch.nn.Identity()),
        pytest.raises(UserError, match='wrap the model first, then build the optimizer'),
    ):
        model(batch('vit-b16', 0)[0])
    follow_trained_parameters(model, model)
    model(batch('vit-b16', 0)[0])


def saved_bytes(model, name: str) -> tuple[int, int]:
    """Bytes that a step keeps for its backward pass (parameters not counted), and bytes of gradients."""
    own = {param.untyped_storage().data_ptr() for param in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, *batch(name, 0, size=8))
        kept = sum(storages.values())
    loss.backward()
    return kept, sum(p.grad.numel() * 4 for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize('name', ['vit-b16', 'clip-vit-b16'])
def test_closed_blocks_keep_no_activations_and_receive_no_gradient(name, capsys):
    """Every closed block saves the same number of bytes of activations."""
    model = small_classifier(name)
    blocks = SMALL[name][1]
    optim_wrapper = build(model)
    scheduler = GradualUnfreezingLR(optim_wrapper, end=blocks + 1)
    rows = []
    for opened in range(blocks + 1):
        rows.append(saved_bytes(model, name))
        expected = sum(p.numel() * 4 for key, p in model.named_parameters() if key in expected_names(model, opened))
        assert rows[-1][1] == expected
        optim_wrapper.zero_grad()
        scheduler.step()
    with capsys.disabled():
        print(f'\n{name}: open blocks, bytes saved for backward, bytes of gradients')
        for opened, (activations, gradients) in enumerate(rows):
            print(f'  {opened:2d} {activations:10,} {gradients:10,}')
    steps = [after[0] - before[0] for before, after in itertools.pairwise(rows[1:])]
    assert rows[0][0] < 0.1 * rows[-1][0]
    middle = steps[:-1]  # the last step opens the position embedding and the class token as well
    assert all(step > 0 for step in steps) and max(middle) - min(middle) <= 0.02 * max(middle)
