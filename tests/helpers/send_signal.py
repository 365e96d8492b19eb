"""A hook that sends signals to its own process, or kills a process of the run, at one moment."""

import multiprocessing
import os
import signal
import time

from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

SENT: list[float] = []  # when


@HOOKS.register_module()
class SendSignal(Hook):
    """Send signals at one moment of a run.

    Args:
        numbers: Names of the signals.
        moment, at: When: 'start', 'training', 'validation' or 'saving' at an iteration, 'end'.
        rank: Which rank does it; ``None`` for each.
        worker: Send them to a data worker instead of this process.
    """

    priority = 'VERY_HIGH'

    def __init__(self, numbers: list[str], moment: str, at: int, rank: int | None = None, worker: bool = False) -> None:
        self.numbers, self.moment, self.at, self.rank, self.worker = numbers, moment, at, rank, worker

    def _send(self, moment: str, position: int = 0) -> None:
        if self.moment == moment and self.at == position and self.rank in (None, int(os.environ.get('RANK', 0))):
            SENT.append(time.process_time())
            for number in self.numbers:
                if self.worker:
                    os.kill(multiprocessing.active_children()[0].pid, getattr(signal, number))
                else:
                    signal.raise_signal(getattr(signal, number))

    def before_run(self, runner):
        self._send('start')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._send('training', runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 1:
            self._send('validation', runner.iter)

    def before_save_checkpoint(self, runner, checkpoint):
        self._send('saving', checkpoint['meta']['iter'])

    def after_train(self, runner):
        self._send('end')
