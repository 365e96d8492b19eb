"""A sweep on Ray: killed at random moments it ends like one that was left alone; failures are listed, stop nothing.

The trainings are stubs (helpers/stub_run.py) where the promise is the driver's; one sweep, and slowly the kills, train.
Starting Ray takes 10 s of CPU time, so most sweeps join one cluster.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, free_port
from helpers.tiny_sweep import OPTIONS, PLAN, write_plan

from ftsgd_plugin.records import RunRecord, read_record
from ftsgd_plugin.results.aggregate import method_summary
from ftsgd_plugin.results.formats import method_table

pytestmark = pytest.mark.multiprocess
EPOCHS, STUB_SECONDS = 3, 0.4


def records(out: Path) -> dict[str, RunRecord]:
    """By name, without what differs between two runs of the same thing."""
    found = {directory.name: read_record(directory) for directory in (out / 'runs').iterdir()}
    return {name: replace(record, started='', finished='', command='', resources={}) for name, record in found.items()}


def table(out: Path) -> str:
    return method_table(method_summary(record for _, record in sorted(records(out).items())))


def processes(out: Path) -> list[int]:
    """The training processes of a sweep, or their stubs."""
    found = []
    for entry in Path('/proc').iterdir():
        try:
            words = (entry / 'cmdline').read_bytes().decode().split('\0') if entry.name.isdigit() else []
        except OSError:
            continue
        if len(words) > 2 and words[1].endswith(('tools/train.py', 'stub_run.py')) and str(out) in words[2]:
            found.append(int(entry.name))
    return found


def parents(out: Path) -> list[int]:
    """The Ray workers that have started them."""
    found = []
    for pid in processes(out):
        with contextlib.suppress(OSError):
            found.append(int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1]))
    return found


def kill(pids: list[int]) -> bool:
    """``kill -9``; whether anything was left to kill."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return bool(pids)


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope='module')
def start(start_forked):
    """Start tools/sweep.py with stubs for the trainings, or with ``real`` ones; returns at once."""

    def start(plan: Path, out: Path, *options, output: Path, real: bool = False):
        words = ['tools/sweep.py'] if real else ['tests/helpers/with_stub_runs.py', 'sweep.py']
        words = [*words, plan, '--out', out, *options, *OPTIONS]
        authentication = {'RAY_AUTH_MODE': 'token'} if '--address' in options else {}
        return start_forked(*words, cwd=ROOT, output=output, STUB_SECONDS=STUB_SECONDS, **authentication)

    return start


@pytest.fixture(scope='module')
def cluster(start_forked, tmp_path_factory):
    """The options that make a sweep join a Ray cluster of this file, two runs at a time."""
    directory = tmp_path_factory.mktemp('cluster')
    words = ('tests/helpers/ray_head.py', directory / 'address', os.getpid())
    head = start_forked(*words, cwd=directory, output=directory / 'output')
    wait_until((directory / 'address').exists)
    yield ['--address', (directory / 'address').read_text(), '--workers', '2']
    head.end()


@pytest.fixture
def sweep(start, tmp_path):
    """Run a sweep to its end."""
    numbers = iter(range(100))

    def run(plan: Path, out: Path, *options, **keys):
        return start(plan, out, *options, output=tmp_path / f'output{next(numbers)}', **keys).result()

    return run


def run_straight(start, options, digits_root: Path, directory: Path, real: bool) -> tuple[Path, Path, str]:
    """An uninterrupted sweep: its plan, directory and output."""
    plan, out = write_plan(directory, digits_root, epochs=EPOCHS), directory / 'out'
    result = start(plan, out, *options, output=directory / 'output', real=real).result()
    assert result.returncode == 0, result.stderr
    return plan, out, result.stdout


@pytest.fixture(scope='module')
def straight(start, cluster, digits_root, tmp_path_factory):
    """An uninterrupted sweep of stubs."""
    return run_straight(start, cluster, digits_root, tmp_path_factory.mktemp('straight'), real=False)


@pytest.mark.slow  # test_smoke.py trains in forks, and stubs run on Ray here
def test_a_sweep_trains(sweep, digits_root, tmp_path):
    """One true run, from the plan to its record, on a Ray that the sweep starts."""
    plan, out = write_plan(tmp_path, digits_root, lrs={'freeze-embed': [1e-3]}), tmp_path / 'out'
    result = sweep(plan, out, real=True)
    assert result.returncode == 0, result.stderr
    assert '1 runs, 0 finished before, 1 at a time' in result.stdout
    (record,) = records(out).values()
    assert (record.status, len(record.epochs), record.selected_epoch) == ('finished', PLAN['epochs'], 0)
    assert f'ID {record.selected["id/accuracy"]:6.1%}' in result.stdout
    assert not list(out.rglob('*.pth'))


def test_uninterrupted_sweep(straight):
    _, out, stdout = straight
    assert '4 runs, 0 finished before, 2 at a time' in stdout
    assert re.search(r'^\[ 4/4\] vit-tiny_\S+ +ID +[\d.]+% +[\d.]+ s  eta 0:00$', stdout, re.M)
    found = records(out)
    assert len(found) == 4 and {r.status for r in found.values()} == {'finished'}
    assert all(len(r.epochs) == EPOCHS for r in found.values())
    assert not list(out.rglob('*.pth')) and (out / 'plan.json').is_file()


def test_finished_sweep_runs_nothing_again(straight, sweep):
    plan, out, _ = straight
    before = {path: path.stat().st_mtime_ns for path in out.rglob('record.json')}
    result = sweep(plan, out)
    assert result.returncode == 0 and 'all 4 runs are finished' in result.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob('record.json')} == before


def kill_and_finish(straight, start, sweep, options, tmp_path: Path, kinds, seconds: float, real: bool = False) -> None:
    """Kill a sweep once for every kind at a random moment of its runs; then it ends as the uninterrupted one.

    After a driver the next one continues; a killed run is a failure, and the driver continues with the others; Ray
    replaces a killed worker.
    """
    plan, straight_out, _ = straight
    out, rng = tmp_path / 'out', random.Random(0)
    for kind in kinds:
        driver = start(plan, out, *options, output=tmp_path / kind, real=real)
        wait_until(lambda driver=driver: processes(out) or driver.has_ended())
        time.sleep(rng.uniform(0, seconds))
        victims = {'driver': [driver.pid], 'run': processes(out), 'ray worker': parents(out)}
        killed = kill(victims[kind][:1])
        result = driver.result()
        if killed and kind == 'run':
            assert result.returncode == 1
            assert 'killed by signal 9 (SIGKILL)' in result.stdout + result.stderr
        wait_until(lambda: not processes(out), 30)  # no run outlives its driver
    result = sweep(plan, out, *options, real=real)
    assert result.returncode == 0, result.stderr
    assert records(out) == records(straight_out)
    assert table(out) == table(straight_out)
    assert not list(out.rglob('*.pth'))


@pytest.mark.parametrize('kind', [pytest.param(one, marks=pytest.mark.slow) for one in ('driver', 'run', 'ray worker')])
def test_killed_at_a_random_moment_it_ends_with_the_same_table(straight, start, sweep, cluster, tmp_path, kind):
    kill_and_finish(straight, start, sweep, cluster, tmp_path, [kind], EPOCHS * STUB_SECONDS / 2)


@pytest.mark.slow
def test_killed_at_five_random_moments_while_it_trains(start, sweep, digits_root, tmp_path):
    begin = time.monotonic()
    (tmp_path / 'straight').mkdir()
    options = ['--workers', '2']
    straight = run_straight(start, options, digits_root, tmp_path / 'straight', real=True)
    seconds = (time.monotonic() - begin) / 3
    kinds = ['driver', 'driver', 'run', 'driver', 'ray worker']
    kill_and_finish(straight, start, sweep, options, tmp_path, kinds, seconds, real=True)


def test_failures_are_listed_and_stop_nothing_then_fixed(straight, sweep, cluster, tmp_path):
    """One of two missing runs finds a directory in the place of its record; the other one runs."""
    plan, straight_out, _ = straight
    out = tmp_path / 'out'
    shutil.copytree(straight_out, out)
    names = sorted(path.name for path in (out / 'runs').iterdir())
    for name in names[:2]:
        shutil.rmtree(out / 'runs' / name)
    blocked = out / 'runs' / names[0]
    (blocked / 'record.json').mkdir(parents=True)
    result = sweep(plan, out, *cluster)
    assert result.returncode == 1
    assert f'1 failed; their logs are {out}/runs/NAME/run.log; the same command tries them again:' in result.stderr
    assert re.search(rf'^  {names[0]}: .*record\.json: cannot be written', result.stderr, re.M)
    assert read_record(out / 'runs' / names[1]).status == 'finished'
    (blocked / 'record.json').rmdir()
    result = sweep(plan, out, *cluster)
    assert result.returncode == 0 and '3 finished before' in result.stdout
    assert records(out) == records(straight_out)


def test_changed_run_runs_again_and_says_so(straight, sweep, cluster, tmp_path):
    plan, straight_out, _ = straight
    out = tmp_path / 'out'
    shutil.copytree(straight_out, out)
    name = sorted(path.name for path in (out / 'runs').iterdir())[0]
    old = read_record(out / 'runs' / name)
    path = out / 'runs' / name / 'record.json'
    path.write_text(path.read_text().replace(old.config_hash, 'old'))
    result = sweep(plan, out, *cluster)
    assert result.returncode == 0 and '3 finished before' in result.stdout
    assert f'{name}: its config has changed; the old directory is now {out}/replaced/{name}.1' in result.stdout
    assert old.epochs == read_record(out / 'replaced' / f'{name}.1' / 'replaced-record.json').epochs
    assert records(out) == records(straight_out)


def test_missing_cluster_is_one_line(straight, sweep, tmp_path):
    result = sweep(straight[0], tmp_path / 'out', '--address', f'127.0.0.1:{free_port()}')
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert 'no Ray cluster answers (Connection refused); start one with `ray start --head`' in line


def test_two_drivers_never_run_the_same_sweep(straight, start, sweep, cluster, tmp_path):
    plan, out = straight[0], tmp_path / 'out'
    first = start(plan, out, *cluster, output=tmp_path / 'first')
    wait_until(lambda: processes(out))
    result = sweep(plan, out)
    assert result.returncode == 2
    assert f'error: {out}: another process is running this sweep; wait for it or end it.' in result.stderr
    os.kill(first.pid, signal.SIGTERM)
    result = first.result(60)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == f'error: {out}: interrupted; run the same command again to continue.'
    wait_until(lambda: not processes(out), 30)
