"""Every moment belongs to one part: on the host, and on a device that works behind it."""

import random
import time

import pytest

from ftsgd_plugin.profiling.ledger import Ledger


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when a test says so."""

    class Clock:
        now = 100.0

        def move(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(time, 'perf_counter', lambda: clock.now)
    return clock


class Device:
    """A stream whose work takes time of its own; the host only queues it."""

    def __init__(self, clock) -> None:
        self.clock, self.free, self.waits = clock, clock.now, 0

    def queue(self, seconds: float) -> None:
        self.free = max(self.free, self.clock.now) + seconds

    def mark(self) -> float:
        self.free = max(self.free, self.clock.now)
        return self.free

    def wait(self) -> None:
        self.waits += 1
        self.clock.now = max(self.clock.now, self.free)

    def seconds(self, start: float, end: float) -> float:
        return end - start


def test_parts_suspend_each_other_as_calls_do(clock):
    ledger = Ledger(clock.now - 3, 'start')
    ledger.become('loop')
    clock.move(1)
    with ledger.within('forward'):
        clock.move(2)
        ledger.during('hook', clock.move)(0.25)
        clock.move(4)
    ledger.rename = lambda part: f'evaluation/{part}'
    clock.move(8)
    ledger.become('')
    assert dict(ledger.seconds) == {
        'start': 3,
        'loop': 1,
        'forward': 6,
        'hook': 0.25,
        'evaluation/loop': 8,
    }


@pytest.mark.parametrize('on_device', [False, True])
def test_any_sequence_adds_up_to_the_wall_time(clock, on_device):
    draw, depth = random.Random(0), 0
    device = Device(clock)
    ledger = Ledger(clock.now, 'a', device if on_device else None)
    start = clock.now
    ledger.follow()
    for _ in range(500):
        clock.move(draw.random())
        device.queue(draw.random() * on_device)
        call = draw.choice(['enter', 'leave', 'become'] if depth else ['enter', 'become'])
        depth += {'enter': 1, 'leave': -1, 'become': 0}[call]
        getattr(ledger, call)(*[] if call == 'leave' else [draw.choice('abc')])
    ledger.settle()
    ledger.become('a')
    assert sum(ledger.seconds.values()) == pytest.approx(clock.now - start)
    assert device.waits == (2 if on_device else 0)  # when it begins and when it ends, never in between


def test_a_part_that_the_device_hides_costs_nothing(clock):
    """The host waits 1 s for data while the device still computes for 1.5 s; then 2 s while it computes for 0.5 s."""
    device = Device(clock)
    ledger = Ledger(clock.now, 'loop', device)
    ledger.follow()
    for computing, waiting in ((1.5, 1.0), (0.5, 2.0)):
        with ledger.within('forward'):
            device.queue(computing)  # the host continues at once
        with ledger.within('data'):
            clock.move(waiting)
    ledger.settle()
    # 0.5 s of the first forward pass are left when the second one is queued: done 1.0 s before the data arrive.
    assert ledger.seconds['forward'] == 2.0 and ledger.seconds['data'] == 1.0
    assert clock.now == 103.0


def test_an_exception_closes_the_part(clock):
    ledger = Ledger(clock.now, 'loop')
    with pytest.raises(ZeroDivisionError):
        ledger.during('forward', lambda: 1 / 0)()
    clock.move(1)
    ledger.become('')
    assert ledger.seconds['loop'] == 1 and ledger.seconds['forward'] == 0


def test_the_cost_of_a_boundary_is_measured_as_it_is():
    ledger = Ledger(time.perf_counter(), 'loop')
    before = dict(ledger.seconds)
    assert 0 < ledger.seconds_per_mark(100) < 1e-3
    assert dict(ledger.seconds) == before and ledger.marks == 0
