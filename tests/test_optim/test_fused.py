"""Fused optimizers by default on CUDA: the same training as unfused, the user's choice, resuming across devices."""

from copy import deepcopy

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from ftsgd_plugin.checkpoint.adoption import adopt_kind_of_update
from ftsgd_plugin.checkpoint.differences import differences
from ftsgd_plugin.optim import constructor
from ftsgd_plugin.optim.fused import can_be_fused, fused_by_default

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)
ADAMW = dict(type='AdamW', lr=1e-2)


def wrapper_of(model: nn.Module, optimizer: dict, **options) -> OptimWrapper:
    settings = dict(
        optimizer=deepcopy(optimizer),
        constructor='FreezeEmbedOptimWrapperConstructor',
        paramwise_cfg=dict(freeze='none'),
    )
    return build_optim_wrapper(model, {**settings, **options})


def network(device: str = 'cpu') -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3)).to(device)


def train(model: nn.Module, optim_wrapper, steps: range) -> list[torch.Tensor]:
    for step in steps:
        images = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        optim_wrapper.update_params(model(images.to(next(model.parameters()).device)).square().mean())
    return [param.detach().cpu().clone() for param in model.parameters()]


@pytest.fixture
def fused(monkeypatch):
    """The CPU's parameters count as those of a GPU: PyTorch has fused updates for both."""
    monkeypatch.setattr(constructor, 'can_be_fused', lambda params: True)


@pytest.mark.parametrize(
    'settings, expected',
    [
        (dict(optimizer=SGD), True),
        (dict(type='OptimWrapper', optimizer=ADAMW), True),
        (dict(type=OptimWrapper, optimizer=dict(type=torch.optim.Adam, lr=0.1)), True),
        (dict(type='AmpOptimWrapper', optimizer=SGD), True),
        (dict(type='SGDInBackwardOptimWrapper', optimizer=SGD), False),
        (dict(type='ApexOptimWrapper', optimizer=SGD), False),
        (dict(optimizer=dict(type='RMSprop', lr=0.1)), False),
        (dict(optimizer={**SGD, 'fused': False}), False),
        (dict(optimizer={**SGD, 'foreach': True}), False),
        (dict(optimizer={**SGD, 'foreach': None}), True),
        (dict(optimizer={**SGD, 'differentiable': True}), False),
    ],
)
def test_what_is_fused_by_default(settings, expected):
    assert fused_by_default(settings) is expected


def test_only_on_cuda():
    model = network()
    assert not can_be_fused(model.parameters())
    assert not wrapper_of(model, SGD).optimizer.param_groups[0]['fused']


@pytest.mark.parametrize('optimizer', [SGD, ADAMW])
def test_twenty_steps_are_those_of_torchs_fused_optimizer(fused, optimizer):
    model, twin, unfused = network(), network(), network()
    ours = wrapper_of(model, optimizer)
    assert all(group['fused'] for group in ours.optimizer.param_groups)
    settings = {key: value for key, value in optimizer.items() if key != 'type'}
    plain = getattr(torch.optim, optimizer['type'])(twin.parameters(), fused=True, **settings)
    steps = range(20)
    trained = train(model, ours, steps)
    assert all(map(torch.equal, trained, train(twin, OptimWrapper(plain), steps)))
    for one, other in zip(trained, train(unfused, wrapper_of(unfused, {**optimizer, 'fused': False}), steps)):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize('optimizer', [SGD, ADAMW])
def test_on_a_gpu_the_default_is_fused_and_trains_alike(optimizer):
    model, unfused = network('cuda'), network('cuda')
    ours, plain = wrapper_of(model, optimizer), wrapper_of(unfused, {**optimizer, 'fused': False})
    assert all(group['fused'] for group in ours.optimizer.param_groups)
    for one, other in zip(train(model, ours, range(20)), train(unfused, plain, range(20))):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('optimizer', [SGD, ADAMW])
@pytest.mark.parametrize('saved_fused', [True, False])
def test_a_checkpoint_of_the_other_device_continues(monkeypatch, optimizer, saved_fused):
    model = network()
    straight = network()
    expected = train(straight, wrapper_of(straight, optimizer), range(6))
    monkeypatch.setattr(constructor, 'can_be_fused', lambda params: saved_fused)
    before = wrapper_of(model, optimizer)
    train(model, before, range(3))
    checkpoint = dict(optimizer=deepcopy(before.state_dict()), message_hub={})
    monkeypatch.setattr(constructor, 'can_be_fused', lambda params: not saved_fused)
    after = wrapper_of(model, optimizer)
    adopt_kind_of_update(checkpoint, after)
    assert not differences(checkpoint, after, [], {})
    after.load_state_dict(checkpoint['optimizer'])
    assert bool(after.optimizer.param_groups[0]['fused']) is not saved_fused
    for one, other in zip(train(model, after, range(3, 6)), expected):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_two_choices_that_differ_are_a_difference():
    model = network()
    chosen = wrapper_of(model, {**SGD, 'fused': True})
    checkpoint = dict(optimizer=deepcopy(chosen.state_dict()), message_hub={})
    other = wrapper_of(model, {**SGD, 'fused': False})
    adopt_kind_of_update(checkpoint, other)
    (found,) = differences(checkpoint, other, [], {})
    assert (found.setting, found.saved, found.ours) == ('optim_wrapper.optimizer.fused', True, False)
