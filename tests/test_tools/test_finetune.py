"""tools/finetune.py: options reach the function; killed or interrupted, the same command continues."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT, TIMEOUT, process_environment, run_process

from ftsgd_plugin.checkpoint.io import read_weights
from ftsgd_plugin.records import read_record
from ftsgd_plugin.utils.errors import UserError


def test_options_reach_the_function(run_tool, monkeypatch):
    from ftsgd_plugin.finetune import run

    calls = []
    monkeypatch.setattr(run, 'finetune', lambda *call: calls.append(call))
    words = [
        *(
            'pets',
            '--model',
            'timm/vit',
            '--method',
            'sgd',
            '--hold-out',
            'a',
            'b',
            '--memory',
            '2GiB',
            '--time',
            '1h30m',
        ),
        *('--epochs', '3', '--lr', '0.1', '--batch-size', '8', '--image-size', '64', '--seed', '4', '--workers', '0'),
        *('--metric', 'id/macro_f1', '--pretrained', 'none', '--split-fractions', '0.8', '0.2', '--path-column', 'p'),
        *('--label-column', 'l', '--split-column', 's', '--group-column', 'g', '--work-dir', 'w', '--dry-run'),
        *('--split-names', '0=train', '1=val', '--whole', 'patient'),
    ]
    assert run_tool('finetune', *words) == (0, '')
    ((options, work_dir, dry_run, command),) = calls
    assert (work_dir, dry_run) == ('w', True) and command == 'python tools/finetune.py ' + ' '.join(words)
    assert options.as_data() == dict(
        data=options.as_data()['data'], model='timm/vit', method='sgd', hold_out=('a', 'b'), memory=2**31, time=5400.0,
        epochs=3, lr=0.1, batch_size=8, image_size=64, seed=4, metric='id/macro_f1', pretrained=False,
        split_fractions=(0.8, 0.2), path_column='p', label_column='l', split_column='s', group_column='g', workers=0,
        split_names=(('0', 'train'), ('1', 'val')), whole='patient',
    )  # fmt: skip
    assert run_tool('finetune', 'pets', '--model', 'timm/vit') == (0, '')
    options = calls[-1][0]
    assert (options.pretrained, options.method, options.split_fractions, calls[-1][1:3]) == (
        True,
        'auto',
        None,
        (None, False),
    )


@pytest.mark.parametrize(
    'words, said',
    [
        (['--time', '2'], "'2' is not a time; write it like 2h, 1h30m, 45min or 90s."),
        (['--memory', 'much'], "'much' is not a memory size"),
        (['--split-names', '0'], "'0' is not NAME=SPLIT"),
        (['--epochs', '0'], "'0' is not a positive whole number"),
        (['--metric', 'ood/accuracy'], 'selection sees in-distribution data only'),
        (['--model', 'vit-tinny'], "did you mean 'vit-tiny'"),
        (['--hold-out', 'skech'], "did you mean 'sketch'"),
    ],
)
def test_bad_input_is_named(run_tool, own_root, tmp_path, words, said):
    model = [] if '--model' in words else ['--model', 'vit-tiny']
    code, err = run_tool('finetune', own_root, *model, '--work-dir', tmp_path / 'a', *words)
    assert code == 2 and said in err.splitlines()[-1]
    assert not (tmp_path / 'a/training').exists()


def test_weights_that_do_not_fit_are_found_before_training(run_tool, own_root, tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save({'cls_token': torch.zeros(1, 1, 32)}, weights)
    words = ['--model', 'vit-tiny', '--pretrained', weights, '--work-dir', tmp_path / 'a']
    code, err = run_tool('finetune', own_root, *words)
    assert code == 2 and f'{weights} does not fit VisionTransformer' in err and err.count('\n') == 1
    assert not (tmp_path / 'a/search').exists() and not (tmp_path / 'a/training').exists()


def command(own_root, work_dir) -> list[str]:
    words = ['--model', 'vit-tiny', '--hold-out', 'sketch', '--split-fractions', '0.6', '0.2', '0.2', '--epochs', '4']
    return [
        str(ROOT / 'tools/finetune.py'),
        str(own_root),
        *words,
        '--batch-size',
        '2',
        '--workers',
        '0',
        '--work-dir',
        str(work_dir),
    ]


def start_until(words: list[str], reached, number: int, cwd) -> subprocess.Popen:
    """Start a command and send it a signal once ``reached()`` holds."""
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=cwd,
        env=process_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + TIMEOUT
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    return process


def epochs_of(run) -> int:
    """Evaluated epochs of a run that may not have begun."""
    try:
        return len(read_record(run).epochs)
    except UserError:
        return 0


@pytest.mark.slow
def test_killed_and_interrupted_it_goes_on_to_the_same_weights(own_root, tmp_path):
    """The true command, with the diagnosis and all rates: kill -9 in the search and in the training, then Ctrl-C."""
    whole = run_process(sys.executable, *command(own_root, tmp_path / 'whole'), cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    parts = tmp_path / 'parts'
    words = command(own_root, parts)
    for reached, number in (
        (lambda: (parts / 'search/lr1e-4/record.json').exists(), signal.SIGKILL),
        (lambda: epochs_of(parts / 'training') == 1, signal.SIGKILL),
        (lambda: epochs_of(parts / 'training') == 2, signal.SIGINT),
    ):
        process = start_until(words, reached, number, tmp_path)
        _, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert err.splitlines()[-1].endswith('nothing is lost: start the same command again to continue')
    finished = run_process(sys.executable, *words, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    results = [run.stdout.split('\nresult:  ')[1].partition(' (freeze-embed')[0] for run in (whole, finished)]
    assert results[0] == results[1]
    first, second = (read_record(tmp_path / name / 'training') for name in ('whole', 'parts'))
    assert (first.lr, first.epochs) == (second.lr, second.epochs) and len(first.epochs) == 4
    assert (tmp_path / 'whole/metrics.json').read_text() == (parts / 'metrics.json').read_text()
    weights = [
        read_weights(str(next((tmp_path / name / 'training').glob('epoch_4.pth')))) for name in ('whole', 'parts')
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())

    again = run_process(
        sys.executable, ROOT / 'tools/train.py', tmp_path / 'whole/config.py', '--work-dir', 'alone', cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr  # the config trains alone, to the same numbers
    assert read_record(tmp_path / 'alone').epochs == first.epochs
