"""Give every moment of a run to one part of it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol

import torch


class Stream(Protocol):
    """The time line of a device that works behind the host."""

    def mark(self) -> object:
        """Put a mark into the queue of the device, without waiting for it."""

    def wait(self) -> None:
        """Wait until the device has passed all marks."""

    def seconds(self, start: object, end: object) -> float:
        """Time between two marks that the device has passed."""


class CudaStream:
    """Marks are CUDA events."""

    def mark(self) -> torch.cuda.Event:
        """See :class:`Stream`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """See :class:`Stream`."""
        torch.cuda.synchronize()

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """See :class:`Stream`."""
        return start.elapsed_time(end) / 1e3


class Ledger:
    """Seconds by part; at any moment exactly one part is open, so that the parts add up to the whole.

    Parts are nested like calls: :meth:`enter` suspends the part that is open until :meth:`leave`. A part is a name such
    as ``'data/decode'``.

    On the host a boundary is a reading of the clock. Between :meth:`follow` and :meth:`settle` it is a mark in the
    stream of a device instead: a part then has the time in which the device worked on what the part had queued, or, if
    it had nothing to do, waited for the host in that part. The host never waits for the device in between, so work that
    overlaps in a run does so in its profile.

    Args:
        began: When the first part began, by ``time.perf_counter()``.
        part: Its name.
        stream: The device's time line; ``None`` for the host alone.
    """

    def __init__(self, began: float, part: str, stream: Stream | None = None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.marks = 0
        self.rename: Callable[[str], str] | None = None  # given to parts while it is set
        self._began, self._last = began, began
        self._stack = [part]
        self._stream = stream
        self._queued: list[tuple[str, object]] | None = None  # parts and the marks that end them, to be read

    def enter(self, part: str) -> None:
        """Open a part until :meth:`leave`."""
        self._mark()
        self._stack.append(part)

    def leave(self) -> None:
        """Close the part; the one before it continues."""
        self._mark()
        self._stack.pop()

    def become(self, part: str) -> None:
        """Close the part and open another in its place."""
        self._mark()
        self._stack[-1] = part

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Open a part for a block."""
        self.enter(part)
        try:
            yield
        finally:
            self.leave()

    def during(self, part: str, function: Callable) -> Callable:
        """A function that opens a part for each call."""

        def measured(*args, **kwargs):
            self.enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return measured

    def follow(self) -> None:
        """From here on boundaries are marks in the stream, if there is one."""
        if self._stream is None or self._queued is not None:
            return
        self._stream.wait()
        self._mark()
        self._queued = [('', self._stream.mark())]

    def settle(self) -> None:
        """Read the marks so far; boundaries are readings of the clock again."""
        if self._queued is None:
            return
        self._mark()
        self._stream.wait()
        queued, self._queued = self._queued, None
        for (_, start), (part, end) in pairwise(queued):
            self.seconds[part] += self._stream.seconds(start, end)
        self._last = time.perf_counter()

    def wall_seconds(self) -> float:
        """Time since the beginning by the host's clock, which no part is made of."""
        return time.perf_counter() - self._began

    def seconds_per_mark(self, count: int = 1000) -> float:
        """Measured cost of a boundary, as it is now (on the stream between :meth:`follow` and :meth:`settle`)."""
        trial = Ledger(time.perf_counter(), '', self._stream)
        trial.follow()
        start = time.perf_counter()
        for _ in range(count):
            trial.become('')
        return (time.perf_counter() - start) / count

    def _mark(self) -> None:
        self.marks += 1
        part = self._stack[-1]
        if self.rename is not None:
            part = self.rename(part)
        if self._queued is not None:
            self._queued.append((part, self._stream.mark()))
            return
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now
