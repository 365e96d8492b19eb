"""A sweep on Ray: killed at random moments it ends like one that was left alone; failures are listed, stop nothing."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, free_port
from helpers.tiny_sweep import command, run_sweep, write_plan

from ftsgd_plugin.records import RunRecord, read_record
from ftsgd_plugin.results.aggregate import method_summary
from ftsgd_plugin.results.formats import method_table

EPOCHS = 3
# The last two: a killed run is a failure and the driver goes on; a killed Ray worker is replaced by Ray.
KILLS = ('driver', 'driver', 'run', 'driver', 'ray worker')


def records(out: Path) -> dict[str, RunRecord]:
    """By name, without what differs between two runs of the same thing."""
    found = {folder.name: read_record(folder) for folder in (out / 'runs').iterdir()}
    return {name: replace(record, started='', finished='', command='', resources={}) for name, record in found.items()}


def table(out: Path) -> str:
    return method_table(method_summary(record for _, record in sorted(records(out).items())))


def processes(out: Path) -> list[int]:
    """The training processes of a sweep."""
    found = []
    for entry in Path('/proc').iterdir():
        try:
            words = (entry / 'cmdline').read_bytes().decode().split('\0') if entry.name.isdigit() else []
        except OSError:
            continue
        if any(word.endswith('tools/train.py') for word in words) and any(str(out) in word for word in words):
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
    """``kill -9``; whether there was still something to kill."""
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
def straight(digits_root, tmp_path_factory):
    """An uninterrupted sweep: its plan, folder, output, and how long a run took."""
    folder = tmp_path_factory.mktemp('straight')
    plan, out = write_plan(folder, digits_root, epochs=EPOCHS), folder / 'out'
    start = time.monotonic()
    result = run_sweep(plan, out, '--workers', '2')
    assert result.returncode == 0, result.stderr
    return plan, out, result.stdout, (time.monotonic() - start) / 3


def test_uninterrupted_sweep(straight):
    _, out, stdout, _ = straight
    assert '4 runs, 0 finished before, 2 at a time' in stdout
    assert re.search(r'^\[ 4/4\] vit-tiny_\S+ +ID +[\d.]+% +[\d.]+ s  eta 0:00$', stdout, re.M)
    found = records(out)
    assert len(found) == 4 and {r.status for r in found.values()} == {'finished'}
    assert all(len(r.epochs) == EPOCHS for r in found.values())
    assert not list(out.rglob('*.pth')) and (out / 'plan.json').is_file()


def test_finished_sweep_runs_nothing_again(straight):
    plan, out, _, _ = straight
    before = {path: path.stat().st_mtime_ns for path in out.rglob('record.json')}
    result = run_sweep(plan, out)
    assert result.returncode == 0 and 'all 4 runs are finished' in result.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob('record.json')} == before


def test_killed_at_five_random_moments_it_ends_with_the_same_table(straight, tmp_path):
    plan, straight_out, _, seconds = straight
    out, rng = tmp_path / 'out', random.Random(0)
    for kind in KILLS:
        with open(tmp_path / 'log', 'ab') as log:
            driver = subprocess.Popen(command(plan, out, '--workers', '2'), cwd=ROOT, stdout=log, stderr=log)
        wait_until(lambda driver=driver: processes(out) or driver.poll() is not None)
        time.sleep(rng.uniform(0, seconds))
        victims = {'driver': [driver.pid], 'run': processes(out), 'ray worker': parents(out)}
        killed = kill(victims[kind][:1])
        driver.wait(200)
        if killed and kind == 'run':
            assert driver.returncode == 1
            assert 'killed by signal 9 (SIGKILL)' in (tmp_path / 'log').read_text()
        wait_until(lambda: not processes(out), 30)  # no run outlives its driver
    result = run_sweep(plan, out, '--workers', '2')
    assert result.returncode == 0, result.stderr
    assert records(out) == records(straight_out)
    assert table(out) == table(straight_out)
    assert not list(out.rglob('*.pth'))


def test_failures_are_listed_and_stop_nothing_then_mended(straight, digits_root, tmp_path):
    """Two of four runs find a folder in the place of their log; the other two run."""
    plan, straight_out, _, _ = straight
    out = tmp_path / 'out'
    shutil.copytree(straight_out, out)
    names = sorted(path.name for path in (out / 'runs').iterdir())
    for name in names[:2]:
        shutil.rmtree(out / 'runs' / name)
    blocked = out / 'runs' / names[0]
    (blocked / 'record.json').mkdir(parents=True)
    result = run_sweep(plan, out, '--workers', '2')
    assert result.returncode == 1
    assert f'1 failed; their logs are {out}/runs/NAME/run.log; the same command tries them again:' in result.stderr
    assert re.search(rf'^  {names[0]}: .*record\.json: cannot be written', result.stderr, re.M)
    assert read_record(out / 'runs' / names[1]).status == 'finished'
    (blocked / 'record.json').rmdir()
    result = run_sweep(plan, out, '--workers', '2')
    assert result.returncode == 0 and '3 finished before' in result.stdout
    assert records(out) == records(straight_out)


def test_changed_run_runs_anew_and_says_so(straight, tmp_path):
    plan, straight_out, _, _ = straight
    out = tmp_path / 'out'
    shutil.copytree(straight_out, out)
    name = sorted(path.name for path in (out / 'runs').iterdir())[0]
    old = replace(read_record(out / 'runs' / name), config_hash='of an earlier config')
    (out / 'runs' / name / 'record.json').write_text(
        (out / 'runs' / name / 'record.json').read_text().replace(read_record(out / 'runs' / name).config_hash, 'old')
    )
    result = run_sweep(plan, out)
    assert result.returncode == 0 and '3 finished before' in result.stdout
    assert f'{name}: its config has changed; the old directory is now {out}/replaced/{name}.1' in result.stdout
    assert old.epochs == read_record(out / 'replaced' / f'{name}.1' / 'replaced-record.json').epochs
    assert records(out) == records(straight_out)


def test_cluster_that_is_not_there_is_one_line(straight, tmp_path):
    plan = straight[0]
    result = run_sweep(plan, tmp_path / 'out', '--address', f'127.0.0.1:{free_port()}')
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert 'no Ray cluster answers (Connection refused); start one with `ray start --head`' in line


def test_two_drivers_never_run_the_same_sweep(straight, tmp_path):
    plan, out = straight[0], tmp_path / 'out'
    first = subprocess.Popen(command(plan, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: processes(out))
    result = run_sweep(plan, out)
    assert result.returncode == 2
    assert f'error: {out}: another process is running this sweep; wait for it or end it.' in result.stderr
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    assert (
        first.returncode == 2
        and err.splitlines()[-1] == f'error: {out}: interrupted; run the same command again to continue.'
    )
    wait_until(lambda: not processes(out), 30)
