"""Find a mistake in the evaluators of a run before its first step: absent splits, metrics that do not fit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.runner import BaseLoop

from ..utils.errors import UserError
from ..utils.metrics import OF_TWO_CLASSES
from ..utils.names import type_name
from .group_accuracy import GroupAccuracy, further_metrics, subset_of


def check_evaluated_splits(loop: BaseLoop, name: str) -> None:
    """Find a misspelt split of ``GroupAccuracy`` before the first epoch instead of after it.

    ``RunRecordHook`` calls it.

    Args:
        loop: A validation or test loop. It is not checked if one of its datasets has no ``split``.
        name: ``'val'`` or ``'test'``, for the message.

    Raises:
        UserError: The ID or OOD split is not among those that the loop reads.
    """
    splits = [getattr(dataset, 'split', None) for dataset in leaves(loop.dataloader.dataset)]
    if None in splits:
        return
    for metric in loop.evaluator.metrics:
        if isinstance(metric, GroupAccuracy):
            _check_splits(metric.id, metric.ood, splits, name)


def check_configured_splits(cfg: Mapping, name: str) -> None:
    """:func:`check_evaluated_splits` on a config, before anything is built from it.

    Args:
        cfg: Config of a run.
        name: ``'val'`` or ``'test'``.

    Raises:
        UserError: The ID or OOD split is not among those of the data loader.
    """
    loader = cfg.get(f'{name}_dataloader')
    if not isinstance(loader, Mapping) or not isinstance(loader.get('dataset'), Mapping):
        return
    splits = [dataset.get('split') for dataset in leaves(loader['dataset'], Mapping.get)]
    if None in splits:
        return
    for evaluator in _configured(cfg, name):
        _check_splits(*(subset_of(option, evaluator.get(option)) for option in ('id', 'ood')), splits, name)


def check_configured_metrics(cfg: Mapping, name: str) -> None:
    """Find a metric that does not exist or does not fit the number of classes of the model.

    Further metrics of ``GroupAccuracy``, and ``topk`` of MMPretrain's ``Accuracy``, which stock configs set to 5.

    Args:
        cfg: Config of a run.
        name: ``'val'`` or ``'test'``.

    Raises:
        UserError: There is one.
    """
    head = cfg['model'].get('head') if isinstance(cfg.get('model'), Mapping) else None
    classes = head.get('num_classes') if isinstance(head, Mapping) else None
    for evaluator in _configured(cfg, name, 'Accuracy'):
        topk = evaluator.get('topk', 1)
        most = max(topk if isinstance(topk, Sequence) and topk else [topk])
        if isinstance(most, int) and isinstance(classes, int) and most > classes:
            raise UserError(
                f'{name}_evaluator.topk={topk!r}: top {most} needs as many classes and model.head.num_classes is '
                f'{classes}; set topk=1.'
            )
    for evaluator in _configured(cfg, name):
        value = evaluator.get('items') or ()
        if not isinstance(value, str | Sequence):
            raise UserError(f"{name}_evaluator.items={value!r} is not a list of names, such as ['balanced_accuracy'].")
        for metric in further_metrics(value, f'{name}_evaluator.items'):
            if metric in OF_TWO_CLASSES and classes not in (None, 2):
                raise UserError(
                    f'{name}_evaluator.items={metric!r} is of two classes and model.head.num_classes={classes}; leave '
                    "it out, or use 'balanced_accuracy' or 'macro_f1'."
                )


def _configured(cfg: Mapping, name: str, kind: str = GroupAccuracy.__name__) -> Iterator[Mapping]:
    """The configs of a metric among the evaluators."""
    evaluators = cfg.get(f'{name}_evaluator')
    if isinstance(evaluators, Mapping) and 'metrics' in evaluators:
        evaluators = evaluators['metrics']
    for evaluator in evaluators if isinstance(evaluators, Sequence) else [evaluators]:
        if isinstance(evaluator, Mapping) and type_name(evaluator) == kind:
            yield evaluator


def _check_splits(id: Mapping, ood: Mapping, splits: Sequence[str], name: str) -> None:
    for option, subset in (('id', id), ('ood', ood)):
        if subset['split'] not in splits:
            raise UserError(
                f'{name}_evaluator.{option}: split {subset["split"]!r} is not in {name}_dataloader '
                f'({", ".join(dict.fromkeys(splits))}); correct one of them.'
            )


def leaves(dataset: Any, get: Callable[[Any, str, None], Any] = getattr) -> list:
    """The datasets, or their configs, inside concatenations and wrappers."""
    inner = get(dataset, 'datasets', None) or [get(dataset, 'dataset', None)]
    return [dataset] if None in inner else [leaf for one in inner for leaf in leaves(one, get)]
