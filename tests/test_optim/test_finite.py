"""A loss or gradient of NaN or Inf leaves weights and optimizer state as if its batch had never been there."""

import math
from copy import deepcopy

import pytest
import torch
from helpers.small_models import amp_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn

from ftsgd_plugin.optim import SGDInBackwardOptimWrapper
from ftsgd_plugin.optim.finite import FiniteUpdates
from ftsgd_plugin.optim.values import check_groups, check_settings
from ftsgd_plugin.utils import norms
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.norms import has_non_finite, non_finite

SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW
# name -> (wrapper, its options, optimizer, its options)
WRAPPERS = {
    'sgd': (OptimWrapper, {}, SGD, {}),
    'weight decay': (OptimWrapper, {}, SGD, dict(weight_decay=0.1)),
    'momentum': (OptimWrapper, {}, SGD, dict(momentum=0.9, weight_decay=0.1, nesterov=True)),
    'momentum, tensor by tensor': (OptimWrapper, {}, SGD, dict(momentum=0.9, foreach=False)),
    'adamw': (OptimWrapper, {}, ADAMW, {}),
    'fused sgd': (OptimWrapper, {}, SGD, dict(momentum=0.9, weight_decay=0.1, fused=True)),
    'fused adamw': (OptimWrapper, {}, ADAMW, dict(fused=True)),
    'clipped': (OptimWrapper, dict(clip_grad=dict(max_norm=1.0)), SGD, dict(momentum=0.9)),
    'clipped by value': (OptimWrapper, dict(clip_grad=dict(type='value', clip_value=1.0)), SGD, dict(momentum=0.9)),
    'clipped, fused': (OptimWrapper, dict(clip_grad=dict(max_norm=1.0)), SGD, dict(momentum=0.9, fused=True)),
    'accumulated': (OptimWrapper, dict(accumulative_counts=2), SGD, dict(momentum=0.9, weight_decay=0.1)),
    'scaled': (AmpOptimWrapper, dict(loss_scale='dynamic'), SGD, dict(momentum=0.9)),
    'scaled, fused': (AmpOptimWrapper, dict(loss_scale='dynamic'), SGD, dict(momentum=0.9, fused=True)),
    'scaled, clipped': (
        AmpOptimWrapper, dict(loss_scale=1024.0, clip_grad=dict(max_norm=1.0)), SGD, dict(momentum=0.9)
    ),
    'scale switched off': (AmpOptimWrapper, dict(loss_scale=dict(enabled=False)), ADAMW, {}),
    'in backward': (SGDInBackwardOptimWrapper, {}, SGD, dict(weight_decay=0.1)),
    'in backward, maximised': (SGDInBackwardOptimWrapper, {}, SGD, dict(maximize=True)),
    'in backward, on the device': (SGDInBackwardOptimWrapper, {}, SGD, dict(weight_decay=0.1)),
    'in backward, on the device, maximised': (SGDInBackwardOptimWrapper, {}, SGD, dict(maximize=True)),
}  # fmt: skip


class _BadGradient(torch.autograd.Function):
    """The identity, with a gradient of a value in its second half."""

    @staticmethod
    def forward(ctx, x, value):
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad[:, grad.shape[1] // 2 :] = ctx.value
        return grad, None


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def loss_of(model: nn.Module, step: int, bad: str = '') -> torch.Tensor:
    device = next(model.parameters()).device
    images = torch.randn(5, 4, generator=torch.Generator().manual_seed(step)).to(device)
    hidden = model[:2](images)
    if bad.startswith('gradient'):
        hidden = _BadGradient.apply(hidden, float(bad.split()[1]))
    loss = nn.functional.cross_entropy(model[2](hidden), torch.arange(5, device=device) % 3)
    return loss + float(bad.split()[1]) if bad.startswith('loss') else loss


def train(name: str, steps: list[tuple[int, str]], guard: bool = True, device: str = 'cpu'):
    """Weights, optimizer state and outcomes after (batch, fault) steps."""
    wrapper, options, kind, settings = deepcopy(WRAPPERS[name])  # MMEngine takes options out of clip_grad
    model = build().to(device)
    with amp_wrapper():
        optim_wrapper = wrapper(optimizer=kind(model.parameters(), lr=0.1, **settings), **options)
    if 'on the device' in name and device == 'cpu':
        optim_wrapper._answers_on_device = lambda param: True
    guard = FiniteUpdates(optim_wrapper, model) if guard else None
    outcomes = []
    for step, bad in steps:
        optim_wrapper.update_params(loss_of(model, step, bad))
        outcomes.append(guard and guard.take())
    state = [v for one in optim_wrapper.optimizer.state.values() for v in one.values() if isinstance(v, torch.Tensor)]
    return [*model.parameters(), *state], outcomes, guard


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


BAD = ('loss nan', 'loss inf', 'gradient nan', 'gradient -inf')


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('name', [name for name in WRAPPERS if 'backward' not in name and name != 'accumulated'])
def test_a_bad_first_batch_leaves_no_momentum_behind(name, device):
    """A fused SGD of torch 2.11.0 would keep whatever was in the memory that it took for the momentum."""
    good = [(0, ''), (1, '')]
    expected, _, _ = train(name, good, device=device)
    garbage = [torch.full((size,), 1e9, device=device) for size in (3, 8, 24, 32) for _ in range(64)]
    del garbage
    found, outcomes, _ = train(name, [(2, 'gradient nan'), *good], device=device)
    assert equal(found, expected) and list(map(bool, outcomes)) == [True, False, False]


def test_a_dampened_fused_momentum_waits_for_the_answer_and_needs_it_before_a_loss_scaler():
    damped = dict(momentum=0.9, dampening=0.5, fused=True)
    model = build()
    guard = FiniteUpdates(OptimWrapper(SGD(model.parameters(), lr=0.1, **damped)), model)
    for step, bad in [(2, 'gradient nan'), (0, ''), (1, '')]:
        guard._wrapper.update_params(loss_of(model, step, bad))
    twin = build()
    plain = SGD(twin.parameters(), lr=0.1, **damped)
    for step in (0, 1):
        plain.zero_grad()
        loss_of(twin, step).backward()
        plain.step()
    assert equal([*model.parameters()], [*twin.parameters()])
    with amp_wrapper():
        scaled = AmpOptimWrapper('dynamic', optimizer=SGD(model.parameters(), lr=0.1, **damped))
    with pytest.raises(UserError, match='set fused=False or dampening=0'):
        FiniteUpdates(scaled, model)


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('name', WRAPPERS)
def test_a_bad_batch_leaves_weights_and_state_as_if_it_had_not_been(name, device):
    good, window = [(0, ''), (1, ''), (4, ''), (5, '')], 2 if 'accumulated' in name else 1
    expected, outcomes, _ = train(name, good, device=device)
    assert equal(expected, train(name, good, guard=False, device=device)[0]), 'the guard changes a healthy run'
    assert [bool(one) for one in outcomes if one is not None] == [False] * (4 // window)
    for bad in BAD:
        if name.startswith('in backward') and bad.startswith('gradient'):
            continue  # the next test
        # With accumulation the whole window of the bad batch is left out, wherever in it the batch is.
        for inserted in ([(2, bad)], [(2, ''), (3, bad)], [(2, bad), (3, '')])[:: 3 if window == 1 else 1]:
            inserted = inserted if window == 1 else (inserted * 2)[:2]
            found, outcomes, _ = train(name, [*good[:2], *inserted, *good[2:]], device=device)
            assert equal(found, expected), bad
            assert [bool(one) for one in outcomes if one is not None].count(True) == 1


@pytest.mark.parametrize('name', [name for name in WRAPPERS if name.startswith('in backward')])
@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
def test_in_backward_what_comes_after_a_bad_gradient_is_not_updated(name, value):
    """The last layer's update comes before it, in the same backward pass."""
    before, _, _ = train(name, [(0, '')])
    (first, first_bias, last, last_bias), outcomes, _ = train(name, [(0, ''), (1, f'gradient {value}')])
    assert torch.equal(first, before[0]) and torch.equal(first_bias, before[1])
    expected, _, _ = train(name, [(0, ''), (1, '')])
    assert torch.equal(last, expected[2]) and torch.equal(last_bias, expected[3])
    assert [bool(one) for one in outcomes] == [False, True]


@pytest.mark.gpu
@pytest.mark.parametrize('name', ['fused sgd', 'fused adamw', 'in backward', 'in backward, maximised'])
def test_on_a_gpu_the_host_does_not_wait_for_the_answer(name):
    model, (wrapper, options, kind, settings) = build().cuda(), deepcopy(WRAPPERS[name])
    optim_wrapper = wrapper(optimizer=kind(model.parameters(), lr=0.1, **settings), **options)
    guard = FiniteUpdates(optim_wrapper, model)
    first, *others = torch.randn(4, 5, 4, device='cuda')
    loss = model(first).square().mean()
    optim_wrapper.update_params(loss)
    guard.take()
    torch.cuda.set_sync_debug_mode('error')
    try:
        with pytest.raises(RuntimeError, match='synchronizing'):
            float(loss)  # the mode notices who waits
        for images in others:
            optim_wrapper.update_params(model(images).square().mean())
            assert isinstance(guard.take(), torch.Tensor)
    finally:
        torch.cuda.set_sync_debug_mode('default')


def test_without_the_guard_the_weights_are_lost():
    """Otherwise the tests above would test nothing."""
    for name in WRAPPERS:
        if not name.startswith('scaled'):
            assert has_non_finite(train(name, [(0, ''), (1, 'gradient nan')], guard=False)[0]), name


def test_removing_the_guard_restores_the_wrapper():
    for name in WRAPPERS:
        _, _, guard = train(name, [(0, '')])
        wrapper = guard._wrapper
        guard.remove()
        assert not {'step', 'backward'} & vars(wrapper).keys(), name
        assert not wrapper.optimizer._optimizer_step_post_hooks and not wrapper.optimizer._optimizer_step_pre_hooks
        assert not getattr(wrapper, 'skip_non_finite', False)


@pytest.mark.parametrize('on_host', [True, False], ids=['host', 'as on a device'])
def test_large_but_finite_gradients_are_applied(on_host, monkeypatch):
    """The norm of such gradients overflows, their entries do not."""
    monkeypatch.setattr(norms, '_on_host', lambda tensors: on_host)
    large = [
        torch.full((4,), 1e30),
        torch.full((3,), 6e4, dtype=torch.float16),
        torch.tensor([1e300], dtype=torch.float64),
    ]
    assert not has_non_finite(large) and not non_finite(large)
    for value in (math.nan, math.inf, -math.inf):
        spoilt = [*large, torch.tensor([0.0, value])]
        assert has_non_finite(spoilt) and non_finite(spoilt)
    assert not has_non_finite([torch.arange(3), torch.zeros(0)])
    sparse = torch.sparse_coo_tensor([[1]], [math.nan], (3,))
    assert has_non_finite([sparse]) and non_finite([sparse]) and not has_non_finite([torch.zeros(3).to_sparse()])
    alike = [torch.full((4,), 1e30), torch.full((2, 3), 1e30)]
    assert not has_non_finite(alike) and not non_finite(alike)
    alike[1][1, 2] = math.nan
    assert has_non_finite(alike) and non_finite(alike)


def settings(**optim_wrapper) -> dict:
    return dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)) | optim_wrapper)


@pytest.mark.parametrize(
    'cfg, line',
    [
        (settings(optimizer=dict(lr=math.nan)), 'optim_wrapper.optimizer.lr=nan is not a finite number; set one, such'),
        (settings(optimizer=dict(lr=math.inf)), 'optim_wrapper.optimizer.lr=inf is not a finite number'),
        (settings(optimizer=dict(lr=-1e-3)), 'optim_wrapper.optimizer.lr=-0.001 is negative'),
        (settings(optimizer=dict(lr=0.1, momentum=1)), 'optim_wrapper.optimizer.momentum=1 is not in [0, 1)'),
        (settings(optimizer=dict(lr=0.1, momentum=-0.1)), 'momentum=-0.1 is not in [0, 1)'),
        (settings(optimizer=dict(lr=0.1, momentum=math.nan)), 'momentum=nan is not a finite number'),
        (settings(optimizer=dict(lr=0.1, weight_decay=math.inf)), 'weight_decay=inf is not a finite number'),
        (settings(optimizer=dict(lr=0.1, betas=(0.9, math.nan))), 'optimizer.betas.1=nan is not a finite number'),
        (settings(clip_grad=dict(max_norm=math.nan)), 'clip_grad.max_norm=nan is not a finite number'),
        (settings(clip_grad=dict(max_norm=-math.inf)), 'clip_grad.max_norm=-inf is not a finite number'),
        (settings(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=math.inf)))), 'custom_keys.head.lr_mult=inf'),
        (dict(param_scheduler=dict(decay=math.nan)), 'param_scheduler.decay=nan is not a finite number'),
        (dict(param_scheduler=[dict(), dict(eta_min=-math.inf)]), 'param_scheduler.1.eta_min=-inf is not a finite'),
    ],
)
def test_settings_that_are_no_numbers_to_train_with_are_one_line(cfg, line):
    with pytest.raises(UserError) as error:
        check_settings(cfg)
    assert line in str(error.value) and str(error.value).endswith('.') and '\n' not in str(error.value)


def test_usual_settings_are_accepted():
    check_settings({})
    check_settings(settings(optimizer=dict(lr=0, momentum=0.0, nesterov=True), clip_grad=dict(max_norm=math.inf)))
    check_settings(settings(optimizer=dict(lr='1e-3', momentum=None), clip_grad=dict(max_norm=1.0, norm_type=math.inf)))


def test_groups_are_checked_too():
    optimizer = SGD([dict(params=[nn.Parameter(torch.zeros(1))], momentum=1.5)], lr=0.1)
    with pytest.raises(UserError, match=r'optimizer\.momentum=1\.5 is not in \[0, 1\)'):
        check_groups(optimizer)
