"""Progress of a training on the terminal: a bar within an epoch, a line after each."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm

from ..utils.format import format_duration
from ..utils.metrics import METRIC_NAMES


def show(label: str, *lines: str, out: TextIO | None = None) -> None:
    """Print lines in a column beside a label, at once, also into a pipe.

    Args:
        label: Printed before the first line.
        *lines: The lines.
        out: Default: stdout.
    """
    for number, line in enumerate(lines):
        print(f'{"" if number else label:<10} {line}', file=out, flush=True)


def metrics_text(metrics: Mapping[str, float], keys: Sequence[str], held_out: str = '') -> str:
    """The named metrics that exist, e.g. ``ID accuracy 91.2 %, held out (sketch) accuracy 78.3 %``.

    Args:
        metrics: Key -> value.
        keys: Keys of ``id/`` and ``ood/``.
        held_out: What those of ``ood/`` are called; ``''`` leaves them out.
    """
    places = {'id': 'ID', 'ood': held_out}
    parts = []
    for key in keys:
        where, _, name = key.partition('/')
        if key in metrics and places[where]:
            parts.append(f'{places[where]} {METRIC_NAMES[name]} {100 * metrics[key]:.1f} %')
    return ', '.join(parts)


class ProgressHook(Hook):
    """Print progress of a training: on a terminal a bar, and a line after every epoch.

    Args:
        keys: Metrics of the line, in this order.
        lines: Whether to print a line per epoch.
        label: What the bar is labelled with.
        held_out: What the metrics of ``ood/`` are called.
    """

    priority = 'VERY_LOW'

    def __init__(
        self,
        keys: Sequence[str],
        lines: bool = True,
        label: str = 'training',
        held_out: str = '',
    ) -> None:
        self._keys, self._lines, self._label, self._held_out = keys, lines, label, held_out
        self._out, self._terminal = sys.stdout, sys.stderr  # of now: during the run both are files

    def before_train(self, runner: Runner) -> None:
        """Start the clock; a resumed run predicts from its own epochs only."""
        self._start, self._first = time.perf_counter(), runner.epoch
        self._losses: list = []
        steps = len(runner.train_dataloader) * runner.max_epochs
        self._bar = tqdm(
            total=steps,
            initial=runner.iter,
            desc=self._label,
            unit='step',
            leave=False,
            file=self._terminal,
            disable=not self._terminal.isatty(),
        )

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Move the bar."""
        if outputs is not None and 'loss' in outputs:
            self._losses.append(outputs['loss'].detach())
        self._bar.update(1)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the line of the epoch."""
        epoch, total = runner.epoch, runner.max_epochs
        loss = sum(self._losses).item() / len(self._losses) if self._losses else None
        self._losses = []
        if not self._lines:
            return
        spent = time.perf_counter() - self._start
        left = spent / max(epoch - self._first, 1) * (total - epoch)
        parts = [f'epoch {epoch:{len(str(total))}d}/{total}']
        parts += [f'loss {loss:.3f}'] if loss is not None else []
        parts += [metrics_text(metrics or {}, self._keys, self._held_out), format_duration(spent)]
        parts += [f'about {format_duration(left)} left'] if epoch < total else []
        self._bar.clear()
        show('', '  '.join(parts), out=self._out)

    def after_train(self, runner: Runner) -> None:
        """Remove the bar."""
        self._bar.close()
