"""The selection rule: ID accuracy only, first on ties."""

import math

import pytest

from ftsgd_plugin.evaluation.selection import mean_and_error, select_epoch, select_lr


def epoch(id_accuracy: float, ood: float = 0.0) -> dict[str, float]:
    return {'id/accuracy': id_accuracy, 'ood/accuracy': ood}


def test_epoch_with_the_best_id_accuracy_whatever_the_ood():
    assert select_epoch([epoch(0.5, 0.9), epoch(0.7, 0.1), epoch(0.6, 1.0)]) == 1


def test_first_epoch_on_ties():
    assert select_epoch([epoch(0.5), epoch(0.7), epoch(0.7)]) == 1


def test_run_without_evaluation():
    with pytest.raises(ValueError, match='no best epoch'):
        select_epoch([])


def test_learning_rate_by_mean_over_seeds():
    runs = {
        1e-2: [epoch(0.9, 1.0), epoch(0.5, 1.0)],
        1e-3: [epoch(0.75), epoch(0.75)],
        1e-4: [epoch(0.75), epoch(0.75)],
    }
    assert select_lr(runs) == 1e-4


def test_standard_error():
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1.0 / math.sqrt(3)))
    mean, error = mean_and_error([0.25])
    assert mean == 0.25 and math.isnan(error)
