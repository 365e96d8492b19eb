"""Signals that ask a training to stop: the first one sets a flag, a second Ctrl-C ends the process at once."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_BOUNCE_SECONDS = 0.5  # a launcher forwards the Ctrl-C that its ranks have received from the terminal already


class Interrupted(SystemExit):
    """A run has stopped because a signal asked it to. The exit code is 128 + the signal's number, as shells have it.

    Args:
        number: The signal.
        message: One line: what was saved and how to continue. Programs print it on stderr; ``''`` prints nothing.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.number, self.message = number, message


class StopSignals(contextlib.AbstractContextManager):
    """Receive :data:`STOP_SIGNALS` within a ``with`` block, in the main thread; elsewhere it does nothing.

    Before :meth:`defer` a signal raises :class:`Interrupted` at once: there is nothing to save yet. Afterwards it sets
    :attr:`received`, and the training stops where it can be resumed. A second SIGINT raises ``KeyboardInterrupt``.
    Signals that the process was started to ignore (``nohup``) stay ignored.

    Attributes:
        received: The first signal, ``None`` before it.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._deferred = False
        self._interrupted: float | None = None  # time of the first SIGINT
        self._earlier: dict[signal.Signals, object] = {}

    def __enter__(self) -> 'StopSignals':
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._earlier[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception) -> None:
        for number, earlier in self._earlier.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
        self._earlier.clear()

    def defer(self) -> None:
        """From now on a signal only sets :attr:`received`."""
        self._deferred = True

    def _receive(self, number: int, frame) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            bounced = 'TORCHELASTIC_RUN_ID' in os.environ and now - (self._interrupted or 0) < _BOUNCE_SECONDS
            if self._interrupted is not None and not bounced:
                raise KeyboardInterrupt
            self._interrupted = now
        self.received = self.received or signal.Signals(number)
        if not self._deferred:
            raise Interrupted(
                number,
                f'interrupted by {self.received.name} before the first step: nothing is lost; start the same command '
                'again',
            )


class ShieldedWorker:
    """A ``worker_init_fn`` that lets a data worker outlive the signals that a scheduler sends to all processes.

    The training process needs its workers until the next update. A worker still ends when that process ends or
    terminates it.

    Args:
        init: The data loader's own ``worker_init_fn``.
    """

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self.init = init

    def __call__(self, worker_id: int) -> None:
        """In the worker: install the shield, then call the loader's own function."""
        for number in STOP_SIGNALS:
            if number != signal.SIGTERM:
                signal.signal(number, signal.SIG_IGN)
        parent = multiprocessing.parent_process()
        if parent is not None and hasattr(signal, 'sigwaitinfo'):  # macOS has none: its workers end with SIGTERM
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # torch's handler ends the worker
            threading.Thread(target=_end_for, args=(parent.pid,), daemon=True).start()
        if self.init is not None:
            self.init(worker_id)


def _end_for(parent: int) -> None:
    """End this process when its parent sends SIGTERM; a signal from anybody else was meant for the whole run."""
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)


def shield_workers(loader) -> None:
    """Give a ``DataLoader`` whose workers have not started yet :class:`ShieldedWorker`; a second call does nothing."""
    if loader.num_workers and not isinstance(loader.worker_init_fn, ShieldedWorker):
        loader.worker_init_fn = ShieldedWorker(loader.worker_init_fn)
