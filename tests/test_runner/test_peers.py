"""What 2 and 4 ranks know about each other, in threads of this process; in processes of their own in the slow tests."""

import contextlib
import itertools
import multiprocessing
import os
import re
import signal
import threading
import time

import pytest
import torch
from helpers import free_port
from helpers.demo_run import CONFIG, write_child
from torch.distributed import FileStore

from ftsgd_plugin.records import read_record
from ftsgd_plugin.runner import peers
from ftsgd_plugin.runner.failures import explain
from ftsgd_plugin.runner.peers import Peers
from ftsgd_plugin.runner.process_group import collective_timeout
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.signals import Interrupted, StopSignals


@pytest.fixture
def ranks_of(tmp_path, monkeypatch):
    """Ranks over one store, with a short period: ``ranks_of(count, timeout)``; closed at the end of the test."""
    monkeypatch.setattr(peers, 'PERIOD', 0.02)
    monkeypatch.setattr(peers, 'LOST_SECONDS', 0.5)
    monkeypatch.setattr(peers, '_groups', itertools.repeat(0))
    opened = []

    def make(count: int = 2, timeout: float = 60.0) -> list[Peers]:
        store = FileStore(str(tmp_path / 'store'), count)
        opened.extend(Peers(StopSignals(), timeout, store, rank, count) for rank in range(count))
        for one in opened:
            one.__enter__()
        return opened

    yield make
    for one in opened:
        one.__exit__(None, None, None)


def updates_until_stop(ranks: list[Peers], signalled: dict[int, float], lag: float = 0.0) -> list[tuple[int, int]]:
    """Train in threads; rank r gets SIGTERM after ``signalled[r]`` s. The update and the signal at which each stops.

    A rank finishes an update only after all have begun it, as collectives have it; ``lag`` holds back the later ranks.
    """
    barrier, stopped, start = threading.Barrier(len(ranks)), [None] * len(ranks), time.monotonic()

    def train(rank: int) -> None:
        for update in range(1, 10_000):
            if rank in signalled and time.monotonic() - start > signalled[rank]:
                ranks[rank].signals.received = signal.SIGTERM
            time.sleep(0.001 + lag * rank)
            barrier.wait(20)
            if (number := ranks[rank].agree()) is not None:
                stopped[rank] = (update, number)
                return

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return stopped


@pytest.mark.parametrize(
    'count, signalled, lag',
    [
        *[
            (2, {0: 0.05}, 0),
            (2, {1: 0.05}, 0),
            (2, {0: 0.05, 1: 0.06}, 0),
            (2, {0: 0.03}, 0.004),
            (2, {1: 0.0}, 0.004),
        ],
        *[(4, {0: 0.05}, 0), (4, {2: 0.05}, 0.002), (4, {1: 0.05, 3: 0.06}, 0), (4, {3: 0.0}, 0.002)],
    ],
)
def test_ranks_stop_at_the_same_update_whoever_got_the_signal(ranks_of, count, signalled, lag):
    first, *others = updates_until_stop(ranks_of(count), signalled, lag)
    assert others == [first] * (count - 1) and first[1] == signal.SIGTERM


def test_without_a_signal_a_step_looks_at_an_attribute(ranks_of):
    ranks = ranks_of()
    start = time.process_time()
    assert all(ranks[0].agree() is None for _ in range(10_000))
    assert (time.process_time() - start) / 10_000 < 20e-6  # with the two threads that share the interpreter


def test_the_others_hear_of_a_stop_and_wait_for_what_rank_0_saves(ranks_of):
    ranks = ranks_of()
    ranks[1].signals.received = signal.SIGUSR1
    saved = []
    waiting = threading.Thread(target=lambda: (ranks[1].wait_for_save(), saved.append(len(saved))))
    waiting.start()
    deadline = time.monotonic() + 10
    while ranks[0].wanted() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ranks[0].wanted() == signal.SIGUSR1 and not saved
    ranks[0].wait_for_save()
    waiting.join(10)
    assert saved


@pytest.mark.parametrize('count', [2, 4])
def test_a_rank_that_has_ended_is_named(ranks_of, count):
    ranks = ranks_of(count)
    time.sleep(0.2)
    assert ranks[0].lost() is None
    assert explain(ValueError('a bug'), ranks[0]) is None
    ranks[1].__exit__(None, None, None)
    error = explain(RuntimeError('Connection closed by peer'), ranks[0])
    assert isinstance(error, UserError)
    assert str(error).startswith(f'rank 1 (process {os.getpid()} on ') and str(error).endswith('--resume.')
    assert 'rank 2' not in str(error) and 'rank 3' not in str(error)
    assert explain(UserError('a.py: wrong; correct it.'), ranks[0]) is None


@pytest.mark.parametrize('first', [0, 3])
def test_ranks_that_end_because_of_a_lost_one_are_not_named(ranks_of, first):
    """The first to notice ends too, before the others' collectives fail."""
    ranks = ranks_of(4)
    time.sleep(0.2)
    ranks[1].__exit__(None, None, None)
    lines = [str(explain(RuntimeError('Connection closed by peer'), ranks[first]))]
    for rank in (first, 2, 3 - first):
        if rank != first:
            lines.append(str(explain(RuntimeError('Connection closed by peer'), ranks[rank])))
        ranks[rank].__exit__(None, None, None)
        time.sleep(0.7)  # longer than a rank may be silent
    assert len(set(lines)) == 1 and lines[0].startswith(f'rank 1 (process {os.getpid()} on '), lines
    assert 'rank 2' not in lines[0]


def test_a_failed_collective_after_a_signal_is_the_stop(ranks_of, monkeypatch):
    ranks = ranks_of()
    ranks[0].signals.received = signal.SIGTERM
    error = explain(RuntimeError('Connection closed by peer'), ranks[0])
    assert isinstance(error, Interrupted) and error.code == 143 and 'SIGTERM' in error.message
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', '1')  # it reports
    assert explain(RuntimeError('Connection closed by peer'), ranks[0]).message == ''


def test_a_rank_that_its_launcher_ends_after_another_has_failed_says_nothing(ranks_of, monkeypatch):
    """The failed rank has reported; its silence looks like a loss until the launcher's signal is here."""
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', '1')
    ranks = ranks_of()
    time.sleep(0.2)
    ranks[1].__exit__(None, None, None)
    launcher = threading.Timer(0.3, lambda: setattr(ranks[0].signals, 'received', signal.SIGTERM))
    launcher.start()
    error = explain(RuntimeError('Connection closed by peer'), ranks[0])
    launcher.join()
    assert isinstance(error, Interrupted) and error.message == ''


def test_a_silent_rank_is_named_and_ends_the_run_at_the_time_out(ranks_of, monkeypatch, capsys):
    codes = []

    def end(code: int) -> None:
        codes.append(code)
        raise RuntimeError  # ends the thread

    monkeypatch.setattr(peers.os, '_exit', end)
    monkeypatch.setattr(peers, 'SILENT_SECONDS', 0.3)
    ranks = ranks_of(timeout=1.5)
    time.sleep(0.2)
    ranks[1].__exit__(None, None, None)
    deadline = time.monotonic() + 20
    while not codes and time.monotonic() < deadline:
        time.sleep(0.05)
    warning, error = capsys.readouterr().err.splitlines()
    assert codes == [2]
    assert warning.startswith('warning: rank 1 (process ') and 'no sign of life for 0.3 s' in warning
    assert warning.endswith('the run ends after 1.5 s (env_cfg.dist_cfg.timeout)')
    assert error.startswith('error: rank 1 (process ') and 'is lost: killed' in error


def test_time_out_of_collectives():
    assert collective_timeout({}) == 600 and collective_timeout({'timeout': 30}) == 30
    for bad in ('30', 0, -1, True, float('inf'), float('nan'), None):
        with pytest.raises(UserError, match=r'env_cfg\.dist_cfg\.timeout=.* is not a positive number of seconds'):
            collective_timeout({'timeout': bad})


SMALL = (
    '--cfg-options', 'train_cfg.max_epochs=2', 'train_dataloader.dataset.indices=64', 'train_dataloader.batch_size=4',
    'val_dataloader.dataset.datasets.0.indices=24', 'val_dataloader.dataset.datasets.1.indices=24',
)  # fmt: skip


def sending(directory, name: str, **options):
    """The demo's config with ``SendSignal``."""
    hooks = "[dict(type='ResourceHook'), dict(type='RunRecordHook'), "
    return write_child(
        directory,
        f'{name}.py',
        "custom_imports = dict(imports=['ftsgd_plugin', 'helpers.send_signal'])\n"
        f"custom_hooks = {hooks}dict(type='SendSignal', **{options!r})]",
    )


@pytest.mark.parametrize(
    'number, line',
    [
        (
            'SIGKILL',
            r'was killed by signal 9 \(SIGKILL\), usually because memory ran out; lower train_dataloader\.num_workers '
            r'or batch_size; continue with the same command and --resume\.',
        ),
        pytest.param(
            'SIGBUS',
            r'was killed by signal 7 \(SIGBUS\), usually because shared memory \(/dev/shm\) is full; ',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_killed_data_worker_is_one_line(run_tool, digits_root, tmp_path, monkeypatch, number, line):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits_root)
    monkeypatch.chdir(tmp_path)
    config = sending(tmp_path, 'killed', numbers=[number], moment='training', at=1, worker=True)
    options = [*SMALL, 'train_dataloader.num_workers=1', 'train_dataloader.persistent_workers=False']
    code, err = run_tool('train', config, '--work-dir', 'work', *options)
    errors = [text for text in err.splitlines() if text.startswith('error: ')]
    assert code == 2 and len(errors) == 1 and 'Traceback' not in err, err
    assert re.search(r'error: data worker \d+ ' + line, errors[0])


@pytest.fixture
def start_ranks(start_forked, tmp_path, digits_root):
    """Start a training; nobody ends a rank when another fails: ``start_ranks(count, config, *words)``."""
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits_root)

    def start(count, config, *words):
        shared = dict(WORLD_SIZE=count, LOCAL_WORLD_SIZE=count, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
        return [
            start_forked(
                'tools/train.py', config, '--launcher', 'pytorch', *words, cwd=tmp_path,
                output=tmp_path / f'{time.monotonic()}', RANK=rank, LOCAL_RANK=rank, **shared,
            )
            for rank in range(count)
        ]  # fmt: skip

    return start


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize('count, signalled', [(2, (0, 1)), (4, (0, 2))])
def test_ranks_stop_for_a_signal_to_one_and_resume_exactly(start_ranks, tmp_path, count, signalled):
    """Two ranks bit by bit; the sums over four may be taken in another order after the resume."""
    tolerance = dict(rtol=0, atol=0 if count == 2 else 1e-6)
    for rank in signalled:
        config = sending(tmp_path, f'rank{rank}', numbers=['SIGTERM'], moment='training', at=3, rank=rank)
        results = [one.result() for one in start_ranks(count, config, '--work-dir', f'rank{rank}', *SMALL)]
        assert [result.returncode for result in results] == [143] * count, results
        lines = ''.join(result.stderr for result in results).splitlines()
        (line,) = [line for line in lines if 'interrupted' in line or 'rror' in line]
        assert 'interrupted by SIGTERM at iteration ' in line
        assert read_record(tmp_path / f'rank{rank}').status == 'interrupted'
        results = [one.result() for one in start_ranks(count, CONFIG, '--work-dir', f'rank{rank}', '--resume', *SMALL)]
        assert [result.returncode for result in results] == [0] * count, results
    assert all(one.result().returncode == 0 for one in start_ranks(count, CONFIG, '--work-dir', 'straight', *SMALL))
    straight, *stopped = (
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True)
        for name in ('straight', *(f'rank{rank}' for rank in signalled))
    )
    for other in stopped:
        assert other['meta']['iter'] == straight['meta']['iter'] == 2 * 64 // (4 * count)
        for key, value in straight['state_dict'].items():
            torch.testing.assert_close(other['state_dict'][key], value, **tolerance, msg=key)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize('count, rank', [(2, 0), (2, 1), (4, 0), (4, 2)])
@pytest.mark.parametrize('number', ['SIGKILL', 'SIGSTOP'])
def test_a_lost_rank_is_one_line(start_ranks, tmp_path, count, rank, number):
    """On the others, of which none names a rank that has only ended because of it; torch adds warnings of its store."""
    config = sending(tmp_path, 'lost', numbers=[number], moment='training', at=3, rank=rank)
    ranks = start_ranks(count, config, '--work-dir', 'lost', *SMALL, 'env_cfg.dist_cfg.timeout=10')
    lost = ranks.pop(rank)
    results = [one.result() for one in ranks]
    with contextlib.suppress(ProcessLookupError):
        os.kill(lost.pid, signal.SIGKILL)
    texts = [result.stderr for result in results]
    assert [result.returncode for result in results] == [2] * (count - 1), texts
    lines = [[line for line in text.splitlines() if line.startswith('error: ')] for text in texts]
    assert max(map(len, lines)) == 1 and 'Traceback' not in ''.join(texts), texts
    for line in itertools.chain(*lines):
        named = re.findall(r'rank (\d+) \(', line)
        assert 'is lost' in line and set(named) <= {str(rank)}, texts
        assert named or 'rank 0 or the launcher' in line


def test_a_killed_data_worker_is_named_though_torchs_handler_raises_again(monkeypatch):
    child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))
    child.start()
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    replace, before, raised = signal.signal, signal.getsignal(signal.SIGCHLD), []

    def raise_once(*args):
        if not raised:
            raised.append(True)
            raise RuntimeError('DataLoader worker is killed by signal: Killed.')
        return replace(*args)

    class HalfMade:  # as the signal met a temporary file once
        def __getattr__(self, name):
            raise KeyError(name)

        def fail(self):
            raise RuntimeError('Pin memory thread exited unexpectedly')

    with pytest.raises(RuntimeError) as failure:
        HalfMade().fail()
    monkeypatch.setattr(signal, 'signal', raise_once)
    error = explain(failure.value, None)
    replace(signal.SIGCHLD, before)
    assert raised and f'data worker {child.pid} was killed by signal 9 (SIGKILL)' in str(error)
