"""Find a metric that selects, stops or slows a run and is never reported, is of OOD data, or is read the wrong way."""

import copy
import itertools
from collections.abc import Iterator, Sequence

import torch
from mmengine.evaluator import BaseMetric, DumpResults
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.optim.scheduler import ReduceOnPlateauParamScheduler
from mmengine.runner import BaseLoop, Runner
from mmpretrain.structures import DataSample

from ..evaluation.checks import leaves
from ..evaluation.group_accuracy import GroupAccuracy
from ..layers import unwrap
from ..utils.errors import UserError
from ..utils.metrics import ACCURACY, ID_METRIC, METRIC_NAMES, OF_TWO_CLASSES, OOD_METRIC, WORST_GROUP, better_rule
from ..utils.names import did_you_mean

_BETTER = {'greater': 'greater', 'less': 'smaller'}


def check_watched_metrics(runner: Runner, loop: BaseLoop) -> None:
    """Find a ``save_best``, an early stop or a plateau schedule by a metric that it cannot be by.

    Args:
        runner: The runner, with its hooks and schedulers.
        loop: Its validation loop.

    Raises:
        UserError: The metric is never reported (those that are reported are named), is not defined on the ID data, is
            of OOD data, or the rule takes the worst value for the best.
    """
    watched = list(_watched(runner))
    if not watched:
        return
    for option, key, rule in watched:
        if rule is not None and better_rule(key) not in (None, rule):
            raise UserError(
                f'{option}={key!r} with rule={rule!r}: of this metric the {_BETTER[rule]} value is worse; set '
                f'rule={better_rule(key)!r} there.'
            )
    metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', None)
    if metrics is None:  # a loop of another kind
        return
    grouped = [metric for metric in metrics if isinstance(metric, GroupAccuracy)]
    for (option, key, _), metric in itertools.product(watched, grouped):
        _refuse_ood(option, key, metric)
        _refuse_undefined(option, key, metric, leaves(loop.dataloader.dataset))
    reported = [_reported_keys(metric, loop) for metric in metrics]
    if None in reported:
        return
    known = set().union(*reported)
    for option, key, _ in watched:
        if key not in known:
            raise UserError(
                f'{option}={key!r}: the validation reports no such metric; set it to one of val_evaluator: '
                f'{did_you_mean(key, known)}'
            )


def _watched(runner: Runner) -> Iterator[tuple[str, str, str | None]]:
    """``(option, metric key, rule)`` of whatever reads a metric after a validation."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best is not None:
            for key, rule in zip(hook.key_indicators, hook.rules):
                if key != 'auto':
                    yield 'default_hooks.checkpoint.save_best', key, rule
        elif isinstance(hook, EarlyStoppingHook):
            yield 'custom_hooks: EarlyStoppingHook.monitor', hook.monitor, hook.rule
    schedulers = runner.param_schedulers or []
    for scheduler in schedulers if isinstance(schedulers, list) else ():
        if isinstance(scheduler, ReduceOnPlateauParamScheduler):
            yield f'param_scheduler: {type(scheduler).__name__}.monitor', scheduler.monitor, scheduler.rule
        for i, ending in enumerate(getattr(scheduler, 'endings', ()), start=1):
            if ending.watches:
                yield f'param_scheduler: schedule: phase {i}: metric', ending.metric, ending.rule


def _refuse_ood(option: str, key: str, metric: GroupAccuracy) -> None:
    """Whatever selects, stops or slows a run sees ID data only; of a split that is ID and OOD, the ID number."""
    kind, _, rest = key.partition('/')
    of_split = kind == 'split' and rest.split('/')[0] == metric.ood['split'] != metric.id['split']
    if of_split or kind in ('ood', 'group', *metric.by):
        name = key.rpartition('/')[2]
        instead = f'id/{name if name in METRIC_NAMES else ACCURACY}'
        raise UserError(
            f'{option}={key!r} is of the OOD data, which must not select; use {instead!r} (OOD numbers are reported '
            'all the same).'
        )


def _refuse_undefined(option: str, key: str, metric: GroupAccuracy, datasets: Sequence) -> None:
    """A metric of two classes needs both in the ID data; the records are read until both have been seen."""
    name = key.removeprefix('id/')
    if name not in OF_TWO_CLASSES or name not in metric.items:
        return
    seen: set[int] = set()
    for dataset in datasets:
        if not hasattr(dataset, 'get_data_info') or getattr(dataset, 'split', None) != metric.id['split']:
            continue
        for i in range(len(dataset)):
            record = dataset.get_data_info(i)
            if 'gt_label' not in record:
                return
            if record.get('group') in metric.id.get('groups', [record.get('group')]):
                seen.add(int(record['gt_label']))
            if len(seen) > 1:
                return
    if len(seen) == 1:
        raise UserError(
            f'{option}={key!r}: the ID data (id={metric.id!r}) has samples of one class only, for which {name} is not '
            "defined; use 'id/accuracy' or another split."
        )


def _reported_keys(metric: BaseMetric, loop: BaseLoop) -> set[str] | None:
    """The keys of a metric, from its answer to two made-up samples; ``None`` if it does not take them."""
    if isinstance(metric, DumpResults):
        return set()
    if isinstance(metric, GroupAccuracy):
        return _grouped_keys(metric, leaves(loop.dataloader.dataset))
    classes = getattr(getattr(unwrap(loop.runner.model), 'head', None), 'num_classes', None) or 2
    samples = []
    for label in (0, classes - 1):
        score = torch.zeros(classes)
        score[label] = 1.0
        sample = DataSample().set_gt_label(label).set_pred_label(label).set_pred_score(score)
        samples.append(sample.to_dict())
    try:
        twin = copy.deepcopy(metric)
        twin.results = []
        twin.process(None, samples)
        found = twin.compute_metrics(twin.results)
    except Exception:  # a metric of another task
        return None
    prefix = f'{metric.prefix}/' if metric.prefix else ''
    return {f'{prefix}{key}' for key in found}


def _grouped_keys(metric: GroupAccuracy, datasets: Sequence) -> set[str] | None:
    """The keys of ``GroupAccuracy`` but those of groups: they are OOD, so that none of them is watched."""
    splits = {getattr(dataset, 'split', None) for dataset in datasets}
    if None in splits:
        return None
    keys = {ID_METRIC, OOD_METRIC, WORST_GROUP, *(f'ood/worst_{field}' for field in metric.by)}
    keys |= {f'split/{split}' for split in splits}
    keys |= {
        f'{part}/{name}' for part in ('id', 'ood', *(f'split/{split}' for split in splits)) for name in metric.items
    }
    return keys
