"""The selection rule of the paper: in-distribution accuracy decides, out-of-distribution numbers are only reported.

Source: the authors' ``summarize_results.py`` and ``summarize_all_results.py`` (best epoch per run, then the learning
rate with the best mean over seeds).
"""

import math
from collections.abc import Mapping, Sequence

ID_METRIC = 'id/accuracy'


def select_epoch(epochs: Sequence[Mapping[str, float]]) -> int:
    """Index of the epoch with the highest ID accuracy, the first on ties.

    Args:
        epochs: Metrics of each evaluation of a run, in order.

    Raises:
        ValueError: There is no evaluation.
    """
    if not epochs:
        raise ValueError('a run without an evaluation has no best epoch.')
    return max(range(len(epochs)), key=lambda i: (epochs[i][ID_METRIC], -i))


def select_lr(selected: Mapping[float, Sequence[Mapping[str, float]]]) -> float:
    """The learning rate whose mean ID accuracy over seeds is highest, the smallest on ties.

    Args:
        selected: Learning rate -> metrics of its runs (one per seed), each at its selected epoch.
    """
    means = {lr: sum(run[ID_METRIC] for run in runs) / len(runs) for lr, runs in selected.items()}
    return min(means, key=lambda lr: (-means[lr], lr))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error sd/sqrt(n) with ddof 1; the error of a single value is NaN."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
