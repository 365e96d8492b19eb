"""Accuracy in and out of distribution and by group, in one pass over one concatenated dataset."""

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.runner import BaseLoop
from mmpretrain.registry import METRICS

from ..datasets.base import META_KEYS, SUBSET_KEYS
from ..utils.errors import DivergedError, UserError
from ..utils.metrics import ID_METRIC, OOD_METRIC, WORST_GROUP
from ..utils.names import type_name

Subset = str | Mapping


@METRICS.register_module()
class GroupAccuracy(BaseMetric):
    """Accuracies of a benchmark as fractions: ID, OOD, worst group, every group and every split.

    Keys:

    - ``id/accuracy``: the metric that selects models.
    - ``ood/accuracy``: mean over the OOD examples.
    - ``ood/worst_group``: the lowest accuracy of a group of the OOD split.
    - ``ood/worst_<field>``: the lowest accuracy of a value of another field of the samples (``by``).
    - ``group/<name>``, ``<field>/<value>``: accuracy of each of those groups.
    - ``split/<name>``: mean over the examples of each evaluated split.

    A group without examples is left out; it never counts as zero. Samples need ``split`` and ``group``:
    ``PackInputs(meta_keys=(..., 'split', 'group'))``. Predictions: :func:`predicted_labels`.

    Args:
        id (str | dict): The in-distribution subset: a split, or ``dict(split=...)`` with, optionally, ``groups`` (the
            accuracy is over these only, as Africa for FMoW) and ``weights`` (group -> weight: the weighted mean of the
            group accuracies instead of the mean over examples, as the paper does for Waterbirds).
        ood (str | dict): The out-of-distribution subset, in the same form.
        by (Sequence[str]): Other fields of the samples (in ``meta_keys``) to report by, e.g. ``('year',)``.
        not_worst (Sequence[str]): Groups that are reported but never the worst, e.g. FMoW's ``'Other'`` (WILDS).
        **kwargs: ``collect_device``, ``prefix``, ``collect_dir`` of MMEngine's ``BaseMetric``.

    Raises:
        DivergedError: The scores of a sample are not finite.
        UserError: A subset is malformed or empty, or a sample lacks its split or group. A split that no dataset has is
            reported before the run by :func:`ftsgd_plugin.runner.build.build_runner`, hence by ``tools/train.py`` and
            ``tools/test.py``, and by ``RunRecordHook`` under other tools; else at the end of the first evaluation.

    Examples:
        >>> val_evaluator = dict(type='GroupAccuracy', id='val', ood='test')
    """

    default_prefix = ''  # the keys are complete

    def __init__(
        self, id: Subset, ood: Subset, by: Sequence[str] = (), not_worst: Sequence[str] = (), **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.id, self.ood = subset_of('id', id), subset_of('ood', ood)
        self.by, self.not_worst = tuple(by), frozenset(not_worst)

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Keep ``(split, group, *by, correct)`` of every sample; ``correct`` is ``None`` for scores of NaN or Inf."""
        keys = (*SUBSET_KEYS, *self.by)
        labels = _scalars([sample['gt_label'] for sample in data_samples])
        for sample, label, predicted in zip(data_samples, labels, predicted_labels(data_samples)):
            correct = None if predicted is None else int(predicted == label)
            self.results.append((*read_fields('GroupAccuracy', sample, keys), correct))

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """The accuracies of all samples of all ranks.

        Args:
            results: ``(split, group, *by, correct)``, one per sample.

        Returns:
            dict[str, float]: Fractions, by the keys above.
        """
        require_finite('GroupAccuracy', (correct for *_, correct in results))
        cells = _count((split, group, correct) for split, group, *_, correct in results)
        ood = _accuracies(_of_split(cells, 'ood', self.ood))
        candidates = [accuracy for group, accuracy in ood.items() if group not in self.not_worst]
        metrics = {
            ID_METRIC: self._accuracy(cells, 'id', self.id),
            OOD_METRIC: self._accuracy(cells, 'ood', self.ood),
            WORST_GROUP: min(candidates or ood.values()),
        }
        for i, field in enumerate(self.by):
            values = _accuracies(_of_split(_count((r[0], r[2 + i], r[-1]) for r in results), 'ood', self.ood))
            metrics[f'ood/worst_{field}'] = min(values.values())
            metrics.update({f'{field}/{value}': accuracy for value, accuracy in values.items()})
        metrics.update({f'group/{group}': accuracy for group, accuracy in ood.items()})
        for split in sorted({split for split, _ in cells}):
            metrics[f'split/{split}'] = _mean({g: cell for (s, g), cell in cells.items() if s == split})
        return metrics

    @staticmethod
    def _accuracy(cells: Mapping, option: str, subset: dict) -> float:
        """The accuracy of a subset: over its chosen groups, weighted or not."""
        groups = _of_split(cells, option, subset)
        if 'groups' in subset:
            groups = {group: cell for group, cell in groups.items() if group in subset['groups']}
            if not groups:
                raise UserError(f'GroupAccuracy: none of the groups of {option}={subset!r} occurs; check their names.')
        return _weighted(groups, subset['weights']) if 'weights' in subset else _mean(groups)


def predicted_labels(samples: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """The predicted class of every sample, with one wait for the device.

    As in MMPretrain's ``Accuracy``, it is the class with the highest ``pred_score`` where there are scores: averaged
    views (test-time augmentation) leave the first view's ``pred_label`` in the sample.

    Args:
        samples: Data samples as dictionaries, with ``pred_score`` (C,) or ``pred_label``.

    Returns:
        list: Classes; ``None`` for a sample with a score of NaN or Inf, whose highest score has no meaning.
    """
    if not samples or any(sample.get('pred_score') is None for sample in samples):
        return _scalars([sample['pred_label'] for sample in samples])
    scores = torch.stack([torch.as_tensor(sample['pred_score']) for sample in samples])
    predicted = torch.where(scores.isfinite().all(dim=1), scores.argmax(dim=1), -1)
    return [None if label < 0 else label for label in predicted.tolist()]


def require_finite(metric: str, outcomes: Iterable[Any]) -> None:
    """Refuse to give a number if a sample has no prediction.

    Args:
        metric: Name of the metric, for the message.
        outcomes: One per sample; ``None`` where :func:`predicted_labels` gave none.

    Raises:
        DivergedError: One of them is ``None``.
    """
    outcomes = list(outcomes)
    if bad := sum(outcome is None for outcome in outcomes):
        raise DivergedError(
            f'{metric}: the scores of {bad} of {len(outcomes)} samples are NaN or Inf, so there is no accuracy; the '
            'model has diverged: train with a lower learning rate, or evaluate an earlier checkpoint.'
        )


def _scalars(values: Sequence) -> list[int]:
    """Whole numbers or tensors with one element as numbers, with one wait for the device."""
    return torch.cat([torch.as_tensor(value).reshape(1) for value in values]).tolist() if len(values) else []


def read_fields(metric: str, sample: Mapping[str, Any], keys: Sequence[str]) -> list:
    """Values of the fields of a sample.

    Args:
        metric: Name of the metric, for the message.
        sample: A data sample as a dictionary.
        keys: Record fields, which ``meta_keys`` of ``PackInputs`` must name.

    Raises:
        UserError: A field is missing.
    """
    missing = [key for key in keys if key not in sample]
    if missing:
        needed = ', '.join(map(repr, dict.fromkeys((*META_KEYS, *keys))))
        raise UserError(
            f'{metric}: the samples lack {missing[0]!r}; set meta_keys=({needed}) of PackInputs in the evaluation '
            'pipeline.'
        )
    return [sample[key] for key in keys]


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
    loader, evaluators = cfg.get(f'{name}_dataloader'), cfg.get(f'{name}_evaluator')
    if not isinstance(loader, Mapping) or not isinstance(loader.get('dataset'), Mapping):
        return
    splits = [dataset.get('split') for dataset in leaves(loader['dataset'], Mapping.get)]
    if None in splits:
        return
    if isinstance(evaluators, Mapping) and 'metrics' in evaluators:
        evaluators = evaluators['metrics']
    for evaluator in evaluators if isinstance(evaluators, Sequence) else [evaluators]:
        if isinstance(evaluator, Mapping) and type_name(evaluator) == GroupAccuracy.__name__:
            ours = (subset_of(option, evaluator.get(option)) for option in ('id', 'ood'))
            _check_splits(*ours, splits, name)


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


def subset_of(option: str, value: Subset | None) -> dict:
    """``GroupAccuracy``'s option ``id`` or ``ood`` as ``dict(split=...)`` with optional ``groups`` and ``weights``.

    Raises:
        UserError: It does not name a split or has an unknown key.
    """
    subset = {'split': value} if isinstance(value, str) else dict(value or {})
    unknown = sorted(subset.keys() - {'split', 'groups', 'weights'})
    if unknown or not isinstance(subset.get('split'), str):
        wrong = f'has the unknown key {unknown[0]!r}' if unknown else 'does not name a split'
        raise UserError(f'GroupAccuracy: {option}={value!r} {wrong}; give a split or dict(split=, groups=, weights=).')
    return subset


def _count(rows: Iterable[tuple[str, Hashable, int]]) -> dict[tuple[str, Hashable], list[int]]:
    """``(split, value) -> [correct, count]``."""
    cells = defaultdict(lambda: [0, 0])
    for split, value, correct in rows:
        cells[split, value][0] += correct
        cells[split, value][1] += 1
    return dict(cells)


def _of_split(cells: Mapping, option: str, subset: dict) -> dict[Hashable, list[int]]:
    """``value -> [correct, count]`` of a subset's split."""
    chosen = {value: cell for (split, value), cell in cells.items() if split == subset['split']}
    if not chosen:
        seen = ', '.join(sorted({split for split, _ in cells})) or 'none'
        raise UserError(f'GroupAccuracy: no sample belongs to {option}={subset!r}; evaluated splits: {seen}.')
    return chosen


def _accuracies(cells: Mapping[Hashable, Sequence[int]]) -> dict[Hashable, float]:
    return {value: correct / count for value, (correct, count) in sorted(cells.items())}


def _mean(groups: Mapping[Hashable, Sequence[int]]) -> float:
    return sum(correct for correct, _ in groups.values()) / sum(count for _, count in groups.values())


def _weighted(groups: Mapping[str, Sequence[int]], weights: Mapping[str, float]) -> float:
    """The weighted mean of the accuracies of the groups that occur."""
    absent = sorted(weights.keys() - groups.keys())
    if len(absent) == len(weights):
        raise UserError(f'GroupAccuracy: none of the weighted groups {", ".join(weights)} occurs; check their names.')
    if absent:
        print_log(
            f'GroupAccuracy: no sample of {", ".join(absent)}; the weighted accuracy is over the other groups.',
            logger='current',
            level=logging.WARNING,
        )
    present = {group: weight for group, weight in weights.items() if group in groups}
    weighted = sum(weight * groups[group][0] / groups[group][1] for group, weight in present.items())
    return weighted / sum(present.values())
