"""GradualUnfreezingLR without a runner: what trains and how fast, on seven backbones and with other schedulers."""

import itertools
from unittest import mock

import pytest
import torch
from helpers.gradual import BASE, build, factor, saved
from helpers.small_models import SMALL, batch, expected_names, loss_of, small_classifier, trained
from mmengine.optim import ConstantLR, LinearLR, OptimWrapper, build_optim_wrapper
from mmpretrain.registry import PARAM_SCHEDULERS

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim import GradualUnfreezingLR
from ftsgd_plugin.optim.ddp import follow_trained_parameters
from ftsgd_plugin.utils.errors import UserError


@pytest.mark.parametrize('name', [pytest.param(one, marks=[pytest.mark.slow] * (one == 'bit-r101')) for one in SMALL])
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


def test_loading_a_state_restores_what_trains_and_the_rates():
    model = small_classifier('vit-b16')
    optim_wrapper = build(model)
    scheduler = GradualUnfreezingLR(optim_wrapper, end=6)
    states = []
    for step in range(6):
        states.append((scheduler.state_dict().copy(), optim_wrapper.state_dict(), trained(model)))
        states[-1] = torch.load(saved(states[-1][:2]), weights_only=True) + [states[-1][2]]
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
