"""Accuracy in and out of distribution and by group, in one pass over one concatenated dataset."""

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmpretrain.registry import METRICS

from ..datasets.base import SUBSET_KEYS
from ..utils.errors import UserError
from ..utils.metrics import ACCURACY, ID_METRIC, METRIC_NAMES, OF_TWO_CLASSES, OOD_METRIC, WORST_GROUP
from ..utils.names import did_you_mean
from .metrics import METRICS as FURTHER
from .metrics import OF_SCORES, Predictions
from .predictions import predicted_labels, read_fields, require_finite, scalars, top_and_positive

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

    - ``id/<name>``, ``ood/<name>``, ``split/<split>/<name>``: the further metrics that are asked for, of all examples
      of each: ``balanced_accuracy`` (mean recall of the classes that occur), ``macro_f1`` (mean F1 of the classes that
      occur or are predicted), ``auroc`` and ``average_precision`` (of the positive class; for two classes), ``ece``
      (expected calibration error, 15 bins of equal width). Computed by scikit-learn; the calibration error:
      :func:`ftsgd_plugin.evaluation.metrics.expected_calibration_error`. ``groups`` and ``weights`` of a subset count
      here too: each example of a group has the group's weight divided by its number of examples.

    A group without examples is left out; it never counts as zero. In a subset of a single class ``auroc`` and
    ``average_precision`` are not defined: their key is left out, with a warning. Samples need ``split`` and ``group``:
    ``PackInputs(meta_keys=(..., 'split', 'group'))``. Predictions: the class with the highest ``pred_score``.

    Args:
        id (str | dict): The in-distribution subset: a split, or ``dict(split=...)`` with, optionally, ``groups`` (the
            accuracy is over these only, as Africa for FMoW) and ``weights`` (group -> weight: the weighted mean of the
            group accuracies instead of the mean over examples, as the paper does for Waterbirds).
        ood (str | dict): The out-of-distribution subset, in the same form.
        by (Sequence[str]): Other fields of the samples (in ``meta_keys``) to report by, e.g. ``('year',)``.
        not_worst (Sequence[str]): Groups that are reported but never the worst, e.g. FMoW's ``'Other'`` (WILDS).
        items (str | Sequence[str]): Further metrics, by the names above. Defaults to none.
        positive (int): Index of the positive class of ``auroc`` and ``average_precision``. Defaults to 1.
        **kwargs: ``collect_device``, ``prefix``, ``collect_dir`` of MMEngine's ``BaseMetric``.

    Raises:
        DivergedError: The scores of a sample are not finite.
        UserError: A subset is malformed or empty, a sample lacks its split, its group or its scores, or a metric is
            unknown or of two classes where there are others. A split that no dataset has is
            reported before the run by :func:`ftsgd_plugin.runner.build.build_runner`, hence by ``tools/train.py`` and
            ``tools/test.py``, and by ``RunRecordHook`` under other tools; else at the end of the first evaluation.

    Examples:
        >>> val_evaluator = dict(type='GroupAccuracy', id='val', ood='test')
        >>> val_evaluator = dict(type='GroupAccuracy', id='val', ood='test', items=('balanced_accuracy', 'ece'))
    """

    default_prefix = ''  # the keys are complete

    def __init__(
        self,
        id: Subset,
        ood: Subset,
        by: Sequence[str] = (),
        not_worst: Sequence[str] = (),
        items: str | Sequence[str] = (),
        positive: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.id, self.ood = subset_of('id', id), subset_of('ood', ood)
        self.by, self.not_worst = tuple(by), frozenset(not_worst)
        self.items, self.positive = further_metrics(items), positive
        if positive not in (0, 1):
            raise UserError(f'GroupAccuracy: positive={positive!r} is neither 0 nor 1, the index of a class of two.')
        self._undefined: set[str] = set()  # keys that were warned of

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Keep ``(split, group, *by, correct)`` of every sample; ``correct`` is ``None`` for scores of NaN or Inf.

        With further metrics ``(label, predicted, top score, positive score)`` stands before ``correct``.
        """
        keys = (*SUBSET_KEYS, *self.by)
        labels = scalars([sample['gt_label'] for sample in data_samples])
        predictions = predicted_labels(data_samples)
        scores = [(np.nan, np.nan)] * len(data_samples)
        if OF_SCORES & {*self.items}:
            of_two = [name for name in self.items if name in OF_TWO_CLASSES]
            scores = top_and_positive('GroupAccuracy', data_samples, self.positive, of_two, 'ece' in self.items)
        for sample, label, predicted, of_scores in zip(data_samples, labels, predictions, scores):
            correct = None if predicted is None else int(predicted == label)
            further = [(label, predicted, *of_scores)] if self.items else []
            self.results.append((*read_fields('GroupAccuracy', sample, keys), *further, correct))

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """The accuracies of all samples of all ranks.

        Args:
            results: One tuple per sample, as :meth:`process` keeps them.

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
        if self.items:
            metrics.update(self._further(results, cells))
        return metrics

    def _further(self, results: list[tuple], cells: Mapping) -> Iterator[tuple[str, float]]:
        """The further metrics, by key."""
        splits, groups = (np.array([str(row[i]) for row in results]) for i in (0, 1))
        labels, predicted, top, positive = (np.array(column) for column in zip(*(row[-2] for row in results)))
        subsets = {
            'id': self.id,
            'ood': self.ood,
            **{f'split/{s}': {'split': s} for s in sorted({s for s, _ in cells})},
        }
        known: dict[str, dict[str, float | None]] = {}  # the ID and OOD data are often whole splits
        for key, subset in subsets.items():
            values = known.get(repr(subset)) or known.setdefault(repr(subset), {})
            chosen, weights = splits == subset['split'], None
            if 'groups' in subset:
                chosen &= np.isin(groups, list(map(str, subset['groups'])))
            if 'weights' in subset:
                counts = {group: count for group, (_, count) in _of_split(cells, key, subset).items()}
                shares = {str(g): weight / counts[g] for g, weight in subset['weights'].items() if g in counts}
                chosen &= np.isin(groups, list(shares))
                weights = np.array([shares[group] for group in groups[chosen]])
            found = Predictions(
                labels[chosen],
                predicted[chosen],
                top[chosen],
                positive[chosen],
                labels[chosen] == self.positive,
                weights,
            )
            for name in self.items:
                if name not in values:
                    values[name] = FURTHER[name](found)
                if values[name] is not None:
                    yield f'{key}/{name}', float(values[name])
                elif f'{key}/{name}' not in self._undefined:
                    self._undefined.add(f'{key}/{name}')
                    print_log(
                        f'GroupAccuracy: {key}/{name} is left out: all samples there are of one class, for which it is '
                        'not defined.',
                        logger='current',
                        level=logging.WARNING,
                    )

    @staticmethod
    def _accuracy(cells: Mapping, option: str, subset: dict) -> float:
        """The accuracy of a subset: over its chosen groups, weighted or not."""
        groups = _of_split(cells, option, subset)
        if 'groups' in subset:
            groups = {group: cell for group, cell in groups.items() if group in subset['groups']}
            if not groups:
                raise UserError(f'GroupAccuracy: none of the groups of {option}={subset!r} occurs; check their names.')
        return _weighted(groups, subset['weights']) if 'weights' in subset else _mean(groups)


def further_metrics(value: str | Sequence[str], option: str = 'GroupAccuracy: items') -> tuple[str, ...]:
    """``GroupAccuracy``'s option ``items`` as a tuple of names.

    Args:
        value: One name or several.
        option: How messages name it.

    Raises:
        UserError: A name is unknown.
    """
    names = [value] if isinstance(value, str) else list(value)
    for name in names:
        if name not in FURTHER:
            known = METRIC_NAMES.keys() - {ACCURACY}
            hint = 'it is always reported; leave it out.' if name == ACCURACY else did_you_mean(str(name), known)
            raise UserError(f'{option}={name!r}: there is no such metric; {hint}')
    return tuple(dict.fromkeys(names))


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
