"""Runs in forked processes: status, output, limits, interruption, and a sweep that trains."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, run_process
from helpers.tiny_sweep import OPTIONS, write_plan

from ftsgd_plugin.records import find_records, read_record
from ftsgd_plugin.sweep.forked import Forks
from ftsgd_plugin.sweep.ray_backend import LOG
from ftsgd_plugin.utils.locks import hold_lock

pytestmark = pytest.mark.usefixtures('run_forked')  # its server has imported the stack
STUB = """
import json, os, sys, time
loaded = sorted({'torch', 'ftsgd_plugin'} & set(sys.modules))
import torch
words = dict(name=__name__, argv=sys.argv[1:], cwd=os.getcwd(), threads=torch.get_num_threads(), loaded=loaded)
print(json.dumps(words))
if 'wait' in sys.argv:
    time.sleep(60)
if 'raise' in sys.argv:
    raise ValueError('no such thing')
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def make_jobs(tmp_path):
    """``make_jobs(*words)``: one stub per word, each with a directory of its own."""
    (tmp_path / 'stub.py').write_text(STUB)

    def make(*words: str) -> list[tuple[list[str], str]]:
        jobs = []
        for number, word in enumerate(words):
            directory = tmp_path / f'run{number}'
            directory.mkdir()
            jobs.append(([str(tmp_path / 'stub.py'), *word.split()], str(directory)))
        return jobs

    return make


@pytest.mark.parametrize('cold', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_status_and_last_line(make_jobs, cold, monkeypatch):
    if cold:
        monkeypatch.setattr(Forks, '_can_fork', lambda self: False)
    jobs, started = make_jobs('0 a', '3 b', '1 raise', '0 c'), []
    ended = {index: (status, line) for index, status, line in Forks(2).run(jobs, started.append)}
    assert started == [0, 1, 2, 3] and {i: status for i, (status, _) in ended.items()} == {0: 0, 1: 3, 2: 1, 3: 0}
    assert ended[0][1] == '' and ended[2][1] == 'ValueError: no such thing'
    said = json.loads(Path(jobs[1][1], LOG).read_text())
    assert said['name'] == '__main__' and said['argv'] == ['3', 'b'] and said['threads'] == 1
    assert said['cwd'] == os.getcwd()
    assert cold or said['loaded']  # before the run imported anything


def test_nothing_starts_after_the_time_is_over(make_jobs):
    jobs, started = make_jobs('0', '0', '0'), []
    forks = Forks(1, until=time.monotonic() + 3600)
    monitor = forks.run(jobs, started.append)
    assert next(monitor)[:2] == (0, 0)
    forks.until = 0.0
    assert [index for index, _, _ in monitor] == [] and started == [0]


def test_a_run_whose_directory_is_in_use_is_not_started(make_jobs, monkeypatch):
    jobs = make_jobs('0')
    monkeypatch.setattr('ftsgd_plugin.sweep.forked.LOCK_SECONDS', 0.0)
    with hold_lock(Path(jobs[0][1], 'run.lock'), 1):
        ((_, status, line),) = Forks(1).run(jobs, lambda index: None)
    assert (status, line) == (1, 'another process is running it; end that one first')


def test_an_interrupted_sweep_ends_its_runs(make_jobs):
    jobs = make_jobs('0 wait', '0')
    runs = Forks(2).run(jobs, lambda index: None)
    assert next(runs)[0] == 1
    start = time.monotonic()
    runs.close()
    assert time.monotonic() - start < 30
    with hold_lock(Path(jobs[0][1], 'run.lock'), 1):
        pass  # nothing holds it any more


@pytest.mark.slow
def test_a_sweep_trains_in_forks(digits_root, tmp_path):
    plan, out = write_plan(tmp_path, digits_root), tmp_path / 'out'
    words = [sys.executable, 'tools/sweep.py', plan, '--out', out, '--forked', '--workers', '2', *OPTIONS]
    result = run_process(*words, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert '4 runs, 0 finished before, 2 at a time' in result.stdout
    assert {read_record(path).status for path in find_records([out])} == {'finished'}
    assert 'all 4 runs are finished' in run_process(*words, cwd=ROOT).stdout
