"""A signal stops a training where it can be resumed bit by bit, with one line and the exit code 128 + its number.

A hook sends the signal at one moment; the resumed run equals one that was never stopped.
"""

import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, unique_name
from helpers.send_signal import SENT

from ftsgd_plugin.records import read_record
from ftsgd_plugin.utils.signals import STOP_SIGNALS, ShieldedWorker, StopSignals, shield_workers

PER_EPOCH, EPOCHS = 4, 2


@pytest.fixture(scope='module')
def project(make_project):
    return make_project('signals')


@pytest.fixture
def train(project, run_tool, monkeypatch):
    """Train: ``train(name, words, signals, moment, at, more, **options)`` gives the exit code and stderr."""

    def run(name: str, words=(), signals=(), moment='never', at=0, more='', **options) -> tuple[int, str]:
        monkeypatch.chdir(project)
        # As in a terminal: under nohup, and behind a shell's &, these signals are ignored, and so by the training.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        config = project / 'config.py'
        config.write_text(
            f'_base_ = {str(ROOT / "configs/vit-tiny_freeze-embed_digits.py")!r}\n'
            'model = dict(backbone=dict(drop_rate=0.1))\n'
            f'train_cfg = dict(max_epochs={EPOCHS})\n'
            f'train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(indices={4 * PER_EPOCH}))\n'
            'val_dataloader = dict(batch_size=8, num_workers=0)\n'
            "custom_hooks = [dict(type='ResourceHook'), dict(type='RunRecordHook'), "
            f"dict(type='SendSignal', numbers={list(signals)}, moment={moment!r}, at={at})]\n{more}\n"
        )
        small = {f'val_dataloader.dataset.datasets.{i}.indices': 16 for i in (0, 1)}
        given = [f'{key}={value}' for key, value in {**small, 'experiment_name': unique_name(), **options}.items()]
        return run_tool('train', config, '--work-dir', name, *words, '--cfg-options', *given)

    return run


def outcome(work_dir: Path, file: str = f'epoch_{EPOCHS}.pth') -> dict:
    content = torch.load(work_dir / file, weights_only=True)
    record = read_record(work_dir)
    return dict(
        weights=content['state_dict'],
        momentum=content['optimizer']['state'],
        position=(content['meta']['epoch'], content['meta']['iter']),
        schedulers=content['param_schedulers'],
        epochs=record.epochs,
        status=record.status,
    )


def resumed_outcome(train, project, name: str, **options) -> dict:
    code, err = train(name, ['--resume'], **options)
    assert code == 0, err
    return outcome(project / name)


def assert_same(one, other, where='') -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key], f'{where}/{key}')
    else:
        assert one == other, where


@pytest.fixture
def straight(train, project):
    """The outcome of the run that is never stopped; trained once."""
    if not (project / 'straight').exists():
        code, err = train('straight')
        assert code == 0, err
    return outcome(project / 'straight')


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if 'interrupted' in line or 'Traceback' in line or 'rror' in line]


@pytest.mark.parametrize(
    'number, moment, at, file',
    [
        ('SIGTERM', 'training', 6, 'iter_6.pth'),
        pytest.param('SIGUSR1', 'training', 4, 'iter_4.pth', marks=pytest.mark.slow),  # the last iteration of an epoch
        pytest.param('SIGHUP', 'validation', 4, 'epoch_1.pth', marks=pytest.mark.slow),
        pytest.param('SIGINT', 'saving', 4, 'epoch_1.pth', marks=pytest.mark.slow),
        pytest.param('SIGTERM', 'validation', 8, 'epoch_2.pth', marks=pytest.mark.slow),  # the last one
    ],
)
def test_a_signal_loses_nothing(train, straight, project, number, moment, at, file):
    name = f'{number}_{moment}_{at}'
    code, err = train(name, (), [number], moment, at)
    assert time.process_time() - SENT[-1] < 5  # of CPU time: other tests may share the machine
    assert code == 128 + getattr(signal, number), err
    (line,) = lines(err)
    assert line.startswith(f'interrupted by {number} at iteration {at}: ') and f'{name}/{file}' in line
    assert line.endswith('; continue with the same command and --resume')
    work_dir = project / name
    record = read_record(work_dir)
    assert (record.status, record.error, record.finished) == ('interrupted', line, '')
    assert torch.load(work_dir / file, weights_only=True)['meta']['iter'] == at
    assert (work_dir / 'last_checkpoint').read_text().endswith(file)
    assert_same(resumed_outcome(train, project, name), straight)
    assert not [*work_dir.glob('iter_*.pth')], 'removed after the next regular checkpoint'


@pytest.mark.slow  # like the first test, several trainings
def test_it_waits_for_the_update_of_an_accumulation_window(train, project):
    """Windows of 3 iterations in epochs of 4: a signal at 4 stops at 6, and the validation at 4 is not cut short."""
    options = {'optim_wrapper.accumulative_counts': 3, 'train_cfg.max_epochs': 2}
    assert train('accumulating', **options)[0] == 0
    for moment in ('training', 'validation'):
        code, err = train(moment, (), ['SIGTERM'], moment, 4, **options)
        assert code == 143 and 'at iteration 6: ' in lines(err)[0], err
        assert len(read_record(project / moment).epochs) == 1
    assert_same(resumed_outcome(train, project, 'training', **options), outcome(project / 'accumulating'))


@pytest.mark.slow  # like the first test, several trainings
def test_averaged_weights_are_not_taken_for_the_models_own(train, project):
    """EMAHook exchanges them during a validation; here no checkpoint of the epoch is on the disk."""
    options = {
        'more': "custom_hooks += [dict(type='EMAHook', momentum=0.3)]",
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.checkpoint.save_best': None,
    }
    assert train('averaging', **options)[0] == 0
    code, err = train('averaging_stopped', (), ['SIGTERM'], 'validation', 4, **options)
    assert code == 143 and '/averaging_stopped/iter_4.pth; ' in lines(err)[0]
    assert_same(resumed_outcome(train, project, 'averaging_stopped', **options), outcome(project / 'averaging'))


def test_before_the_first_step_it_ends_at_once(train, project):
    code, err = train('early', (), ['SIGTERM'], 'start')
    assert code == 143
    assert lines(err) == ['interrupted by SIGTERM before the first step: nothing is lost; start the same command again']
    assert not [*(project / 'early').glob('*.pth')]


@pytest.mark.slow  # like the first test, several trainings
def test_after_the_last_step_the_run_finishes(train, project):
    code, err = train('late', (), ['SIGTERM'], 'end', **{'train_cfg.max_epochs': 1})
    assert (code, lines(err)) == (0, []) and read_record(project / 'late').status == 'finished'


def test_ctrl_c_twice_ends_at_once(train, project):
    code, err = train('twice', (), ['SIGINT', 'SIGINT'], 'training', 2)
    assert (code, lines(err)) == (130, ['interrupted by SIGINT: ended at once, without saving'])
    assert not [*(project / 'twice').glob('*.pth')]


@pytest.mark.slow  # like the first test, several trainings
def test_several_requests_count_as_one_and_the_first_names_the_stop(train):
    code, err = train('several', (), ['SIGUSR1', 'SIGTERM', 'SIGTERM', 'SIGINT'], 'training', 2)
    assert code == 138 and len(lines(err)) == 1


@pytest.mark.slow  # like the first test, several trainings
def test_interrupted_twice_keeps_one_file(train, straight, project):
    for at in (2, 3):
        code, err = train('again', ['--resume'], ['SIGTERM'], 'training', at)
        assert code == 143, err
        assert [path.name for path in (project / 'again').glob('*.pth')] == [f'iter_{at}.pth']
    assert_same(resumed_outcome(train, project, 'again'), straight)


@pytest.mark.slow  # like the first test, several trainings
def test_an_iteration_loop_stops_and_resumes(train, project):
    more = (
        "train_cfg = dict(_delete_=True, type='ResumableIterTrainLoop', max_iters=6, val_interval=3)\n"
        'param_scheduler = dict(by_epoch=False)\n'
        'default_hooks = dict(checkpoint=dict(by_epoch=False, interval=3))'
    )
    assert train('iterations', more=more)[0] == 0
    code, err = train('iterations_stopped', (), ['SIGTERM'], 'training', 4, more=more)
    assert code == 143 and '/iterations_stopped/iter_4.pth; ' in lines(err)[0]
    assert train('iterations_stopped', ['--resume'], more=more)[0] == 0
    files = [outcome(project / name, 'iter_6.pth') for name in ('iterations', 'iterations_stopped')]
    assert_same(*files)
    assert not (project / 'iterations_stopped/iter_4.pth').exists()
    code, err = train('iterations_due', (), ['SIGTERM'], 'training', 3, more=more)
    assert code == 143 and 'iterations_due/iter_3.pth has all of it' in lines(err)[0]


@pytest.mark.parametrize(
    'more, what',
    [
        (
            "train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)",
            'nothing was saved since the start, as train_cfg.type=EpochBasedTrainLoop cannot resume within an epoch '
            '(ResumableEpochTrainLoop can)',
        ),
        pytest.param(
            'default_hooks = dict(checkpoint=None)',
            'no checkpoint was written, as the run has no checkpoint hook',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_saved_is_said(train, project, more, what):
    code, err = train('unsaved', (), ['SIGTERM'], 'training', 2, more=more)
    assert code == 143 and what in lines(err)[0]
    assert not [*(project / 'unsaved').glob('*.pth')]


@pytest.mark.slow  # like the first test, several trainings
def test_mmengines_own_checkpoint_hook_will_do(train, straight, project):
    more = "default_hooks = dict(checkpoint=dict(type='CheckpointHook', save_best=None))"
    code, err = train('stock_hook', (), ['SIGTERM'], 'training', 6, more=more)
    assert code == 143 and '/stock_hook/iter_6.pth; ' in lines(err)[0]
    assert_same(resumed_outcome(train, project, 'stock_hook', more=more), straight)


def test_signals_that_are_ignored_stay_ignored_and_the_handlers_are_restored():
    """``nohup`` ignores SIGHUP."""
    earlier = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signals.defer()
            signal.raise_signal(signal.SIGHUP)
            assert signals.received is None
            signal.raise_signal(signal.SIGUSR1)
            assert signals.received is signal.SIGUSR1
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == earlier


def test_data_workers_outlive_signals_to_the_whole_run():
    """Slurm signals every process of a step; the update in progress needs the workers. They end with their parent."""
    loader = torch.utils.data.DataLoader(range(6), num_workers=1, multiprocessing_context='fork', prefetch_factor=1)
    shield_workers(loader)
    shield_workers(loader)
    assert not isinstance(loader.worker_init_fn.init, ShieldedWorker)
    batches = iter(loader)
    assert next(batches).item() == 0
    (worker,) = batches._workers
    for number in STOP_SIGNALS:
        # From another process: SIGTERM from the parent is how torch ends a worker.
        subprocess.run(['kill', f'-{number.value}', str(worker.pid)], check=True)
    assert [batch.item() for batch in batches] == [1, 2, 3, 4, 5]
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
