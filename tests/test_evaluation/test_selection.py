"""The selection rule: ID accuracy only, first on ties."""

import math
import statistics

import numpy as np
import pytest
import scipy.stats

from ftsgd_plugin.evaluation.selection import (
    RULES,
    Z90,
    describe_rule,
    difference_ci90,
    mean_and_ci90,
    mean_and_error,
    select_epoch,
    select_lr,
)
from ftsgd_plugin.utils.metrics import better_rule, selecting_key


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


def test_another_id_metric_selects_in_its_own_direction():
    """The lowest calibration error is the best, NaN never, the first on ties; the OOD data decides nothing."""
    epochs = [{'id/ece': e, 'ood/ece': o, 'id/macro_f1': e} for e, o in ((0.3, 0.1), (0.1, 0.9), (0.1, 0.2))]
    assert select_epoch(epochs, id_metric='id/ece') == 1
    assert select_epoch(epochs, id_metric='id/macro_f1') == 0
    assert select_epoch(epochs, 'ood-oracle', 'ood/ece', 'id/ece') == 0
    assert select_epoch([{'id/ece': math.nan}, *epochs], id_metric='id/ece') == 2
    runs = {1e-2: epochs[:1], 1e-3: epochs[1:2], 1e-4: [epochs[0], epochs[1]]}
    assert select_lr(runs, id_metric='id/ece') == 1e-3 and select_lr(runs, id_metric='id/macro_f1') == 1e-2
    assert describe_rule('id') == RULES['id'] and describe_rule('last', 'ece').startswith('last epoch')
    assert describe_rule('id', 'macro_f1') == 'epoch and learning rate selected by ID macro F1'


@pytest.mark.parametrize(
    'key, rule',
    [
        ('id/accuracy', 'greater'),
        ('ood/auroc', 'greater'),
        ('id/ece', 'less'),
        ('split/val/ece', 'less'),
        ('macro_f1', 'greater'),
        ('accuracy/top1', None),
        ('split/ece', None),  # the accuracy of a split of that name
        ('group/ece', None),
        ('ood/worst_group', None),
    ],
)
def test_which_values_are_better(key, rule):
    assert better_rule(key) == rule


def test_the_selecting_key_is_the_first_of_id_data():
    assert selecting_key('id/ece') == 'id/ece' and selecting_key(['accuracy/top1', 'id/auroc']) == 'id/auroc'
    assert all(selecting_key(none) == 'id/accuracy' for none in (None, 'auto', 'accuracy/top1', []))


def test_interval_is_the_authors():
    mean, half = mean_and_ci90([81.4118, 78.7647, 79.7059])  # SGD on Living-17, CLIP ViT-B/16
    assert f'{mean:.4f} {half:.4f}' == '79.9608 1.2744'
    assert math.isnan(mean_and_ci90([1.0])[1])


def test_nan_is_never_selected():
    assert select_epoch([epoch(math.nan), epoch(0.1), epoch(math.inf)]) == 1
    assert select_lr({1e-3: [epoch(math.nan), epoch(0.9)], 1e-2: [epoch(0.1)]}) == 1e-2


@pytest.mark.parametrize('ours, ratio', [(3, 1.0), (3, 4.0), (2, 1.0), (5, 2.0), (1, 1.0)])
def test_interval_of_a_difference_covers_90_percent(ours, ratio):
    """Simulated: means of few seeds with equal or different deviations; the normal quantile covers too few."""
    draws, generator = 4000, np.random.default_rng(0)
    first = generator.normal(0.0, ratio, (draws, ours))
    second = generator.normal(0.0, 1.0, (draws, 3))
    covered = {'t': 0, 'normal': 0}
    for one, two in zip(first, second):
        known = statistics.stdev(one) if ours > 1 else math.nan
        other = statistics.stdev(two)
        difference = abs(one.mean() - two.mean())
        covered['t'] += difference <= difference_ci90((known, ours), (other, 3))
        filled = other if math.isnan(known) else known
        covered['normal'] += difference <= Z90 * math.sqrt(filled**2 / ours + other**2 / 3)
    assert 0.88 < covered['t'] / draws < 0.95
    assert covered['normal'] / draws < 0.87


def test_interval_of_a_difference_is_scipys():
    one, two = [0.81, 0.83, 0.86], [0.79, 0.795, 0.80, 0.80]
    expected = scipy.stats.ttest_ind(one, two, equal_var=False).confidence_interval(0.9)
    sides = [(statistics.stdev(values), len(values)) for values in (one, two)]
    assert 2 * difference_ci90(*sides) == pytest.approx(expected.high - expected.low)
    assert math.isnan(difference_ci90((math.nan, 1), (math.nan, 1))) and math.isnan(
        difference_ci90(sides[0], (1, math.nan))
    )
    assert difference_ci90((0.0, 3), (0.0, 3)) == 0
