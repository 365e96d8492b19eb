"""What is going on in a sweep: a table that stays in its place on a terminal, lines elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Sequence

STATES = ('done', 'running', 'failed', 'waiting')


class Progress:
    """Counts of done, running, failed and waiting runs by method, and the time that is left.

    Args:
        methods: Method of each run.
        work: Predicted cost of each run, in any unit; the eta goes by it.
        finished: Indices of the runs that were finished before.
    """

    def __init__(self, methods: Sequence[str], work: Sequence[float], finished: Sequence[int]) -> None:
        self._methods, self._work = list(methods), list(work)
        self._states = ['done' if i in set(finished) else 'waiting' for i in range(len(methods))]
        self._to_do = sum(state == 'waiting' for state in self._states)
        self._ended = 0
        self._work_done = 0.0
        self._since = time.monotonic()
        self._lines = 0
        self._in_place = sys.stdout.isatty()

    def started(self, index: int) -> None:
        """A run was handed out."""
        self._states[index] = 'running'

    def ended(self, index: int, name: str, failure: str, note: str) -> None:
        """A run has ended.

        Args:
            index: Of the run.
            name: Its name.
            failure: Last line of a failure, ``''`` without one.
            note: What to say of a run that is done.
        """
        self._states[index] = 'failed' if failure else 'done'
        self._ended += 1
        self._work_done += self._work[index]
        width = len(str(self._to_do))
        what = f'failed: {failure}' if failure else note
        self.say(f'[{self._ended:{width + 1}d}/{self._to_do}] {name:<52} {what}  eta {self.eta()}')

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self._clear()
        print(line, flush=True)
        self.draw()

    def eta(self) -> str:
        """Time left as ``h:mm:ss`` or ``m:ss``; ``?`` before the first run has ended."""
        left = sum(w for w, state in zip(self._work, self._states) if state in ('waiting', 'running'))
        if left == 0:
            return '0:00'
        if not self._work_done:
            return '?'
        seconds = int((time.monotonic() - self._since) * left / self._work_done)
        hours, minutes = divmod(seconds // 60, 60)
        return f'{hours}:{minutes:02d}:{seconds % 60:02d}' if hours else f'{minutes}:{seconds % 60:02d}'

    def table(self) -> str:
        """The counts by method and in all."""
        rows = [('method', *STATES)]
        for method in [*dict.fromkeys(self._methods), 'all']:
            counts = Counter(s for m, s in zip(self._methods, self._states) if method in (m, 'all'))
            rows.append((method, *(str(counts[state]) for state in STATES)))
        width = max(len(row[0]) for row in rows)
        lines = [f'{name:<{width}} ' + ' '.join(f'{cell:>8}' for cell in cells) for name, *cells in rows]
        return '\n'.join([*lines, f'eta {self.eta()}'])

    def draw(self) -> None:
        """Draw the table in its place; nothing where the output is no terminal."""
        if not self._in_place:
            return
        self._clear()
        table = self.table()
        print(table, flush=True)
        self._lines = table.count('\n') + 1

    def _clear(self) -> None:
        if self._lines:
            print(f'\x1b[{self._lines}A\x1b[J', end='')
            self._lines = 0
