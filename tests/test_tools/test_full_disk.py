"""A full disk is one line with the file and exit code 2; no temporary file is left, and an older file is whole."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, unique_name
from helpers.full_disk import full_disk
from helpers.stub_records import record_of
from helpers.tiny_sweep import write_plan

from ftsgd_plugin.records import write_record
from ftsgd_plugin.sweep.plan import read_plan
from ftsgd_plugin.sweep.runs import survey
from ftsgd_plugin.utils.write_errors import write_failure

TRAINING = (
    '--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=32', 'train_dataloader.batch_size=8',
    'val_dataloader.dataset.datasets.0.indices=8', 'val_dataloader.dataset.datasets.1.indices=8',
    'default_hooks.logger.interval=1',
)  # fmt: skip


def snapshot(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob('*') if path.is_file()}


def assert_one_line(code: int, err: str, hit: list[str]) -> None:
    assert hit, 'nothing was written'
    errors = [line for line in err.splitlines() if 'rror' in line or 'Traceback' in line]
    assert code == 2 and len(errors) == 1, err
    name = Path(hit[-1]).name
    name = name[1 : -len('.tmp')] if name.endswith('.tmp') else name
    assert (
        errors[0].startswith('error: ') and f'{name}: cannot be written (No space left on device); make ' in errors[0]
    )


@pytest.fixture(scope='module')
def work_dir(make_project, run_forked):
    """A finished run, whose files no later failure may damage."""
    project = make_project('full')
    config = ROOT / 'configs/vit-tiny_sgd_digits.py'
    result = run_forked('tools/train.py', config, '--work-dir', 'work', *TRAINING, cwd=project)
    assert result.returncode == 0, result.stderr
    return project / 'work'


FAST = ('vit-tiny_sgd_digits.py', '*.log', 'scalars.json', 'last_checkpoint', 'train.lock')
SLOW = ('record.json', 'epoch_1.pth', 'best_*.pth', 'resources.json')


@pytest.mark.parametrize('pattern', [*FAST, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)])
def test_training(work_dir, run_tool, monkeypatch, pattern):
    """Everything that a training writes, in the directory of an earlier one."""
    monkeypatch.chdir(work_dir.parent)
    before = snapshot(work_dir)
    config = ROOT / 'configs/vit-tiny_sgd_digits.py'
    options = [*TRAINING, f'experiment_name={unique_name()}']
    if pattern == 'train.lock':
        monkeypatch.setattr(os, 'pwrite', lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(28))))
        code, err = run_tool('train', config, '--work-dir', 'work', *options)
        assert_one_line(code, err, ['train.lock'])
    else:
        with full_disk(pattern) as hit:
            code, err = run_tool('train', config, '--work-dir', 'work', *options)
        assert_one_line(code, err, hit)
    after = snapshot(work_dir)
    assert not [path for path in after if path.name.endswith('.tmp')]
    changed = [path for path, content in before.items() if after.get(path) != content]
    # Those before the failing one in this run are new and whole.
    failed = Path(hit[-1] if pattern != 'train.lock' else pattern).name.strip('.').removesuffix('.tmp')
    assert failed not in [path.name for path in changed]
    assert all(after.get(path) for path in changed)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Records of a sweep."""
    directory = tmp_path_factory.mktemp('records')
    plan = read_plan(str(write_plan(directory)))
    for task in survey(plan, directory / 'out'):
        task.directory.mkdir(parents=True)
        write_record(record_of(task), task.directory)
    return directory / 'out'


@pytest.mark.parametrize(
    'tool, words, pattern',
    [
        ('tables', ['{runs}', '--out', '{out}'], '*.csv'),
        ('tables', ['{runs}', '--out', '{out}'], '*.tex'),
        ('report', ['{runs}', '-o', '{out}/report.html'], 'report.html'),
        ('print_layers', ['{root}/configs/vit-tiny_sgd_digits.py', '--json', '{out}/layers.json'], 'layers.json'),
        ('sweep', ['{plan}', '--out', '{out}', '--slurm', '{out}/slurm'], 'sweep.sh'),
        ('sweep', ['{plan}', '--out', '{out}', '--slurm', '{out}/slurm'], 'plan.json'),
    ],
)
def test_tools(runs, run_tool, tmp_path, tool, words, pattern):
    out = tmp_path / 'out'
    out.mkdir()
    names = dict(runs=runs, out=out, root=ROOT, plan=write_plan(tmp_path))
    with full_disk(pattern) as hit:
        code, err = run_tool(tool, *(word.format(**names) for word in words))
    assert_one_line(code, err, hit)
    assert not [path for path in out.rglob('*') if path.name.endswith('.tmp') or path.name == Path(hit[-1]).name]


def test_standard_output(runs):
    """``tables.py > /dev/full``; the interpreter alone ends with exit code 120 and three lines."""
    with open('/dev/full', 'w') as full:
        result = subprocess.run(
            [sys.executable, ROOT / 'tools/tables.py', runs],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
        )
    assert result.returncode == 2
    assert result.stderr == (
        'error: standard output: cannot be written (No space left on device); make room or choose another directory.\n'
    )


def test_a_limit_of_the_file_size(tmp_path):
    """A real limit: the error of ``close`` names no file, the line does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / 'scalars.json'
    try:
        with pytest.raises(OSError) as failed, open(path, 'a') as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
            file.write('x' * 100)
            file.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failed.value.filename is None
    assert write_failure(failed.value).startswith(f'{path}: cannot be written (File too large); make room')


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    assert write_failure(ValueError('a bug')) is None
    with open(tmp_path / 'file', 'w') as file:
        try:
            file.write('x')
            raise ConnectionResetError(errno.ECONNRESET, 'Connection reset by peer')
        except OSError as error:
            assert write_failure(error) is None
