"""Tables, report and figures by another metric than the accuracy."""

import csv
import re
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.authors import record
from PIL import Image

from ftsgd_plugin.records import write_record
from ftsgd_plugin.results.aggregate import read_results
from ftsgd_plugin.results.collect import collect
from ftsgd_plugin.results.plots import draw_results
from ftsgd_plugin.results.sensitivity import lr_curves, lr_sensitivity
from ftsgd_plugin.results.tables import write_tables
from ftsgd_plugin.utils.errors import UserError


def scored(method: str, lr: float, seed: int, eces, accuracies, **changes):
    """A run with a calibration error, twice as large on OOD data, by epoch."""
    epochs = [
        {'id/accuracy': a, 'ood/accuracy': a / 2, 'ood/worst_group': a / 4, 'id/ece': e, 'ood/ece': 2 * e}
        for e, a in zip(eces, accuracies)
    ]
    return record(method, lr, seed, epochs=epochs, selected_by='id/ece', resources={'peak_bytes': 1e9}, **changes)


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> Path:
    """Two rates; the accuracies prefer the other epoch and the other rate than the calibration errors do."""
    directory = tmp_path_factory.mktemp('runs')
    for method, shift in (('sgd', 0.0), ('freeze-embed', -0.01)):
        for seed in (0, 1):
            for lr, eces, accuracies in ((1e-3, (0.30, 0.20), (0.9, 0.8)), (1e-2, (0.10, 0.15), (0.6, 0.7))):
                eces = [e + shift + 0.01 * seed for e in eces]
                write_record(scored(method, lr, seed, eces, accuracies), directory / f'{method}_{lr}_{seed}')
    return directory


def test_selection_and_numbers_are_of_the_metric(runs):
    results = read_results([runs], metric='ece')
    cells = results.cells.set_index('method')
    assert cells['lr'].to_dict() == {'sgd': 1e-2, 'freeze-embed': 1e-2}
    assert cells['id'].to_dict() == pytest.approx({'sgd': 10.5, 'freeze-embed': 9.5})
    assert cells['ood'].to_dict() == pytest.approx({'sgd': 21.0, 'freeze-embed': 19.0})
    assert results.runs.query('lr == 0.01')['epoch'].tolist() == [0] * 4
    assert results.found.warnings == [] and results.compared['paper_id'].isna().all()
    accuracy = read_results([runs]).cells.set_index('method')
    assert accuracy['lr'].to_dict() == {'sgd': 1e-3, 'freeze-embed': 1e-3} and accuracy['id']['sgd'] == 90
    oracle = read_results([runs], 'ood-oracle', 'ece').cells
    assert set(oracle['lr']) == {1e-2}


def test_the_best_rate_is_that_with_the_lowest_error(runs):
    losses = lr_sensitivity(lr_curves(read_results([runs], metric='ece').runs), 'ece').set_index('method')
    assert losses['id_step_loss'].to_dict() == pytest.approx({'sgd': 10.0, 'freeze-embed': 10.0})
    assert losses['id_mean_loss'].to_dict() == pytest.approx({'sgd': 5.0, 'freeze-embed': 5.0})


def test_tools_name_the_metric_in_tables_figures_and_the_page(runs, tmp_path, run_tool, monkeypatch):
    def save(figure, path, **options):  # drawing is tested below, and rendering elsewhere
        Path(path).parent.mkdir(exist_ok=True)
        Image.new('RGB', (1, 1)).save(path)
        return Path(path)

    monkeypatch.setattr('ftsgd_plugin.results.plots.save_figure', save)
    assert run_tool('tables', runs, '--metric', 'ece', '--out', tmp_path / 'out')[0] == 0
    assert 'rule: epoch and learning rate selected by ID expected calibration error.' in run_tool.stdout
    assert 'ID expected calibration error, mean over the grid' in run_tool.stdout
    text = (tmp_path / 'out/tables.txt').read_text()
    assert 'OOD expected calibration error (%); epoch and learning rate selected by ID expected cal' in text
    assert '10.5 ± 0.8' in text and 'accuracy (%)' not in text
    assert (tmp_path / 'out/learning_rates.png').is_file()
    lines = [line for line in (tmp_path / 'out/tables.csv').read_text().splitlines() if not line.startswith('#')]
    assert {row['method']: float(row['lr']) for row in csv.DictReader(lines)} == {'sgd': 1e-2, 'freeze-embed': 1e-2}
    assert run_tool('report', runs, '--metric', 'ece', '-o', tmp_path / 'report.html')[0] == 0
    page = (tmp_path / 'report.html').read_text()
    assert "not the paper's rule: epoch and learning rate selected by ID expected calibration error" in page
    assert 'Expected calibration error against memory' in page and 'the best ID expected calibration error' in page


def test_figures_name_the_metric(runs, tmp_path, monkeypatch):
    labels = []

    def keep(figure, path, **options):
        for axes in figure.axes:
            labels.extend([axes.get_xlabel(), axes.get_ylabel()])
        labels.append(figure.get_suptitle())
        return Path(path)

    monkeypatch.setattr('ftsgd_plugin.results.plots.save_figure', keep)
    assert len(draw_results(read_results([runs], metric='ece'), tmp_path)) == 3
    said = ' '.join(labels)
    assert 'ID expected calibration error (%)' in said and 'OOD expected calibration error (%)' in said
    assert not re.search('accuracy', said)


def test_runs_without_the_metric_are_left_out_and_say_what_gives_it(runs, tmp_path):
    write_record(record(seed=9), tmp_path / 'old')
    found = collect([runs, tmp_path], 'ece')
    assert len(found.runs) == 8
    (line,) = found.unreadable.values()
    assert "no id/ece in some epoch; a run has it if its evaluator is GroupAccuracy with items=('ece',)" in line
    assert len(collect([runs, tmp_path]).runs) == 9
    assert '8 runs selected their best checkpoint by id/ece; here their epochs are selected by id/accuracy.' in (
        collect([runs]).warnings
    )


def test_records_of_version_0_1_0_have_accuracies_only():
    old = ROOT / 'tests/assets/version_0_1_0/sweep'
    assert len(collect([old]).runs) == 8
    assert not collect([old], 'balanced_accuracy').runs
    assert 'no id/balanced_accuracy' in write_tables([old], metric='balanced_accuracy')


def test_an_unknown_metric_is_one_line(runs, run_tool):
    code, err = run_tool('tables', runs, '--metric', 'acc')
    assert code == 2 and "invalid choice: 'acc'" in err
    with pytest.raises(UserError, match='no such directory'):
        read_results([runs / 'absent'], metric='ece')
