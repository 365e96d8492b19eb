"""Which schedulers may stand beside gradual unfreezing, and which keep learning rates by layer."""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace

from mmengine.optim.scheduler.param_scheduler import INF, OneCycleParamScheduler, _ParamScheduler

from ..utils.errors import UserError
from .gradual_unfreezing import GradualUnfreezingLR

_MOST_STEPS = 2048  # of a longer schedule so many are tried, spread evenly, and all around its own step numbers


def is_multiplicative(scheduler: _ParamScheduler) -> bool:
    """Whether a scheduler multiplies the learning rate at every step, whatever the rate is.

    It is asked for its next value at rates r and 2r: a product doubles, an absolute rate (``OneCycleLR``,
    ``CosineRestartLR``, an ``eta_min`` above zero, ``CosineAnnealingLR`` past ``T_max``) does not. The scheduler and
    its optimizer stay as they are.

    Args:
        scheduler: A scheduler of the learning rate.
    """
    twin = object.__new__(type(scheduler))
    vars(twin).update(vars(scheduler))
    groups = [dict(group) for group in scheduler.optimizer.param_groups]
    twin.optimizer = SimpleNamespace(param_groups=groups)
    rates = [float(group.get('initial_lr', group['lr'])) for group in groups]
    for step in _steps(scheduler):
        twin.last_step = step
        values = []
        for multiple in (1, 2):
            for group, rate in zip(groups, rates):
                group['lr'] = multiple * rate
            values.append([float(value) for value in twin._get_value()])
        if any(abs(two - 2 * one) > 1e-9 * rate for one, two, rate in zip(*values, rates)):
            return False
    return True


def _steps(scheduler: _ParamScheduler) -> list[int]:
    last = min(scheduler.end, INF) - scheduler.begin - 1  # of its own steps, from 0
    if last <= _MOST_STEPS:
        return list(range(last + 1))
    marks = {value for value in vars(scheduler).values() if isinstance(value, int) and 0 <= value <= last}
    around = {mark + shift for mark in marks for shift in range(-2, 3)}
    even = {round(i * last / _MOST_STEPS) for i in range(_MOST_STEPS + 1)}
    return sorted(step for step in around | even if 0 <= step <= last)


def check_composition(schedulers: Iterable[_ParamScheduler]) -> None:
    """Refuse a scheduler beside gradual unfreezing that sets the learning rate instead of multiplying it.

    Args:
        schedulers: All schedulers of one optimizer.

    Raises:
        UserError: There is one: it would undo the factor of gradual unfreezing, or be scaled by it. Or several open
            layers: each would close at every step what another has opened.
    """
    schedulers = [one for one in schedulers if isinstance(one, _ParamScheduler) and one.param_name == 'lr']
    opening = [type(one).__name__ for one in schedulers if isinstance(one, GradualUnfreezingLR)]
    if not opening:
        return
    if len(opening) > 1:
        raise UserError(
            f'param_scheduler: {" and ".join(opening)} would each close what the other opens; keep one, with a '
            'schedule in phases (docs/schedules.md).'
        )
    for one in schedulers:
        if not isinstance(one, GradualUnfreezingLR) and not is_multiplicative(one):
            raise UserError(
                f'param_scheduler: {type(one).__name__} sets the learning rate instead of multiplying it, so it cannot '
                'stand beside GradualUnfreezingLR; use LinearLR, ConstantLR, StepLR, MultiStepLR, ExponentialLR, or '
                'CosineAnnealingLR and PolyLR with eta_min=0 up to their end.'
            )


def check_rates_by_layer(paramwise_cfg: Mapping | None, schedulers: Iterable[_ParamScheduler]) -> None:
    """Refuse a scheduler that gives all groups one rate where layers have rates of their own.

    Args:
        paramwise_cfg: Of the optimizer wrapper.
        schedulers: All schedulers of its optimizer.

    Raises:
        UserError: It has ``lr_mult`` or ``layer_decay_rate``, and a ``OneCycleLR`` a single ``eta_max``.
    """
    keys = [key for key in ('lr_mult', 'layer_decay_rate') if (paramwise_cfg or {}).get(key) is not None]
    for one in schedulers if keys else ():
        if isinstance(one, OneCycleParamScheduler) and not isinstance(one.eta_max, list | tuple):
            raise UserError(
                f'param_scheduler: {type(one).__name__} sets the rate of all layers to one eta_max, so that '
                f'optim_wrapper.paramwise_cfg.{keys[0]} would not count; use LinearLR and then CosineAnnealingLR.'
            )
