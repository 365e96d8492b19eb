"""tools/demo.py --digits from the sweep to the pages; what the options of the two demos are."""

import json
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.stub_records import record_of
from PIL import Image

from ftsgd_plugin import config_path
from ftsgd_plugin.records import write_record
from ftsgd_plugin.sweep.runs import survey


@pytest.fixture
def pages(monkeypatch) -> dict[str, tuple]:
    """Arguments of the calls that would measure the demo's model."""
    calls = {}

    def diagnose(config, out, cfg_options=None, command=''):
        calls['diagnosis'] = (config, out, cfg_options)

    def compare(configs, steps, rounds, out, command=''):
        calls['resources'] = (configs, out)

    monkeypatch.setattr('ftsgd_plugin.sweep.demo.write_diagnosis', diagnose)
    monkeypatch.setattr('ftsgd_plugin.sweep.demo.compare_resources', compare)
    return calls


def leave_records(plan, out, cfg_options, workers, forked) -> list:
    """What a sweep without failures leaves."""
    assert forked and cfg_options == {'image_cache': f'{out}/image_cache'}
    for task in survey(plan, out):
        task.directory.mkdir(parents=True)
        write_record(record_of(task), task.directory)
    return []


OPTIONS = ('--digits', '--methods', 'freeze-embed', '--seeds', '0', '--epochs', '2')


def assert_compared(out: Path) -> None:
    """One method, one seed, three runs of two epochs."""
    (line,) = json.loads((out / 'summary.json').read_text())
    assert line['method'] == 'freeze-embed' and len(line['lrs']) == 3 and line['seeds'] == [0]
    for key in ('id', 'ood', 'ood_worst'):
        mean, error = line[key]
        assert 0 <= mean <= 1 and error is None
    assert line['state_bytes_per_param'] == pytest.approx(4 * 301_314 / 313_666)
    assert Image.open(out / 'demo.png').size[0] > 1000
    assert (out / 'report.html').stat().st_size > 10_000
    assert len(list((out / 'runs').glob('vit-tiny_freeze-embed_digits_lr*_seed0'))) == 3
    assert [len(run['epochs']) for run in json.loads((out / 'records.json').read_text())] == [2, 2, 2]


def test_demo_compares_what_the_sweep_left(run_tool, pages, digits_root, tmp_path, monkeypatch):
    monkeypatch.setattr('ftsgd_plugin.sweep.demo.run_sweep', leave_records)
    code, err = run_tool('demo', '--data', digits_root, '--out', tmp_path, *OPTIONS)
    assert code == 0, err
    assert_compared(tmp_path)
    config = config_path('vit-tiny_freeze-embed_digits')
    root = {'train_dataloader.dataset.data_root': str(digits_root)}
    assert pages == {
        'diagnosis': (config, tmp_path / 'diagnosis', root),
        'resources': ([config], tmp_path / 'resources'),
    }
    assert f'written: {tmp_path}/summary.json' in run_tool.stdout


@pytest.mark.slow
@pytest.mark.multiprocess
def test_demo_trains_and_writes_every_page(run_forked, digits_root, tmp_path):
    result = run_forked('tools/demo.py', '--data', digits_root, '--out', tmp_path, *OPTIONS, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert '[ 3/3] vit-tiny_freeze-embed_digits_lr' in result.stdout and 'eta 0:00' in result.stdout
    assert_compared(tmp_path)
    for page in ('diagnosis/diagnosis.html', 'resources/resources.png'):
        assert (tmp_path / page).stat().st_size > 10_000


@pytest.mark.parametrize('option', ['--workers', '--epochs'])
@pytest.mark.parametrize('value', ['0', '-1', 'x'])
def test_count_that_is_not_positive_is_a_usage_error(run_tool, tmp_path, option, value):
    code, err = run_tool('demo', option, value, '--out', tmp_path / 'out')
    assert code == 2 and err.startswith('usage: demo.py')
    assert err.splitlines()[-1] == f"demo.py: error: argument {option}: '{value}' is not a positive whole number"
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('options', [(), ('--digits',)])
def test_file_in_the_place_of_the_results_is_one_line_and_stays(run_tool, tmp_path, options):
    (tmp_path / 'notes').write_text('precious')
    for out, message in (('notes', 'File exists'), ('notes/demo', 'Not a directory')):
        code, err = run_tool('demo', *options, '--out', tmp_path / out)
        assert (code, err) == (2, f'error: {tmp_path / out}: {message}; correct the path or its permissions.\n')
    assert (tmp_path / 'notes').read_text() == 'precious'


def test_failing_run_is_one_line(run_tool, digits_root, tmp_path, monkeypatch):
    """The first failure and the number of the others; nothing is summarised."""
    failures = [('a_lr1', 'train/1_2.png: image not found'), ('b_lr1', 'b'), ('c_lr1', 'c')]
    monkeypatch.setattr('ftsgd_plugin.sweep.demo.run_sweep', lambda *args, **kwargs: failures)
    out = tmp_path / 'out'
    code, err = run_tool('demo', '--digits', '--data', digits_root, '--out', out, '--methods', 'sgd')
    assert code == 2
    line = f'error: a_lr1: train/1_2.png: image not found (and 2 more); its log is in {out}/runs/a_lr1.'
    assert err.splitlines()[-1] == line
    assert not (out / 'summary.json').exists()


@pytest.mark.parametrize(
    'options, message',
    [
        (('--seeds', '0', '1'), '--seeds needs --digits'),
        (('--methods', 'sgd'), '--methods needs --digits'),
        (('--epochs', '3'), '--epochs needs --digits'),
        (('--digits', '--weights', 'a.pth'), '--weights is not of the digits'),
    ],
)
def test_option_of_the_other_demo_is_a_usage_error(run_tool, tmp_path, options, message):
    code, err = run_tool('demo', *options, '--out', tmp_path / 'out')
    assert code == 2 and err.splitlines()[-1] == f'demo.py: error: {message}'
    assert not (tmp_path / 'out').exists()


def test_options_reach_the_demo_they_are_of(run_tool, monkeypatch):
    calls = []
    monkeypatch.setattr('ftsgd_plugin.sweep.demo.run_demo', lambda *args: calls.append(args))
    monkeypatch.setattr('ftsgd_plugin.sweep.real_demo.run_real_demo', lambda *args: calls.append(args))
    assert run_tool('demo') == run_tool('demo', '--digits') == (0, '')
    assert run_tool('demo', '--out', 'a', '--data', 'b', '--weights', 'c', '--workers', '2')[0] == 0
    assert [call[:-1] for call in calls] == [
        (None, 'data/elpv', None, None),
        ('work_dirs/demo', 'data/digits', None, None, None, None),
        ('a', 'b', 'c', 2),
    ]
    assert calls[2][-1] == 'python tools/demo.py --out a --data b --weights c --workers 2'
