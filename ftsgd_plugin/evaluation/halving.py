"""Successive halving: whether a run continues, by its ID metric and those of its rivals. The rule is Ray Tune's.

Source: L. Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA, arXiv 1810.05934), as
``ray.tune.schedulers.AsyncHyperBandScheduler`` has it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

from ..utils.errors import UserError
from ..utils.metrics import sign_of

FACTOR = 3.0


def first_decision(evaluations: int, factor: float = FACTOR) -> int:
    """Evaluations before the first decision: a ``factor ** 2``-th of all, at least one.

    Args:
        evaluations: Of a whole run.
        factor: As in :func:`continues`.

    Examples:
        >>> [first_decision(n) for n in (3, 5, 20, 50)]
        [1, 1, 3, 6]
    """
    return max(1, math.ceil(evaluations / factor**2 - 1e-9))


def continues(
    own: Sequence[Mapping[str, float]],
    rivals: Iterable[Sequence[Mapping[str, float]]],
    metric: str,
    evaluations: int,
    factor: float = FACTOR,
    first: int | None = None,
) -> bool:
    """Whether a run continues after its latest evaluation.

    After ``first``, ``first * factor``, ... evaluations a run continues if the best value that it has had is among the
    best ``1 / factor`` of all runs that have come as far. It does not wait for those that have not.

    Args:
        own: Metrics of the run's evaluations so far.
        rivals: Likewise of the runs that it is compared with.
        metric: A key of ID data.
        evaluations: Of a whole run.
        factor: How many runs one of them continues, more than 1.
        first: Evaluations before the first decision. Default: :func:`first_decision`.

    Raises:
        UserError: The metric is not of ID data, or Ray Tune is not installed.
    """
    if not metric.startswith('id/'):
        raise UserError(f'successive halving by {metric}: only ID data may select; give a metric of id/.')
    first = min(first or first_decision(evaluations, factor), evaluations)
    counts = [math.ceil(first * factor**k - 1e-9) for k in range(int(math.log(evaluations / first, factor) + 1e-9) + 1)]
    if len(own) >= evaluations or len(own) not in counts:
        return True  # the run is at its end, or between two decisions
    scheduler = import_scheduler()(
        time_attr='evaluations',
        metric='value',
        mode='max',
        max_t=evaluations,
        grace_period=first,
        reduction_factor=factor,
        stop_last_trials=False,
    )
    answer = scheduler.CONTINUE
    worst = -math.inf * sign_of(metric)
    for number, epochs in enumerate([*rivals, own]):
        trial = SimpleNamespace(trial_id=str(number))  # all that the scheduler reads of a trial
        scheduler.on_trial_add(None, trial)
        for count in counts:
            if count <= len(epochs):
                best = max(sign_of(metric) * metrics.get(metric, worst) for metrics in epochs[:count])
                answer = scheduler.on_trial_result(None, trial, {'evaluations': count, 'value': best})
    return answer != scheduler.STOP


def import_scheduler() -> type:
    """Ray Tune's scheduler.

    Raises:
        UserError: It is not installed.
    """
    try:
        from ray.tune.schedulers import AsyncHyperBandScheduler
    except ImportError as error:
        raise UserError(
            f'successive halving needs Ray Tune ({error.name or error} is missing); install it with: '
            "pip install 'ftsgd_plugin[halving]'."
        ) from None
    return AsyncHyperBandScheduler
