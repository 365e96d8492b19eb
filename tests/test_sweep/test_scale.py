"""A sweep of 10,000 runs: the driver's time per run and its memory stay small, whatever the number of runs.

The runs are faked by benchmarks/sweep_scale.py, which measures the same at full size. Times are CPU times, with bounds
that are ten times what was measured.
"""

import importlib.util
import io
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.tiny_sweep import write_plan
from rich.console import Console

from ftsgd_plugin.records import read_record, write_record
from ftsgd_plugin.results.collect import collect
from ftsgd_plugin.results.small_records import small
from ftsgd_plugin.sweep.plan import read_plan
from ftsgd_plugin.sweep.progress import SweepProgress
from ftsgd_plugin.sweep.ray_backend import Waiting
from ftsgd_plugin.sweep.running import run_tasks
from ftsgd_plugin.sweep.runs import survey

_spec = importlib.util.spec_from_file_location('sweep_scale', ROOT / 'benchmarks/sweep_scale.py')
scale = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(scale)

KIB = 1024


def kept_by(make: Callable[[], object]) -> int:
    """Bytes that a result holds."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = make()
        after = tracemalloc.get_traced_memory()[0]
        del result
        return after - before
    finally:
        tracemalloc.stop()


def plan_of(directory: Path, runs: int):
    return read_plan(str(write_plan(directory, lrs={'sgd': [1e-3]}, seeds=list(range(runs)), epochs=20)))


def test_progress_of_10_000_runs_counts_none_of_them_twice():
    """Counting every run at every event took 2.8 s of CPU time for 1,000 and would take minutes."""
    count = 10_000
    methods = [f'method{i % 6}' for i in range(count)]
    start = time.process_time()
    with SweepProgress(methods, [1.0] * count, [], Console(file=io.StringIO(), quiet=True)) as shown:
        for i in range(count):
            shown.started(i)
            shown.ended(i, 'name', '' if i % 10 else 'failed', '')
    assert time.process_time() - start < 10
    assert shown.counts() == {'done': 9000, 'running': 0, 'failed': 1000, 'waiting': 0}
    assert shown.eta() == '0:00' and sum(shown.counts('method3').values()) == count // 6 + (count % 6 > 3)


def test_the_driver_takes_little_time_and_memory_for_a_run(tmp_path, capsys):
    count, few = 40, 20
    plan = plan_of(tmp_path, count)
    tasks = survey(plan, tmp_path)
    settings = {
        str(t.directory): (t.run.model, t.run.method, t.run.dataset, t.run.lr, t.run.seed, t.hash, 20) for t in tasks
    }
    place = scale.Instant(settings)
    start = time.process_time()
    again = survey(plan, tmp_path)
    assert run_tasks(again, tmp_path, lambda: place, costs=[None] * count) == []
    finished = survey(plan, tmp_path)
    assert run_tasks(finished, tmp_path, lambda: place) == []
    assert (time.process_time() - start - place.cpu) / count < scale.LIMIT
    assert {task.state for task in finished} == {'finished'} and {task.code for task in finished} == {finished[0].code}
    assert 'all 40 runs are finished' in capsys.readouterr().out

    first = plan_of(tmp_path, few)
    held = [kept_by(lambda one=one: survey(one, tmp_path)) for one in (first, plan)]
    assert (held[1] - held[0]) / (count - few) < 6 * KIB  # their configs alone were 50


def test_a_place_takes_jobs_when_it_has_room_for_them():
    """The commands of all runs are never made at once."""
    made = []
    waiting = Waiting((made.append(i) or [str(i)], 'directory') for i in range(10_000))
    assert bool(waiting) and len(made) == 1
    assert waiting.pop() == (0, (['0'], 'directory')) and waiting.pop()[0] == 1 and len(made) == 3
    assert not Waiting([])


def test_tables_hold_small_records(tmp_path):
    few, count = 10, 40
    for i in range(count):
        write_record(scale.fake_record('vit-tiny', 'sgd', 'digits', 1e-3, i, str(i), 20), tmp_path / str(i))
    held = [kept_by(lambda some=some: collect([tmp_path / str(i) for i in range(some)])) for some in (few, count)]
    assert (held[1] - held[0]) / (count - few) < 8 * KIB  # with dictionaries 25
    record = read_record(tmp_path / '0')
    packed = small(record)
    assert packed == record and list(packed.epochs) == record.epochs and len(packed.epochs) == 20
    assert packed.epochs[-1] == record.epochs[-1] and packed.epochs[3:5] == record.epochs[3:5]
    assert packed.selected == record.selected
    with pytest.raises(IndexError):
        packed.epochs[20]
    uneven = small(read_record(tmp_path / '1'))
    assert uneven.environment is packed.environment and uneven.code is packed.code
