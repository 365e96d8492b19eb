"""Progress of a sweep on stdout: a line per finished run, and on a terminal a bar per method."""

import contextlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..utils.format import format_duration

STATES = ('done', 'running', 'failed', 'waiting')


class SweepProgress:
    """Counts of done, running, failed and waiting runs by method, and the time that is left. A context manager.

    Args:
        methods: Method of each run.
        costs: Predicted cost of each run, in any unit; the ETA weighs runs by it.
        finished: Indices of the runs that were finished before.
        console: Default: stdout.
    """

    def __init__(
        self, methods: Sequence[str], costs: Sequence[float], finished: Sequence[int], console: Console | None = None
    ) -> None:
        self._methods, self._costs = list(methods), list(costs)
        before = set(finished)
        self._states = ['done' if i in before else 'waiting' for i in range(len(methods))]
        self._to_do = len(methods) - len(before)
        # Kept up to date by every change of a state: counting 10,000 runs at each would be quadratic.
        self._counts = {name: Counter() for name in [*dict.fromkeys(self._methods), 'all']}
        for method, state in zip(self._methods, self._states):
            self._counts[method][state] += 1
        self._counts['all'] = sum((self._counts[method] for method in dict.fromkeys(self._methods)), Counter())
        self._cost_left = math.fsum(cost for cost, state in zip(self._costs, self._states) if state == 'waiting')
        self._ended, self._cost_done, self._start = 0, 0.0, time.monotonic()
        self._console = console or Console()
        columns = (TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[counts]}'))
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._rows = {
            name: self._bars.add_task(name, total=found.total(), counts='') for name, found in self._counts.items()
        }

    def __enter__(self) -> 'SweepProgress':
        self._update(*self._rows)
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def started(self, index: int) -> None:
        """A run was submitted."""
        self._update(*self._change(index, 'running'))

    def ended(self, index: int, name: str, failure: str, note: str) -> None:
        """A run has ended; prints a line.

        Args:
            index: Index of the run.
            name: Its name.
            failure: Last line of a failure, ``''`` without one.
            note: Results of a run that is done.
        """
        self._ended += 1
        self._cost_done += self._costs[index]
        self._cost_left -= self._costs[index]
        changed = self._change(index, 'failed' if failure else 'done')
        width = len(str(self._to_do))
        what = f'failed: {failure}' if failure else note
        self.print(f'[{self._ended:{width + 1}d}/{self._to_do}] {name:<52} {what}  eta {self.eta()}')
        self._update(*changed)

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def eta(self) -> str:
        """Time left as ``h:mm:ss`` or ``m:ss``; ``?`` before the first run has ended."""
        counts = self._counts['all']
        if not counts['waiting'] + counts['running']:
            return '0:00'
        if not self._cost_done:
            return '?'
        seconds = int((time.monotonic() - self._start) * max(self._cost_left, 0.0) / self._cost_done)
        hours, minutes = divmod(seconds // 60, 60)
        return f'{hours}:{minutes:02d}:{seconds % 60:02d}' if hours else f'{minutes}:{seconds % 60:02d}'

    def counts(self, name: str = 'all') -> dict[str, int]:
        """Number of runs of a method, or of all, in each of ``STATES``."""
        return {state: self._counts[name][state] for state in STATES}

    def _change(self, index: int, state: str) -> tuple[str, str]:
        """Count a run in another state; the rows that show it."""
        names = (self._methods[index], 'all')
        for name in names:
            self._counts[name][self._states[index]] -= 1
            self._counts[name][state] += 1
        self._states[index] = state
        return names

    def _update(self, *names: str) -> None:
        for name in names:
            counts = self.counts(name)
            text = '  '.join(f'{count} {state}' for state, count in counts.items())
            text += f'  eta {self.eta()}' if name == 'all' else ''
            self._bars.update(self._rows[name], completed=counts['done'] + counts['failed'], counts=text)


class Updates:
    """The updates that each of a few long runs has done, as a line of text; call it from time to time.

    Args:
        directories: Name to print -> directory of the run.
        total: Updates of each run.
    """

    def __init__(self, directories: Mapping[str, Path], total: int) -> None:
        self._directories, self._total = dict(directories), total
        self._start, self._before = time.monotonic(), sum(self.done().values())
        self._last: dict[str, int] = {}

    def done(self) -> dict[str, int]:
        """Updates by name."""
        return {name: min(_updates(directory), self._total) for name, directory in self._directories.items()}

    def __call__(self) -> str:
        """``updates: SGD 20 of 68, AdamW 18 of 68; about 3 min left``; empty if nothing was done since the last."""
        done = self.done()
        if done == self._last:
            return ''
        self._last = done
        text = 'updates: ' + ', '.join(f'{name} {count} of {self._total}' for name, count in done.items())
        count = sum(done.values())
        if count > self._before:
            left = self._total * len(done) - count
            seconds = (time.monotonic() - self._start) * left / (count - self._before)
            text += f'; about {format_duration(seconds)} left'
        return text


def _updates(directory: Path) -> int:
    """The last update that MMEngine's logger has written, over all starts of a run."""
    last = 0
    for path in directory.glob('*/vis_data/scalars.json'):
        with contextlib.suppress(OSError, ValueError):  # it is moved aside, or its last line is being written
            for line in path.read_text('utf-8').splitlines():
                scalars = json.loads(line)
                if 'loss' in scalars:  # evaluations count epochs
                    last = max(last, scalars['step'])
    return last


@contextlib.contextmanager
def repeating(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Do something every so many seconds, in a thread, until the block ends."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
