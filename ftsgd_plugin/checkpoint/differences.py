"""The hyperparameters and schedules that a checkpoint and the config of a run give different values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.optim import OptimWrapper

from .settings import (
    COUNTERS,
    LATER_OPTIONS,
    by_key,
    by_name,
    group_label,
    public_options,
    saved_optimizers,
    saved_schedulers,
    type_name_of,
)

SCALER_OPTIONS = ('backoff_factor', 'growth_factor', 'growth_interval')
_MISSING = object()


@dataclass(frozen=True)
class Difference:
    """A setting that a checkpoint and a config give different values.

    Attributes:
        setting: Its path in the config, e.g. ``'optim_wrapper.optimizer.momentum'``.
        saved: The checkpoint's value.
        ours: The config's value.
    """

    setting: str
    saved: Any
    ours: Any

    def __str__(self) -> str:
        return f'{self.setting} is {_shown(self.saved)} in the checkpoint and {_shown(self.ours)} in this config'


def differences(
    checkpoint: dict,
    optim_wrapper: OptimWrapper,
    schedulers: Sequence | Mapping | None,
    lengths: Mapping[str, int | None],
    by_epoch_only: bool = False,
) -> list[Difference]:
    """Compare the hyperparameters of optimizers and schedulers, group by group.

    Args:
        checkpoint: Content of the file, without a :func:`foreign_state`.
        optim_wrapper: The run's optimizer wrapper, before the state is loaded.
        schedulers: The run's parameter schedulers, before their states are loaded.
        lengths: The run's ``max_epochs`` and ``max_iters``. A length counts if a schedule follows it.
        by_epoch_only: Leave out the schedulers that count iterations.

    Returns:
        list[Difference]: Empty if the run would continue as the checkpoint was trained.
    """
    found = []
    for key, saved in saved_optimizers(checkpoint).items():
        path = f'optim_wrapper.{key}.' if key else 'optim_wrapper.'
        wrapper = by_name(optim_wrapper)[key]
        found += _options(path, saved['param_groups'], wrapper.optimizer.param_groups)
        scaler = getattr(wrapper, 'loss_scaler', None)
        before, now = saved.get('loss_scaler') or {}, scaler.state_dict() if scaler is not None else {}
        found += [
            Difference(f'{path}loss_scale.{option}', before[option], now[option])
            for option in SCALER_OPTIONS
            if option in before and option in now and before[option] != now[option]
        ]
    schedule = []
    for key, states in saved_schedulers(checkpoint).items():
        for i, (state, scheduler) in enumerate(zip(states, by_key(schedulers).get(key, []))):
            if by_epoch_only and not scheduler.by_epoch:
                continue
            place = f'param_scheduler{f".{key}" if key else ""}[{i}] ({type_name_of(scheduler)})'
            schedule += _scheduler_options(place, state, scheduler)
    return found + _with_lengths(schedule, checkpoint, lengths)


def summarise_differences(found: Iterable[Difference]) -> str:
    """The first three differences and the number of the others, for a message."""
    texts = list(map(str, found))
    return '; '.join(texts[:3]) + (f'; and {len(texts) - 3} more' if len(texts) > 3 else '')


def _options(path: str, saved: Sequence[dict], ours: Sequence[dict]) -> list[Difference]:
    """Differences of the optimizer's groups; one that all groups share is named once."""
    found: dict[str, list[tuple[str, Any, Any]]] = {}
    for i, (before, now) in enumerate(zip(saved, ours)):
        for option in sorted((before.keys() | now.keys()) - {'params', 'param_names'} - COUNTERS):
            if option.startswith('initial_'):
                continue
            values = [_unscheduled(group, option) for group in (before, now)]
            if option in LATER_OPTIONS and _MISSING in values:
                continue
            if not _equal(*values):
                found.setdefault(option, []).append((group_label(now, i), *values))
    differing = []
    for option, cases in found.items():
        setting = f'{path}optimizer.{option}'
        shared = all(_equal(case[1:], cases[0][1:]) for case in cases)
        if not (shared and len(cases) == len(ours)):
            setting += f' of {cases[0][0]}' + (f' (and of {len(cases) - 1} more groups)' if len(cases) > 1 else '')
        differing.append(Difference(setting, *cases[0][1:]))
    return differing


def _unscheduled(group: dict, option: str) -> Any:
    """The value that the config gave a group: schedulers store it before they change the option."""
    return group.get(f'initial_{option}', group.get(option, _MISSING))


def _scheduler_options(place: str, state: dict, scheduler) -> list[Difference]:
    before, now = public_options(state, scheduler), public_options(scheduler.state_dict(), scheduler)
    return [
        found
        for option in now
        if option in before
        for found in _nested(f'{place}.{option}', before[option], now[option])
    ]


def _nested(place: str, before: Any, now: Any) -> list[Difference]:
    """Where two values differ, inside dicts and lists of the same length: a schedule may be a whole document."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*now, *(key for key in before if key not in now)]
        items = [(f'{place}.{key}', before.get(key, _MISSING), now.get(key, _MISSING)) for key in keys]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        items = [(f'{place}.{i}', *pair) for i, pair in enumerate(zip(before, now))]
    else:
        return [] if _equal(before, now) else [Difference(place, before, now)]
    return [found for item in items for found in _nested(*item)]


def _with_lengths(schedule: list[Difference], checkpoint: dict, lengths: Mapping[str, int | None]) -> list[Difference]:
    """Name the run's length in place of the schedulers' options that follow it."""
    info = checkpoint['message_hub'].get('runtime_info', {})
    changed = {
        key: (info[key], value)
        for key, value in lengths.items()
        if value is not None and info.get(key) is not None and info[key] != value
    }
    named: list[Difference] = []
    for key, pair in changed.items():
        following = [found for found in schedule if (found.saved, found.ours) == pair]
        if following:
            schedule = [found for found in schedule if found not in following]
            named.append(Difference(f'train_cfg.{key}', *pair))
    return named[:1] + schedule


def _equal(one: Any, other: Any) -> bool:
    """Equality of plain values; tensors of one element are numbers, tuples are lists."""
    one, other = (value.tolist() if isinstance(value, torch.Tensor) else value for value in (one, other))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _shown(value: Any) -> str:
    if value is _MISSING:
        return 'not set'
    if isinstance(value, float):
        return f'{value:.10g}'
    text = repr(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 60 else f'{text[:57]}...'
