"""Sensitivity to the learning rate, on small grids and on the authors' runs."""

import pytest
from helpers.authors import record, reports

from ftsgd_plugin.results.aggregate import runs_frame
from ftsgd_plugin.results.sensitivity import by_method, compare_sgd, lr_curves, lr_sensitivity


def losses(records):
    return lr_sensitivity(lr_curves(runs_frame(records)))


def test_losses_of_a_known_grid():
    grid = {1e-4: 0.795, 1e-3: 0.8, 1e-2: 0.7, 1e-1: 0.5}
    (line,) = losses(record(lr=lr, ids=(value,), oods=(value / 2,)) for lr, value in grid.items()).to_dict('records')
    assert (line['lrs'], line['near'], line['edge']) == (4, 2, False)
    assert line['id_mean_loss'] == pytest.approx(80 - 69.875)
    assert line['id_step_loss'] == pytest.approx(80 - 74.75)
    assert line['ood_mean_loss'] == pytest.approx(line['id_mean_loss'] / 2)


def test_best_rate_at_the_edge_has_one_neighbour():
    (line,) = losses(record(lr=lr, ids=(value,)) for lr, value in ((1e-3, 0.8), (1e-2, 0.7))).to_dict('records')
    assert line['edge'] and line['id_step_loss'] == pytest.approx(10.0)


def test_one_rate_has_no_sensitivity():
    assert losses([record()]).empty and compare_sgd(losses([record()])) == []


def test_freeze_embed_is_less_sensitive_than_sgd_in_the_authors_runs():
    found = losses(reports.authors_records())
    means = by_method(found).set_index('method')
    assert means['cells'].eq(5).all()
    expected = {'id_mean_loss': (3.205, 8.208), 'ood_mean_loss': (11.919, 21.092), 'id_step_loss': (0.451, 1.029)}
    for column, (frozen, plain) in expected.items():
        assert means.loc['freeze-embed', column] == pytest.approx(frozen, abs=1e-3)
        assert means.loc['sgd', column] == pytest.approx(plain, abs=1e-3)
    assert compare_sgd(found)[0].endswith('? yes, in 5 cells.')
    assert '0 and 2 cells' in compare_sgd(found)[-1]  # SGD's best is at the edge twice


def test_averages_are_over_common_cells():
    records = [record(lr=lr, dataset='other', ids=(lr,)) for lr in (0.1, 0.9)]  # SGD alone
    records += [record(method, lr, ids=(lr,)) for method in ('sgd', 'freeze-embed') for lr in (0.4, 0.5)]
    means = by_method(losses(records))
    assert means['cells'].tolist() == [1, 1]
    assert means['id_mean_loss'].tolist() == pytest.approx([5.0, 5.0])
