"""One training at a time in a work directory; a lock that nobody holds any more is taken over."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from helpers import ROOT

from ftsgd_plugin.utils import locks
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.locks import LOCK, lock_directory

HOLD = (
    'import sys, time\nfrom ftsgd_plugin.utils.locks import lock_directory\n'
    'with lock_directory(sys.argv[1]):\n    print("held", flush=True), time.sleep(600)\n'
)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of ``tmp_path``."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()
    process.wait()


def test_the_holder_is_named_and_a_killed_one_holds_nothing(other, tmp_path):
    named = (
        rf'{re.escape(str(tmp_path))}: process {other.pid} on {re.escape(socket.gethostname())} \(since 2\S+\) trains '
        r'there; wait for it, end it, choose another --work-dir\.'
    )
    with pytest.raises(UserError, match=named), lock_directory(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text().startswith(f'{other.pid} ')
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert (tmp_path / LOCK).exists()
    with lock_directory(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f'{os.getpid()} ')
    assert not os.listdir(tmp_path)


def test_the_same_process_may_not_train_there_twice_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, '_WORKERS_SECONDS', 0)
    with lock_directory(tmp_path), pytest.raises(UserError, match='trains there'), lock_directory(tmp_path):
        pass


def test_a_directory_that_was_made_for_a_run_which_failed_at_once_is_removed(tmp_path):
    with lock_directory(tmp_path / 'new/run'):
        assert (tmp_path / 'new/run' / LOCK).is_file()
    assert not (tmp_path / 'new/run').exists()
    (tmp_path / 'old').mkdir()
    with lock_directory(tmp_path / 'old'):
        pass
    assert (tmp_path / 'old').is_dir()


@pytest.mark.parametrize('missing', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_of_the_file_system_the_file_is_the_lock(tmp_path, monkeypatch, missing):
    monkeypatch.setattr('fcntl.flock', lambda *_: (_ for _ in ()).throw(OSError(missing, 'no locks')))
    path, host = tmp_path / LOCK, socket.gethostname()
    ended = subprocess.Popen(['true'])
    ended.wait()
    for stale in ('', f'{ended.pid} {host} 2026-01-01T00:00:00+00:00\n', 'not a holder\n'):
        path.write_text(stale)
        with lock_directory(tmp_path):
            assert path.read_text().startswith(f'{os.getpid()} {host} ')
    for pid, machine in ((1, host), (ended.pid, 'another-machine')):
        path.write_text(f'{pid} {machine} 2026-01-01T00:00:00+00:00\n')
        with (
            pytest.raises(UserError, match=rf'process {pid} on {machine} .* or remove .*{LOCK} if that process'),
            lock_directory(tmp_path),
        ):
            pass
        assert path.exists()


def test_without_locks_the_process_of_another_user_holds_its_directory(tmp_path, monkeypatch):
    def fail(error: OSError):
        raise error

    monkeypatch.setattr('fcntl.flock', lambda *_: fail(OSError(errno.ENOSYS, 'no locks')))
    monkeypatch.setattr(os, 'kill', lambda *_: fail(PermissionError(errno.EPERM, 'not yours')))
    (tmp_path / LOCK).write_text(f'123 {socket.gethostname()} 2026-01-01T00:00:00+00:00\n')
    with pytest.raises(UserError, match=r'process 123 on .* trains there'), lock_directory(tmp_path):
        pass


def test_a_lock_that_its_holder_has_just_removed_is_made_again(tmp_path, monkeypatch):
    """A lock on a file that has no name any more would keep nobody out."""
    take, taken = locks.try_lock, []

    def remove_first(descriptor):
        if not taken:
            (tmp_path / LOCK).unlink()
        taken.append(take(descriptor))
        return taken[-1]

    monkeypatch.setattr(locks, 'try_lock', remove_first)
    with lock_directory(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f'{os.getpid()} ')
    assert taken == [True, True]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'pwrite', lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'No space left')))
    named = rf'{LOCK}: cannot be written \(No space left\); make room'
    with pytest.raises(UserError, match=named), lock_directory(tmp_path):
        pass


@pytest.mark.parametrize('variables, holds', [({}, True), ({'RANK': '0'}, True), ({'RANK': '1'}, False)])
def test_rank_0_alone_locks_the_directory_of_a_training(tmp_path, monkeypatch, run_tool, digits_root, variables, holds):
    """Refused before anything is read but the config; the other ranks are ended by their launcher."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr('ftsgd_plugin.utils.cli.os._exit', sys.exit)
    monkeypatch.setattr('ftsgd_plugin.utils.cli.PATIENCE_SECONDS', 0)
    monkeypatch.setattr(locks, '_WORKERS_SECONDS', 0)
    config = ROOT / 'configs/vit-tiny_sgd_digits.py'
    absent = ['--cfg-options', 'load_from=absent.pth']
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits_root)
    monkeypatch.chdir(tmp_path)
    with lock_directory(tmp_path / 'run'):
        code, err = run_tool('train', config, '--work-dir', tmp_path / 'run', *absent)
    assert code == 2 and err.count('error: ') == 1
    assert ('trains there' in err) == holds and ('absent.pth' in err) != holds
