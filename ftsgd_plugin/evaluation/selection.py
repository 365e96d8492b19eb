"""The selection rule of the paper: in-distribution accuracy selects, out-of-distribution accuracy is only reported.

Source: the authors' ``summarize_results.py`` and ``summarize_all_results.py`` (best epoch per run, then the learning
rate with the best mean over seeds).
"""

import math
from collections.abc import Mapping, Sequence

from ..utils.metrics import ACCURACY, ID_METRIC, METRIC_NAMES, OOD_METRIC, sign_of

# Rule -> its description in every output. Only the first is the paper's; the others exist for comparison.
_RULES = {
    'id': 'epoch and learning rate selected by ID {}',
    'last': "last epoch, learning rate selected by ID {} (not the paper's rule)",
    'ood-oracle': 'epoch and learning rate selected on OOD data: an oracle, no result',
}
RULES = {rule: text.format(METRIC_NAMES[ACCURACY]) for rule, text in _RULES.items()}
Z90 = 1.645  # the authors' half-width of a 90 % interval, in standard errors; too narrow for few seeds


def describe_rule(rule: str, metric: str = ACCURACY) -> str:
    """A rule in words.

    Args:
        rule: A key of :data:`RULES`.
        metric: The metric that it selects by, a key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`.
    """
    return _RULES[rule].format(METRIC_NAMES[metric])


def select_epoch(
    epochs: Sequence[Mapping[str, float]],
    rule: str = 'id',
    ood_metric: str = OOD_METRIC,
    id_metric: str = ID_METRIC,
) -> int:
    """Index of the epoch with the best ID accuracy, the first on ties; NaN is never the best.

    Args:
        epochs: Metrics of each evaluation of a run, in order.
        rule: A key of :data:`RULES`; ``'id'`` is the paper's.
        ood_metric: The metric that the oracle selects by.
        id_metric: The metric that the other rules select by; of ``id/ece`` the lowest value is the best.

    Raises:
        ValueError: There is no evaluation.
    """
    if not epochs:
        raise ValueError('a run without an evaluation has no best epoch.')
    if rule == 'last':
        return len(epochs) - 1
    metric = selecting_metric(rule, ood_metric, id_metric)
    return max(range(len(epochs)), key=lambda i: (_or_lowest(sign_of(metric) * epochs[i][metric]), -i))


def select_lr(
    selected: Mapping[float, Sequence[Mapping[str, float]]],
    rule: str = 'id',
    ood_metric: str = OOD_METRIC,
    id_metric: str = ID_METRIC,
) -> float:
    """The learning rate whose mean ID accuracy over seeds is best, the smallest on ties; NaN is never the best.

    Args:
        selected: Learning rate -> metrics of its runs (one per seed), each at its selected epoch.
        rule: A key of :data:`RULES`; ``'id'`` is the paper's.
        ood_metric, id_metric: As in :func:`select_epoch`.
    """
    metric = selecting_metric(rule, ood_metric, id_metric)
    means = {
        lr: _or_lowest(sign_of(metric) * mean_and_error([run[metric] for run in runs])[0])
        for lr, runs in selected.items()
    }
    return min(means, key=lambda lr: (-means[lr], lr))


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def selecting_metric(rule: str, ood_metric: str = OOD_METRIC, id_metric: str = ID_METRIC) -> str:
    """The metric that a rule selects by, among epochs (except ``'last'``) and learning rates."""
    return {'id': id_metric, 'last': id_metric, 'ood-oracle': ood_metric}[rule]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error sd/sqrt(n) with ddof 1; the error of a single value is NaN."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def mean_and_ci90(values: Sequence[float]) -> tuple[float, float]:
    """Mean and the authors' 90 % half-width 1.645 sd/sqrt(n) with ddof 1; NaN for a single value.

    The formula of the paper's tables, and of ± in ours. With few values it is too narrow: :func:`difference_ci90`.
    """
    mean, error = mean_and_error(values)
    return mean, Z90 * error


def difference_ci90(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Half-width of the 90 % interval of a difference of two means, by Student's t with Welch's degrees of freedom.

    Source: B. L. Welch, "The generalization of 'Student's' problem when several different population variances are
    involved", Biometrika 34 (1947). It covers about 90 %, where the normal quantile covers 76 to 83 % for two means of
    three values each.

    Args:
        first, second: Standard deviation (ddof 1; NaN if unknown) and number of values. An unknown deviation is taken
            to be that of the other side, which alone gives the degrees of freedom then.

    Returns:
        float: NaN if both deviations, or a number, are unknown.

    Examples:
        >>> round(difference_ci90((1.0, 3), (1.0, 3)), 2), round(difference_ci90((1.0, 3), (math.nan, 1)), 2)
        (1.74, 3.37)
    """
    from scipy.special import stdtrit

    known = [(deviation, count) for deviation, count in (first, second) if not math.isnan(deviation) and count > 1]
    if not known or math.isnan(first[1]) or math.isnan(second[1]):
        return math.nan
    if len(known) == 1:
        ((deviation, count),) = known
        variance, freedom = deviation**2 * (1 / first[1] + 1 / second[1]), count - 1
    else:
        terms = [deviation**2 / count for deviation, count in known]
        variance = sum(terms)
        parts = sum(term**2 / (count - 1) for term, (_, count) in zip(terms, known))
        freedom = variance**2 / parts if parts else 1.0
    return float(stdtrit(freedom, 0.95)) * math.sqrt(variance)
