"""The settings that a checkpoint was trained with, beside those of the run that is to resume from it.

Resuming restores the optimizer's groups and the schedulers as they were saved, whatever the config says. Here both are
compared by name, so that a run never trains with other settings than its config and its record say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.optim import Optimizer

SETTINGS = 'ftsgd_settings'  # key of a checkpoint's meta; version 0.1.0 wrote none
_MISSING = object()
# Options of torch.optim that came with later versions: an earlier checkpoint need not have them.
_LATER_OPTIONS = {'capturable', 'decoupled_weight_decay', 'differentiable', 'foreach', 'fused', 'maximize'}
_LABELS = {'name', 'role', 'block'}  # of a group: which layer it holds
# Attributes of a scheduler that say where it is, not how it is set; so do all whose name begins with an underscore.
_POSITION = {'base_values', 'best', 'cooldown_counter', 'last_step', 'num_bad_epochs', 'verbose'}
SCALER_OPTIONS = ('backoff_factor', 'growth_factor', 'growth_interval')


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


def describe_settings(model: nn.Module, optim_wrapper: OptimWrapper, schedulers: Sequence | Mapping | None) -> dict:
    """What a checkpoint must say beside the states of its optimizers and schedulers to be compared by name.

    Args:
        model: The model, not wrapped.
        optim_wrapper: The run's optimizer wrapper.
        schedulers: The run's parameter schedulers as MMEngine keeps them.

    Returns:
        dict: Plain containers: ``optimizers`` (name -> ``type`` and, by group, ``parameters``; the name of a single
        optimizer is empty) and ``schedulers`` (name -> their types).
    """
    names = {id(param): name for name, param in model.named_parameters()}
    return {
        'optimizers': {
            key: {
                'type': type(wrapper.optimizer).__name__,
                'parameters': [
                    [names.get(id(param), '') for param in group['params']] for group in wrapper.optimizer.param_groups
                ],
            }
            for key, wrapper in by_name(optim_wrapper).items()
        },
        'schedulers': {key: list(map(_type_name, own)) for key, own in by_key(schedulers).items()},
    }


def foreign_state(
    checkpoint: dict, model: nn.Module, optim_wrapper: OptimWrapper, schedulers: Sequence | Mapping | None
) -> str | None:
    """Find what makes a checkpoint's training state that of another training, which no option can bridge.

    Args:
        checkpoint: Content of the file.
        model: The run's model, not wrapped.
        optim_wrapper: The run's optimizer wrapper.
        schedulers: The run's parameter schedulers.

    Returns:
        str | None: The reason, to follow "it" in a sentence; ``None`` if optimizers, parameters of every group and
        kinds of schedulers agree.
    """
    absent = [key for key in ('meta', 'message_hub', 'optimizer') if key not in checkpoint]
    if absent or not {'epoch', 'iter'} <= checkpoint['meta'].keys():
        return f'holds weights but no training state ({", ".join(absent) or "meta.epoch"})'
    saved, ours = saved_optimizers(checkpoint), by_name(optim_wrapper)
    if saved.keys() != ours.keys():
        return f'was written by {_counted(saved)}, this config has {_counted(ours)}'
    described = checkpoint['meta'].get(SETTINGS, {})
    own = describe_settings(model, optim_wrapper, schedulers)
    for key in ours:
        before = described.get('optimizers', {}).get(key)
        reason = _other_optimizer(saved[key], before, ours[key].optimizer)
        reason = reason or _other_parameters(saved[key], before, own['optimizers'][key], ours[key].optimizer)
        if reason:
            return reason
    for key, states in _saved_schedulers(checkpoint).items():
        reason = _other_schedulers(states, described.get('schedulers', {}).get(key), by_key(schedulers).get(key, []))
        if reason:
            return reason
    return None


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
    for key, states in _saved_schedulers(checkpoint).items():
        for i, (state, scheduler) in enumerate(zip(states, by_key(schedulers).get(key, []))):
            if by_epoch_only and not scheduler.by_epoch:
                continue
            place = f'param_scheduler{f".{key}" if key else ""}[{i}] ({_type_name(scheduler)})'
            schedule += _scheduler_options(place, state, scheduler)
    return found + _with_lengths(schedule, checkpoint, lengths)


def by_name(optim_wrapper: OptimWrapper) -> dict[str, OptimWrapper]:
    """The wrappers of single optimizers; one alone has an empty name."""
    wrappers = getattr(optim_wrapper, 'optim_wrappers', {'': optim_wrapper})
    return {key: wrapper for key, wrapper in wrappers.items() if hasattr(wrapper, 'optimizer')}


def by_key(schedulers: Sequence | Mapping | None) -> dict[str, Sequence]:
    """The schedulers of every optimizer."""
    if isinstance(schedulers, Mapping):
        return dict(schedulers)
    return {'': [scheduler for scheduler in schedulers or [] if hasattr(scheduler, 'last_step')]}


def saved_optimizers(checkpoint: dict) -> dict[str, dict]:
    """The states of every optimizer, as in the checkpoint, not copied."""
    saved = checkpoint['optimizer']
    return {'': saved} if 'param_groups' in saved else saved


def _saved_schedulers(checkpoint: dict) -> dict[str, Sequence[dict]]:
    saved = checkpoint.get('param_schedulers', [])
    return {'': saved} if isinstance(saved, list) else saved


def _counted(optimizers: Mapping) -> str:
    return f'the optimizers {", ".join(optimizers)}' if optimizers.keys() != {''} else 'one optimizer'


def _other_optimizer(saved: dict, described: dict | None, ours: Optimizer) -> str | None:
    kind = type(ours).__name__
    if described is not None:
        other = described['type']
        return f'was written by another optimizer than {kind} ({other})' if other != kind else None
    before, now = ({*group} - _LATER_OPTIONS for group in (saved['param_groups'][0], ours.param_groups[0]))
    scheduled = {option for option in before | now if option.startswith('initial_')} | _LABELS | {'param_names'}
    absent, foreign = sorted(now - before - scheduled), sorted(before - now - scheduled)
    if absent or foreign:
        what = f'has no {", ".join(absent)}' if absent else f'has {", ".join(foreign)}'
        return f'was written by another optimizer than {kind} (it {what})'
    return None


def _other_parameters(saved: dict, described: dict | None, own: dict, ours: Optimizer) -> str | None:
    """Whether the groups hold other parameters; without the checkpoint's names, whether what it has differs."""
    remedy = 'another freeze or other paramwise options'
    before, now = saved['param_groups'], ours.param_groups
    labels = [[_label(group, i) for i, group in enumerate(groups)] for groups in (before, now)]
    sizes = [[len(group['params']) for group in groups] for groups in (before, now)]
    if described is not None:
        names = [described['parameters'], own['parameters']]
        if names[0] == names[1]:
            return None
        sets = [{name for group in side for name in group} for side in names]
        only = [
            _layers(side, groups, sets[1 - i]) for i, (side, groups) in enumerate(zip(names, labels))
        ]  # fmt: skip
        if sets[0] != sets[1]:
            return (
                f'trained {only[0] or "nothing"} which this config does not, and did not train '
                f'{only[1] or "anything"} which this config does: {sum(sizes[0])} tensors in {len(sizes[0])} groups, '
                f'here {sum(sizes[1])} in {len(sizes[1])} groups ({remedy})'
            )
    elif sizes[0] == sizes[1] and labels[0] == labels[1]:
        return _other_shapes(saved, ours, labels[1])
    if sizes[0] != sizes[1]:
        return (
            f'trained {sum(sizes[0])} tensors in {len(sizes[0])} groups, this config trains {sum(sizes[1])} in '
            f'{len(sizes[1])} groups ({remedy})'
        )
    i = next((i for i, (a, b) in enumerate(zip(*labels)) if a != b), 0)
    if described is not None:
        i = next(i for i, (a, b) in enumerate(zip(*names)) if a != b)
    return (
        f'has {labels[0][i]} in the optimizer\'s group {i + 1}, this config has {labels[1][i]} there, or its '
        f'parameters in another order ({remedy})'
    )  # fmt: skip


def _other_shapes(saved: dict, ours: Optimizer, labels: Sequence[str]) -> str | None:
    """Whether the saved state cannot belong to the parameters at its places."""
    for before, now, label in zip(saved['param_groups'], ours.param_groups, labels):
        for index, param in zip(before['params'], now['params']):
            for value in saved['state'].get(index, {}).values():
                if isinstance(value, torch.Tensor) and value.ndim and value.shape != param.shape:
                    return (
                        f'has optimizer state of shape {tuple(value.shape)} where this config has a parameter of shape '
                        f'{tuple(param.shape)}, in {label} (another freeze or other paramwise options)'
                    )
    return None


def _label(group: dict, index: int) -> str:
    return str(group.get('name', f'group {index + 1}'))


def _layers(groups: Sequence[Sequence[str]], labels: Sequence[str], others: set[str]) -> str:
    """The layers with parameters that the other side does not have, shortened."""
    found = list(dict.fromkeys(label for group, label in zip(groups, labels) if set(group) - others))
    return ', '.join(found[:4]) + (f' and {len(found) - 4} more' if len(found) > 4 else '')


def _other_schedulers(states: Sequence[dict], types: Sequence[str] | None, ours: Sequence) -> str | None:
    own = list(map(_type_name, ours))
    if len(states) != len(ours):
        kinds = ', '.join(types) if types else f'{len(states)} schedulers'
        return (
            f'has the state of {len(states)} parameter schedulers, this config has {len(ours)} '
            f'({kinds if states else "none"} there, {", ".join(own) or "none"} here)'
        )
    if types is not None and len(types) == len(states) and list(types) != own:
        return f'followed the schedule {", ".join(types)}, this config has {", ".join(own)}'
    for state, scheduler in zip(states, ours):
        before, now = ({*_public(attributes)} for attributes in (state, scheduler.state_dict()))
        if before != now:
            return (
                f'followed a schedule of another kind than {_type_name(scheduler)} '
                f'(with {", ".join(sorted(before - now)) or "no " + ", ".join(sorted(now - before))})'
            )
    return None


def _options(path: str, saved: Sequence[dict], ours: Sequence[dict]) -> list[Difference]:
    """Differences of the optimizer's groups; one that all groups share is named once."""
    found: dict[str, list[tuple[str, Any, Any]]] = {}
    for i, (before, now) in enumerate(zip(saved, ours)):
        for option in sorted((before.keys() | now.keys()) - {'params', 'param_names'}):
            if option.startswith('initial_'):
                continue
            values = [_unscheduled(group, option) for group in (before, now)]
            if option in _LATER_OPTIONS and _MISSING in values:
                continue
            if not _equal(*values):
                found.setdefault(option, []).append((_label(now, i), *values))
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
    before, now = _public(state), _public(scheduler.state_dict())
    return [
        Difference(f'{place}.{option}', before[option], now[option])
        for option in now
        if option in before and not _equal(before[option], now[option])
    ]


def _public(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key not in _POSITION and not key.startswith('_')}


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


def _type_name(value: Any) -> str:
    return type(value).__name__


def summarise_differences(found: Iterable[Difference]) -> str:
    """The first three differences and the number of the others, for a message."""
    texts = list(map(str, found))
    return '; '.join(texts[:3]) + (f'; and {len(texts) - 3} more' if len(texts) > 3 else '')
