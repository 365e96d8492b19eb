"""Progress of a sweep: counts by method, an ETA that weighs runs by predicted cost, a line per run."""

import io
import json
import threading
from pathlib import Path

import pytest
from rich.console import Console

from ftsgd_plugin.sweep import progress
from ftsgd_plugin.sweep.progress import SweepProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(progress.time, 'monotonic', lambda: Clock.now)
    return Clock


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


def counts(done: int, running: int, failed: int, waiting: int) -> dict[str, int]:
    return dict(done=done, running=running, failed=failed, waiting=waiting)


def test_counts_by_method_and_eta_by_cost(clock):
    plain = console(terminal=False)
    with SweepProgress(['sgd', 'sgd', 'adamw', 'adamw'], [1.0, 1.0, 10.0, 1.0], [1], plain) as shown:
        assert shown.eta() == '?'
        shown.started(0)
        shown.started(2)
        clock.now = 60.0
        shown.ended(0, 'a', '', 'ID 90.0%')
        assert shown.eta() == '11:00'  # 11 of 12 to do, one took a minute
        shown.ended(3, 'b', 'MemoryError', '')
        assert shown.counts('sgd') == counts(2, 0, 0, 0)
        assert shown.counts('adamw') == counts(0, 1, 1, 0)
        assert shown.counts() == counts(2, 1, 1, 0)
        assert shown.eta() == '5:00'
        clock.now = 36_000.0
        shown.ended(2, 'c', '', 'ID 80.0%')
        assert shown.eta() == '0:00'
    lines = plain.file.getvalue().splitlines()
    assert [line.split()[:3] for line in lines] == [['[', '1/3]', 'a'], ['[', '2/3]', 'b'], ['[', '3/3]', 'c']]
    assert 'failed: MemoryError' in lines[1] and 'ID 80.0%' in lines[2] and '\x1b' not in ''.join(lines)


def test_bars_stay_below_the_lines_on_a_terminal(clock):
    terminal = console(terminal=True)
    with SweepProgress(['sgd', 'adamw'], [1.0, 1.0], [], terminal) as shown:
        shown.started(0)
        clock.now = 30.0
        shown.ended(0, 'a', '', 'ID 90.0%')
    out = terminal.file.getvalue()
    assert '\x1b[' in out and out.rindex('[ 1/2] a') < out.rindex('adamw')
    last = out[out.rindex('sgd') :]
    assert '1 done  0 running  0 failed  0 waiting' in last
    assert '1 done  0 running  0 failed  1 waiting  eta 0:30' in last


def test_brackets_in_a_failure_are_printed_as_they_are():
    plain = console(terminal=False)
    with SweepProgress(['sgd'], [1.0], [], plain) as shown:
        shown.ended(0, 'a', "KeyError: '[red]x'", '')
    assert "KeyError: '[red]x'" in plain.file.getvalue()


def scalars(directory: Path, start: str, *lines: dict) -> None:
    """What MMEngine's logger has written in a start of a run."""
    path = directory / start / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines) + '{"loss": 0.1, "st')  # being written


def test_updates_of_long_runs_and_the_time_that_is_left(clock, tmp_path):
    """A run that was resumed has two files; evaluations count epochs."""
    scalars(tmp_path / 'a', '20260101_000000', dict(loss=0.7, step=10), dict(loss=0.6, step=20))
    updates = progress.Updates({'SGD': tmp_path / 'a', 'AdamW': tmp_path / 'b'}, 60)
    assert updates() == 'updates: SGD 20 of 60, AdamW 0 of 60'
    scalars(tmp_path / 'a', '20260102_000000', dict(loss=0.5, step=30), {'id/accuracy': 0.9, 'step': 99})
    scalars(tmp_path / 'b', '20260102_000000', dict(loss=0.5, step=20))
    clock.now = 60.0
    assert updates() == 'updates: SGD 30 of 60, AdamW 20 of 60; about 2 min 20 s left'  # 70 to do, 30 took 60 s
    assert updates() == ''


def test_repeating_ends_with_its_block():
    before, done = threading.active_count(), threading.Event()
    with pytest.raises(ValueError, match='stopped'), progress.repeating(0.001, done.set):
        assert done.wait(10)
        raise ValueError('stopped')
    assert threading.active_count() == before
