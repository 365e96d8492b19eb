"""Whether a checkpoint's training state belongs to the optimizers, parameters and schedulers of a run.

Resuming restores the optimizer's groups and the schedulers as they were saved, whatever the config says. Here and in
``differences.py`` both are compared by name, so that a run never trains with other settings than its config and its
record say.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.optim import Optimizer

SETTINGS = 'ftsgd_settings'  # key of a checkpoint's meta; version 0.1.0 wrote none
# Options of torch.optim that came with later versions: an earlier checkpoint need not have them.
LATER_OPTIONS = {'capturable', 'decoupled_weight_decay', 'differentiable', 'foreach', 'fused', 'maximize'}
# What an optimizer counts in its groups (schedulefree): where it is, not how it is set.
COUNTERS = {'k', 'lr_max', 'scheduled_lr', 'train_mode', 'weight_sum'}
_LABELS = {'name', 'role', 'block'}  # of a group: which layer it holds
# Attributes of a scheduler that say where it is, not how it is set; so do all whose name begins with an underscore.
_POSITION = {'base_values', 'best', 'cooldown_counter', 'last_step', 'num_bad_epochs', 'verbose'}


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
        'schedulers': {key: list(map(type_name_of, own)) for key, own in by_key(schedulers).items()},
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
    for key, states in saved_schedulers(checkpoint).items():
        reason = _other_schedulers(states, described.get('schedulers', {}).get(key), by_key(schedulers).get(key, []))
        if reason:
            return reason
    return None


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


def saved_schedulers(checkpoint: dict) -> dict[str, Sequence[dict]]:
    saved = checkpoint.get('param_schedulers', [])
    return {'': saved} if isinstance(saved, list) else saved


def _counted(optimizers: Mapping) -> str:
    return f'the optimizers {", ".join(optimizers)}' if optimizers.keys() != {''} else 'one optimizer'


def _other_optimizer(saved: dict, described: dict | None, ours: Optimizer) -> str | None:
    kind = type(ours).__name__
    if described is not None:
        other = described['type']
        return f'was written by another optimizer than {kind} ({other})' if other != kind else None
    before, now = ({*group} - LATER_OPTIONS for group in (saved['param_groups'][0], ours.param_groups[0]))
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
    labels = [[group_label(group, i) for i, group in enumerate(groups)] for groups in (before, now)]
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


def group_label(group: dict, index: int) -> str:
    return str(group.get('name', f'group {index + 1}'))


def _layers(groups: Sequence[Sequence[str]], labels: Sequence[str], others: set[str]) -> str:
    """The layers with parameters that the other side does not have, shortened."""
    found = list(dict.fromkeys(label for group, label in zip(groups, labels) if set(group) - others))
    return ', '.join(found[:4]) + (f' and {len(found) - 4} more' if len(found) > 4 else '')


def _other_schedulers(states: Sequence[dict], types: Sequence[str] | None, ours: Sequence) -> str | None:
    own = list(map(type_name_of, ours))
    if len(states) != len(ours):
        kinds = ', '.join(types) if types else f'{len(states)} schedulers'
        return (
            f'has the state of {len(states)} parameter schedulers, this config has {len(ours)} '
            f'({kinds if states else "none"} there, {", ".join(own) or "none"} here)'
        )
    if types is not None and len(types) == len(states) and list(types) != own:
        return f'followed the schedule {", ".join(types)}, this config has {", ".join(own)}'
    for state, scheduler in zip(states, ours):
        before, now = ({*public_options(attributes, scheduler)} for attributes in (state, scheduler.state_dict()))
        if before != now:
            return (
                f'followed a schedule of another kind than {type_name_of(scheduler)} '
                f'(with {", ".join(sorted(before - now)) or "no " + ", ".join(sorted(now - before))})'
            )
    return None


def public_options(attributes: Mapping[str, Any], scheduler: Any) -> dict[str, Any]:
    """Of a scheduler's state, what the config has set; an option that came later is the scheduler's default."""
    given = {key: value for key, value in attributes.items() if key not in _POSITION and not key.startswith('_')}
    return {**getattr(scheduler, 'later_options', {}), **given}


def type_name_of(value: Any) -> str:
    return type(value).__name__
