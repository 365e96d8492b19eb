"""Accuracy in and out of distribution, by group, in one pass over one concatenated dataset."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmpretrain.registry import METRICS

from ..errors import UserError

Subset = str | Mapping


@METRICS.register_module()
class GroupAccuracy(BaseMetric):
    """Accuracies of a benchmark as fractions: ID, OOD, worst group, every group and every split.

    Keys:

    - ``id/accuracy``: the number a model is selected on.
    - ``ood/accuracy``: mean over the OOD examples.
    - ``ood/worst_group``: the least accuracy of a group that occurs among them.
    - ``group/<name>``: accuracy of each of those groups.
    - ``split/<name>``: mean over the examples of each evaluated split.

    A group without examples is left out; it never counts as zero. Samples need ``split`` and ``group``:
    ``PackInputs(meta_keys=(..., 'split', 'group'))``.

    Args:
        id (str | dict): The in-distribution subset: a split, or ``dict(split=...)`` with, optionally, ``groups`` (only
            these) and ``weights`` (group -> weight: the weighted mean of the group accuracies instead of the mean over
            examples, as the paper does for Waterbirds).
        ood (str | dict): The out-of-distribution subset, likewise.
        **kwargs: ``collect_device``, ``prefix``, ``collect_dir`` of MMEngine's ``BaseMetric``.

    Raises:
        UserError: A subset is malformed or empty, or a sample carries no split or group.

    Examples:
        >>> val_evaluator = dict(type='GroupAccuracy', id='val', ood='test')
    """

    default_prefix = ''  # the keys are complete

    def __init__(self, id: Subset, ood: Subset, **kwargs) -> None:
        super().__init__(**kwargs)
        self.id, self.ood = _subset('id', id), _subset('ood', ood)

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Keep ``(split, group, correct)`` of every sample."""
        for sample in data_samples:
            if 'split' not in sample or 'group' not in sample:
                raise UserError(
                    "GroupAccuracy: the samples carry no 'split' and 'group'; add both to meta_keys of PackInputs in "
                    'the evaluation pipeline.'
                )
            self.results.append((sample['split'], sample['group'], int(sample['pred_label'] == sample['gt_label'])))

    def compute_metrics(self, results: list[tuple[str, str, int]]) -> dict[str, float]:
        """The accuracies of all samples of all ranks.

        Args:
            results: ``(split, group, correct)``, one per sample.

        Returns:
            dict[str, float]: Fractions, by the keys above.
        """
        cells: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for split, group, correct in results:
            cells[split, group][0] += correct
            cells[split, group][1] += 1

        ood = _groups(cells, 'ood', self.ood)
        accuracies = {group: correct / count for group, (correct, count) in sorted(ood.items())}
        metrics = {
            'id/accuracy': _accuracy(_groups(cells, 'id', self.id), self.id.get('weights')),
            'ood/accuracy': _accuracy(ood, self.ood.get('weights')),
            'ood/worst_group': min(accuracies.values()),
        }
        metrics.update({f'group/{group}': accuracy for group, accuracy in accuracies.items()})
        for split in sorted({split for split, _ in cells}):
            metrics[f'split/{split}'] = _accuracy({g: cell for (s, g), cell in cells.items() if s == split})
        return metrics


def _subset(option: str, value: Subset) -> dict:
    subset = {'split': value} if isinstance(value, str) else dict(value)
    unknown = sorted(subset.keys() - {'split', 'groups', 'weights'})
    if unknown or not isinstance(subset.get('split'), str):
        wrong = f'has no key {unknown[0]!r}' if unknown else 'names no split'
        raise UserError(f'GroupAccuracy: {option}={value!r} {wrong}; give a split or dict(split=, groups=, weights=).')
    return subset


def _groups(cells: Mapping, option: str, subset: dict) -> dict[str, list[int]]:
    """``group -> [correct, count]`` of a subset."""
    chosen = {
        group: cell
        for (split, group), cell in cells.items()
        if split == subset['split'] and ('groups' not in subset or group in subset['groups'])
    }
    if not chosen:
        seen = ', '.join(sorted({f'{split} ({group})' for split, group in cells})) or 'none'
        raise UserError(f'GroupAccuracy: no sample belongs to {option}={subset!r}; evaluated were: {seen}.')
    return chosen


def _accuracy(groups: Mapping[str, Sequence[int]], weights: Mapping[str, float] | None = None) -> float:
    """Mean over examples, or the weighted mean of the accuracies of the groups that occur."""
    if weights is None:
        return sum(correct for correct, _ in groups.values()) / sum(count for _, count in groups.values())
    absent = sorted(weights.keys() - groups.keys())
    if absent:
        print_log(
            f'GroupAccuracy: no sample of {", ".join(absent)}; the weighted accuracy is over the other groups.',
            logger='current',
            level=logging.WARNING,
        )
    present = {group: weight for group, weight in weights.items() if group in groups}
    if not present:
        raise UserError(f'GroupAccuracy: none of the weighted groups {", ".join(weights)} occurs; check their names.')
    weighted = sum(weight * groups[group][0] / groups[group][1] for group, weight in present.items())
    return weighted / sum(present.values())
