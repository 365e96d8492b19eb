"""The progress table: counts, and an eta that goes by predicted cost."""

import sys

import pytest

from ftsgd_plugin.sweep import progress
from ftsgd_plugin.sweep.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(progress.time, 'monotonic', lambda: Clock.now)
    return Clock


def test_counts_by_method_and_eta_by_cost(clock, capsys):
    shown = Progress(['sgd', 'sgd', 'adamw', 'adamw'], [1.0, 1.0, 10.0, 1.0], finished=[1])
    assert shown.eta() == '?'
    shown.started(0)
    shown.started(2)
    clock.now = 60.0
    shown.ended(0, 'a', '', 'ID 90.0%')
    assert shown.eta() == '11:00'  # 11 of 12 to do, one took a minute
    shown.ended(3, 'b', 'MemoryError', '')
    assert shown.table().splitlines() == [
        'method     done  running   failed  waiting',
        'sgd           2        0        0        0',
        'adamw         0        1        1        0',
        'all           2        1        1        0',
        'eta 5:00',
    ]
    clock.now = 36_000.0
    shown.ended(2, 'c', '', 'ID 80.0%')
    assert shown.eta() == '0:00'
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [['[', '1/3]', 'a'], ['[', '2/3]', 'b'], ['[', '3/3]', 'c']]
    assert 'failed: MemoryError' in lines[1] and '\x1b' not in ''.join(lines)


def test_table_stays_in_its_place_on_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    shown = Progress(['sgd', 'adamw'], [1.0, 1.0], finished=[])
    shown.draw()
    shown.started(0)
    shown.draw()
    shown.ended(0, 'a', '', 'ID 90.0%')
    out = capsys.readouterr().out
    assert out.count('\x1b[5A\x1b[J') == 2 and out.count('method') == 3
    assert out.rindex('[ 1/2] a') < out.rindex('method')
