"""tools/demo.py from the sweep to the pages."""

import json

import pytest
from helpers import ROOT
from PIL import Image


@pytest.fixture
def run_demo(run_forked):
    """Run tools/demo.py in a forked child, with stubs for the trainings or with ``real`` ones."""

    def run(*argv, real: bool = False):
        script = ['tools/demo.py'] if real else ['tests/helpers/with_stub_runs.py', 'demo.py']
        return run_forked(*script, *argv, cwd=ROOT)

    return run


@pytest.mark.multiprocess
@pytest.mark.parametrize('real', [False, pytest.param(True, marks=pytest.mark.slow)], ids=['stub', 'trained'])
def test_demo_writes_summary_and_figure(run_demo, digits_root, tmp_path, real):
    """A small demo: one method, one seed, three runs; slow: with true trainings."""
    result = run_demo(
        '--data', digits_root, '--out', tmp_path, '--methods', 'freeze-embed', '--seeds', '0', '--epochs', '2',
        real=real,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert '[ 3/3] vit-tiny_freeze-embed_digits_lr' in result.stdout and 'eta 0:00' in result.stdout
    (line,) = json.loads((tmp_path / 'summary.json').read_text())
    assert line['method'] == 'freeze-embed' and len(line['lrs']) == 3 and line['seeds'] == [0]
    for key in ('id', 'ood', 'ood_worst'):
        mean, error = line[key]
        assert 0 <= mean <= 1 and error is None
    assert line['state_bytes_per_param'] == pytest.approx(4 * 301_314 / 313_666)
    assert Image.open(tmp_path / 'demo.png').size[0] > 1000
    for page in ('diagnosis/diagnosis.html', 'resources/resources.png', 'report.html'):
        assert (tmp_path / page).stat().st_size > 10_000
    assert len(list((tmp_path / 'runs').glob('vit-tiny_freeze-embed_digits_lr*_seed0'))) == 3
    assert [len(run['epochs']) for run in json.loads((tmp_path / 'records.json').read_text())] == [2, 2, 2]


@pytest.mark.parametrize('option', ['--workers', '--epochs'])
@pytest.mark.parametrize('value', ['0', '-1', 'x'])
def test_count_that_is_not_positive_is_a_usage_error(run_tool, tmp_path, option, value):
    code, err = run_tool('demo', option, value, '--out', tmp_path / 'out')
    assert code == 2 and err.startswith('usage: demo.py')
    assert err.splitlines()[-1] == f"demo.py: error: argument {option}: '{value}' is not a positive whole number"
    assert not (tmp_path / 'out').exists()


def test_file_in_the_place_of_the_results_is_one_line_and_stays(run_tool, tmp_path):
    (tmp_path / 'notes').write_text('precious')
    for out, message in (('notes', 'File exists'), ('notes/demo', 'Not a directory')):
        code, err = run_tool('demo', '--out', tmp_path / out)
        assert (code, err) == (2, f'error: {tmp_path / out}: {message}; correct the path or its permissions.\n')
    assert (tmp_path / 'notes').read_text() == 'precious'


def test_failing_run_is_one_line(run_tool, digits_root, tmp_path, monkeypatch):
    """The first failure and the number of the others; nothing is summarised."""
    failures = [('a_lr1', 'train/1_2.png: image not found'), ('b_lr1', 'b'), ('c_lr1', 'c')]
    monkeypatch.setattr('ftsgd_plugin.sweep.demo.run_sweep', lambda *args, **kwargs: failures)
    out = tmp_path / 'out'
    code, err = run_tool('demo', '--data', digits_root, '--out', out, '--methods', 'sgd', '--seeds', '0')
    assert code == 2
    line = f'error: a_lr1: train/1_2.png: image not found (and 2 more); its log is in {out}/runs/a_lr1.'
    assert err.splitlines()[-1] == line
    assert not (out / 'summary.json').exists()
