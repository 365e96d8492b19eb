"""Which schedulers may stand beside gradual unfreezing is decided by what they do, checked against running both."""

import pytest
import torch
from mmengine.optim.scheduler import lr_scheduler
from torch import nn

from ftsgd_plugin.optim import GradualUnfreezingLR
from ftsgd_plugin.optim.composition import check_composition, check_rates_by_layer, is_multiplicative
from ftsgd_plugin.utils.errors import UserError

STEPS = 12
# class, arguments, whether it multiplies
SCHEDULERS = [
    ('ConstantLR', dict(factor=0.3, end=5), True),
    ('LinearLR', dict(start_factor=0.1, end=5), True),
    ('ExponentialLR', dict(gamma=0.9), True),
    ('StepLR', dict(step_size=4), True),
    ('MultiStepLR', dict(milestones=[3, 7]), True),
    ('CosineAnnealingLR', dict(T_max=STEPS, end=STEPS), True),
    ('CosineAnnealingLR', dict(T_max=STEPS, eta_min=0.01), False),
    ('CosineAnnealingLR', dict(T_max=STEPS, eta_min_ratio=0.1), False),
    ('CosineAnnealingLR', dict(T_max=5, begin=0, end=STEPS), False),  # rises again after T_max
    ('PolyLR', dict(power=2, end=STEPS), True),
    ('PolyLR', dict(power=2, eta_min=0.01, end=STEPS), False),
    ('OneCycleLR', dict(eta_max=0.5, total_steps=STEPS), False),
    ('CosineRestartLR', dict(periods=[6, 6], restart_weights=[1, 0.5], eta_min=0), False),
]
IDS = [f'{name} {arguments}' for name, arguments, _ in SCHEDULERS]


def optimizer() -> torch.optim.SGD:
    """Two groups of other rates, as the constructor makes them."""
    groups = [
        {'params': [nn.Parameter(torch.ones(1))], 'lr': 0.1, 'role': 'block', 'block': 0},
        {'params': [nn.Parameter(torch.ones(1))], 'lr': 0.04, 'role': 'head', 'block': None},
    ]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def rates(*makers) -> list[list[float]]:
    """The learning rates of every step under schedulers that are stepped in turn."""
    sgd = optimizer()
    schedulers, seen = [make(sgd) for make in makers], []
    for _ in range(STEPS):
        seen.append([group['lr'] for group in sgd.param_groups])
        sgd.step()
        for scheduler in schedulers:
            scheduler.step()
    return seen


def maker(name: str, arguments: dict):
    return lambda sgd: getattr(lr_scheduler, name)(sgd, by_epoch=False, **arguments)


def unfreezing(sgd) -> GradualUnfreezingLR:
    return GradualUnfreezingLR(sgd, end=STEPS, by_epoch=False)


@pytest.mark.parametrize('name, arguments, multiplies', SCHEDULERS, ids=IDS)
def test_the_verdict_is_what_running_both_shows(name, arguments, multiplies):
    alone, ours, both = rates(maker(name, arguments)), rates(unfreezing), rates(maker(name, arguments), unfreezing)
    base = [group['lr'] for group in optimizer().param_groups]
    products = [[a * o / b for a, o, b in zip(*step, base)] for step in zip(alone, ours)]
    composes = all(x == pytest.approx(y, rel=1e-9, abs=1e-15) for x, y in zip(both, products))
    assert composes == multiplies
    scheduler = maker(name, arguments)(optimizer())
    assert is_multiplicative(scheduler) == multiplies


@pytest.mark.parametrize('name, arguments, multiplies', SCHEDULERS, ids=IDS)
def test_the_question_leaves_scheduler_and_optimizer_alone(name, arguments, multiplies):
    sgd = optimizer()
    scheduler = maker(name, arguments)(sgd)
    before = scheduler.state_dict(), [dict(group, params=None) for group in sgd.param_groups]
    is_multiplicative(scheduler)
    assert (scheduler.state_dict(), [dict(group, params=None) for group in sgd.param_groups]) == before


def test_long_schedules_are_asked_around_their_own_steps():
    rising = lr_scheduler.CosineAnnealingLR(optimizer(), T_max=40_001, by_epoch=False, end=90_000)
    assert not is_multiplicative(rising)
    assert is_multiplicative(lr_scheduler.CosineAnnealingLR(optimizer(), T_max=90_000, by_epoch=False, end=90_000))


def test_only_beside_gradual_unfreezing():
    sgd = optimizer()
    cycle = lr_scheduler.OneCycleLR(sgd, eta_max=0.5, total_steps=STEPS, by_epoch=False)
    plateau = lr_scheduler.ReduceOnPlateauLR(sgd)
    check_composition([cycle, plateau])
    check_composition([unfreezing(sgd), plateau])
    with pytest.raises(UserError, match='OneCycleLR sets the learning rate instead of multiplying it'):
        check_composition([cycle, unfreezing(sgd)])
    with pytest.raises(UserError, match='GradualUnfreezingLR and GradualUnfreezingLR would each close'):
        check_composition([unfreezing(sgd), unfreezing(sgd)])


@pytest.mark.parametrize(
    'key, value', [('lr_mult', {'block': 0.4}), ('lr_mult', 'gradient'), ('layer_decay_rate', 0.5)]
)
def test_a_schedule_of_one_rate_for_all_layers_is_refused_beside_rates_by_layer(key, value):
    sgd = optimizer()
    cycle = lr_scheduler.OneCycleLR(sgd, eta_max=0.5, total_steps=STEPS, by_epoch=False)
    assert len({group['lr'] for group in sgd.param_groups}) == 1  # the rates of the groups are lost
    with pytest.raises(UserError, match=rf'OneCycleLR sets the rate of all layers .*paramwise_cfg\.{key} would not'):
        check_rates_by_layer({'freeze': 'none', key: value}, [cycle])
    check_rates_by_layer({'freeze': 'none'}, [cycle])
    by_group = lr_scheduler.OneCycleLR(optimizer(), eta_max=[0.5, 0.2], total_steps=STEPS, by_epoch=False)
    check_rates_by_layer({key: value}, [by_group, lr_scheduler.ConstantLR(optimizer(), 0.5)])
