"""The selection rule of the paper: in-distribution accuracy selects, out-of-distribution accuracy is only reported.

Source: the authors' ``summarize_results.py`` and ``summarize_all_results.py`` (best epoch per run, then the learning
rate with the best mean over seeds).
"""

import math
from collections.abc import Mapping, Sequence

from ..utils.metrics import ID_METRIC, OOD_METRIC

# Rule -> its description in every output. Only the first is the paper's; the others exist for comparison.
RULES = {
    'id': 'epoch and learning rate selected by ID accuracy',
    'last': "last epoch, learning rate selected by ID accuracy (not the paper's rule)",
    'ood-oracle': 'epoch and learning rate selected on OOD data: an oracle, no result',
}
Z90 = 1.645  # the authors' half-width of a 90 % interval, in standard errors


def select_epoch(epochs: Sequence[Mapping[str, float]], rule: str = 'id', ood_metric: str = OOD_METRIC) -> int:
    """Index of the epoch with the highest ID accuracy, the first on ties.

    Args:
        epochs: Metrics of each evaluation of a run, in order.
        rule: A key of :data:`RULES`; ``'id'`` is the paper's.
        ood_metric: The metric that the oracle maximises.

    Raises:
        ValueError: There is no evaluation.
    """
    if not epochs:
        raise ValueError('a run without an evaluation has no best epoch.')
    if rule == 'last':
        return len(epochs) - 1
    metric = selecting_metric(rule, ood_metric)
    return max(range(len(epochs)), key=lambda i: (epochs[i][metric], -i))


def select_lr(
    selected: Mapping[float, Sequence[Mapping[str, float]]], rule: str = 'id', ood_metric: str = OOD_METRIC
) -> float:
    """The learning rate whose mean ID accuracy over seeds is highest, the smallest on ties.

    Args:
        selected: Learning rate -> metrics of its runs (one per seed), each at its selected epoch.
        rule: A key of :data:`RULES`; ``'id'`` is the paper's.
        ood_metric: The metric that the oracle maximises.
    """
    metric = selecting_metric(rule, ood_metric)
    means = {lr: mean_and_error([run[metric] for run in runs])[0] for lr, runs in selected.items()}
    return min(means, key=lambda lr: (-means[lr], lr))


def selecting_metric(rule: str, ood_metric: str = OOD_METRIC) -> str:
    """The metric that a rule maximises over epochs (except ``'last'``) and over learning rates."""
    return {'id': ID_METRIC, 'last': ID_METRIC, 'ood-oracle': ood_metric}[rule]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error sd/sqrt(n) with ddof 1; the error of a single value is NaN."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def mean_and_ci90(values: Sequence[float]) -> tuple[float, float]:
    """Mean and the authors' 90 % half-width 1.645 sd/sqrt(n) with ddof 1; NaN for a single value."""
    mean, error = mean_and_error(values)
    return mean, Z90 * error
