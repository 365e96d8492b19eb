"""The selection rule: ID accuracy only, first on ties."""

import math

import pytest

from ftsgd_plugin.evaluation.selection import RULES, mean_and_ci90, mean_and_error, select_epoch, select_lr


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


@pytest.mark.parametrize('rule, chosen', [('id', 1), ('last', 2), ('ood-oracle', 0)])
def test_epoch_by_other_rules(rule, chosen):
    assert select_epoch([epoch(0.5, 0.9), epoch(0.7, 0.1), epoch(0.6, 0.8)], rule) == chosen
    assert rule in RULES


def test_oracle_selects_the_learning_rate_on_ood_and_the_last_epoch_rule_does_not():
    runs = {1e-2: [epoch(0.9, 0.1)], 1e-3: [epoch(0.8, 0.2)]}
    assert [select_lr(runs, rule) for rule in ('id', 'last', 'ood-oracle')] == [1e-2, 1e-2, 1e-3]


def test_oracle_looks_at_the_metric_that_it_is_given():
    epochs = [{'ood/accuracy': 0.9, 'ood/worst_group': 0.1}, {'ood/accuracy': 0.8, 'ood/worst_group': 0.2}]
    assert select_epoch(epochs, 'ood-oracle', 'ood/worst_group') == 1


def test_interval_is_the_authors():
    mean, half = mean_and_ci90([81.4118, 78.7647, 79.7059])  # SGD on Living-17, CLIP ViT-B/16
    assert f'{mean:.4f} {half:.4f}' == '79.9608 1.2744'
    assert math.isnan(mean_and_ci90([1.0])[1])
