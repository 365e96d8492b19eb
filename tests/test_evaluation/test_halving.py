"""Successive halving: Ray Tune's decisions are those of the published rule, and only ID data decides."""

import builtins

import numpy as np
import pytest

from ftsgd_plugin.evaluation.halving import continues, first_decision
from ftsgd_plugin.utils.errors import UserError

pytest.importorskip('ray.tune')
ID = 'id/accuracy'


def curve(values, key: str = ID) -> list[dict[str, float]]:
    return [{key: float(value), 'ood/accuracy': 1 - float(value)} for value in values]


def by_the_rule(own: list, rivals: list[list], evaluations: int, factor: float) -> bool:
    """ASHA as its paper states it, from the curves; a rung has whoever came so far, with the best value until then."""
    first = max(1, -(-evaluations // round(factor**2)))
    rung = first
    while rung * factor <= min(len(own), evaluations - 1):
        rung *= factor
    if len(own) != rung or len(own) >= evaluations:
        return True  # no decision after this evaluation
    others = [max(one[:rung]) for one in rivals if len(one) >= rung]
    return not others or max(own) >= np.percentile(others, 100 * (1 - 1 / factor))


@pytest.mark.parametrize('evaluations', [3, 5, 20])
def test_decisions_are_those_of_the_published_rule(evaluations):
    rng = np.random.default_rng(evaluations)
    answers = []
    for _ in range(60):
        lengths = rng.integers(0, evaluations + 1, size=5)
        rivals = [list(rng.random(length)) for length in lengths]
        own = list(rng.random(rng.integers(1, evaluations + 1)))
        answer = continues(curve(own), map(curve, rivals), ID, evaluations)
        assert answer == by_the_rule(own, rivals, evaluations, 3)
        answers.append(answer)
    assert 0 < sum(answers) < len(answers)


def test_first_decisions_of_the_papers_runs():
    assert [first_decision(count) for count in (3, 5, 20, 50)] == [1, 1, 3, 6]
    assert first_decision(20, 2) == 5 and first_decision(1) == 1


def test_the_first_run_continues_and_the_end_is_never_stopped():
    assert continues(curve([0.1]), [], ID, 5) and continues(curve([0.1]), [[], []], ID, 5)
    assert not continues(curve([0.1]), [curve([0.9])], ID, 5)
    assert continues(curve([0.1] * 5), [curve([0.9] * 5)], ID, 5)


def test_a_lower_calibration_error_is_better():
    good, bad = curve([0.01], 'id/ece'), curve([0.5], 'id/ece')
    assert continues(good, [bad], 'id/ece', 5) and not continues(bad, [good], 'id/ece', 5)


@pytest.mark.parametrize('metric', ['ood/accuracy', 'ood/worst_group', 'split/test'])
def test_only_id_data_decides(metric):
    with pytest.raises(UserError, match='only ID data may select'):
        continues(curve([0.1]), [curve([0.9])], metric, 5)


def test_without_ray_tune_one_line_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == 'ray.tune.schedulers':
            raise ModuleNotFoundError("No module named 'pyarrow'", name='pyarrow')
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(UserError, match=r"\(pyarrow is missing\).*'ftsgd_plugin\[halving\]'"):
        continues(curve([0.1]), [curve([0.9])], ID, 5)
