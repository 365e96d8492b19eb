"""One run as a process: its last line, its log, and that it never outlives what started it."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import psutil
import pytest

from ftsgd_plugin.sweep import ray_backend as process
from ftsgd_plugin.sweep.ray_backend import run_process
from ftsgd_plugin.utils import locks


def run(directory: Path, code: str, **environment) -> tuple[int, str]:
    return run_process(['-c', code], str(directory), environment, str(directory))


@pytest.mark.parametrize(
    ('code', 'status', 'line'),
    [
        ('print("fine")', 0, ''),
        ('raise RuntimeError("no good")', 1, 'RuntimeError: no good'),
        ('import sys; sys.exit("error: a.py: wrong; correct it")', 1, 'a.py: wrong; correct it'),
        ('import sys; print("last words"); sys.exit(3)', 3, 'last words'),
        ('import os; os._exit(4)', 4, 'exit status 4'),
        ('import os; os.kill(os.getpid(), 9)', -9, 'killed by signal 9 (SIGKILL)'),
    ],
)
def test_status_and_last_line(tmp_path, code, status, line):
    (tmp_path / 'run.log').write_text('ValueError: of an earlier start\n')
    assert run(tmp_path, code) == (status, line)
    assert (tmp_path / 'run.log').read_text().startswith('ValueError: of an earlier start\n')


def test_environment_and_directory(tmp_path):
    code = 'import os; raise KeyError(os.environ["WORD"] + os.getcwd())'
    assert run(tmp_path, code, WORD='x') == (1, f"KeyError: 'x{tmp_path}'")


def alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


SLEEPER = 'import os, time; open("pid", "w").write(str(os.getpid())); time.sleep(600)'


def start_run(directory: Path, code: str) -> subprocess.Popen:
    """A process that runs ``code`` by ``run_process``."""
    arguments = f'["-c", {code!r}], {str(directory)!r}, {{}}, {str(directory)!r}'
    starter = f'from ftsgd_plugin.sweep.ray_backend import run_process; run_process({arguments})'
    return subprocess.Popen(
        [sys.executable, '-c', starter],
        cwd=Path(process.__file__).parents[2],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )


def written_pid(directory: Path) -> int:
    wait_until(lambda: (directory / 'pid').exists() and (directory / 'pid').read_text())
    return int((directory / 'pid').read_text())


@pytest.mark.parametrize('signal_number', [signal.SIGKILL, signal.SIGINT])
def test_a_run_dies_with_what_started_it(tmp_path, signal_number):
    """By kill -9 too, when nobody is left to end it."""
    parent = start_run(tmp_path, SLEEPER)
    child = written_pid(tmp_path)
    assert alive(child)
    parent.send_signal(signal_number)
    parent.wait(30)
    wait_until(lambda: not alive(child))


def test_two_processes_never_share_a_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(process, 'LOCK_SECONDS', 0.3)
    with process.hold_lock(tmp_path / 'run.lock', 0):
        assert run(tmp_path, 'print("fine")') == (1, 'another process is running it; end that one first')
    assert run(tmp_path, 'print("fine")') == (0, '')


def test_the_lock_is_held_until_the_last_process_of_a_run_has_ended(tmp_path):
    """After kill -9 of the starter a data worker may still live for a while."""
    parent = start_run(tmp_path, f'import os, time; os.fork() and time.sleep(600); {SLEEPER}')
    worker = written_pid(tmp_path)
    try:
        parent.kill()
        parent.wait(30)
        time.sleep(0.2)
        assert alive(worker)
        with pytest.raises(filelock.Timeout), process.hold_lock(tmp_path / 'run.lock', 0):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
    with process.hold_lock(tmp_path / 'run.lock', 10):
        pass


@pytest.mark.parametrize('missing', [None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_lock_file_that_was_left_behind_locks_nothing(tmp_path, monkeypatch, missing):
    """Of version 0.1.0 or of a killed process, also in a file system without flock."""
    path = tmp_path / 'run.lock'
    path.touch()
    if missing:
        monkeypatch.setattr('fcntl.flock', lambda *_: (_ for _ in ()).throw(OSError(missing, 'no locks')))
    for _ in range(2):
        with process.hold_lock(path, 0):
            assert path.read_bytes() == b''
        assert path.exists()
    path.write_text('1 elsewhere\n')  # as a lock by existence would leave it
    with process.hold_lock(path, 0):
        pass


def test_other_errors_of_the_lock_are_raised(tmp_path, monkeypatch):
    monkeypatch.setattr('fcntl.flock', lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, 'broken')))
    with pytest.raises(OSError, match='broken'), process.hold_lock(tmp_path / 'run.lock', 0):
        pass


def test_processes_whose_parent_has_ended_are_ended_too(tmp_path):
    command = "sh -c 'sleep 600 & echo $! > pid'; sleep 600"
    run = subprocess.Popen(['sh', '-c', command], cwd=tmp_path, start_new_session=True)
    orphan = written_pid(tmp_path)
    wait_until(lambda: orphan not in [child.pid for child in psutil.Process(run.pid).children(recursive=True)])
    assert alive(orphan)
    process.end_tree(run)
    wait_until(lambda: not alive(orphan), 5)


def test_function_that_ray_sends_to_workers_needs_neither_torch_nor_this_package(tmp_path):
    cloudpickle = pytest.importorskip('ray').cloudpickle
    for module in (process, locks):
        cloudpickle.register_pickle_by_value(module)
    (tmp_path / 'function').write_bytes(cloudpickle.dumps(run_process))
    for module in (process, locks):
        cloudpickle.unregister_pickle_by_value(module)
    code = (
        'import pickle, sys; run = pickle.load(open("function", "rb")); print(run(["-c", "1"], ".", {}, "."));'
        'sys.exit("torch" in sys.modules or "ftsgd_plugin" in sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(0, '')\n"), done.stderr
