"""Failures that a run meets from outside: killed data workers and lost ranks, as one line with the likely cause."""

import inspect
import multiprocessing.process
import os
import signal
import threading
import time
import traceback

from ..utils.cli import line_for_users
from ..utils.errors import UserError
from ..utils.signals import Interrupted
from .peers import Peers, lost_peer

_CAUSES = {
    signal.SIGKILL: 'usually because memory ran out; lower train_dataloader.num_workers or batch_size',
    signal.SIGBUS: 'usually because shared memory (/dev/shm) is full; enlarge it (docker run --shm-size=8g) or lower '
    'num_workers',
}


def explain(error: Exception, peers: Peers | None) -> BaseException | None:
    """The one-line error behind an exception that ended a run.

    Args:
        error: What was raised.
        peers: The other ranks of a distributed run.

    Returns:
        BaseException | None: To be raised instead; ``None`` for an error of the user or a bug.
    """
    if isinstance(error, UserError):
        return None
    if line := _dead_worker(error, 2.0 if isinstance(error, (ConnectionError, EOFError)) else 0.0):
        return UserError(line)
    if line_for_users(error) is not None:
        return None
    if peers is None:
        return None
    # Looking for lost ranks takes seconds. Meanwhile the launcher of a rank that has failed may end this one.
    lost = None if peers.wanted() is not None else lost_peer(peers)
    if (number := peers.wanted()) is not None:
        # A collective has lost a rank that stopped for a signal. Under torchrun the signal may be the launcher's, which
        # ends the ranks of one that has failed, and reports it.
        line = '' if 'TORCHELASTIC_RUN_ID' in os.environ else _stopped(number)
        return Interrupted(number, line)
    return lost


def _stopped(number: int) -> str:
    return f'interrupted by {signal.Signals(number).name}; continue with the same command and --resume'


def _dead_worker(error: Exception, patience: float) -> str | None:
    """Name a data worker that was killed or crashed.

    Args:
        error: What ended the run.
        patience: Seconds in which one may still die: its last message can break off before.
    """
    handler = None
    if threading.current_thread() is threading.main_thread():
        handler = _take_off_torchs_handler()  # after a death it stays out
    deadline = time.monotonic() + patience
    while not (dead := _killed(error)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if not dead:
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)
        return None
    pid, number = dead[0]
    cause = _CAUSES.get(number, 'a crash in native code; num_workers=0 shows where')
    return (
        f'data worker {pid} was killed by signal {number} ({signal.Signals(number).name}), {cause}; continue with the '
        'same command and --resume.'
    )


def _take_off_torchs_handler():
    """torch's handler of SIGCHLD raises wherever the main thread is, also in the call that replaces it."""
    while True:
        try:
            return signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        except RuntimeError:  # the signal was waiting; it is used up now
            continue


def _killed(error: Exception) -> list[tuple[int, int]]:
    """Process and signal of every child that a signal has ended."""
    # Not active_children(), which forgets those that have ended. A loader's own check forgets them too; its iterator
    # is in a frame of the traceback then.
    children = {*getattr(multiprocessing.process, '_children', ())}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        # Statically: an object that the signal met half-made may fail at every other attribute.
        workers = inspect.getattr_static(frame.f_locals.get('self'), '_workers', None)
        children |= {one for one in workers or () if isinstance(one, multiprocessing.process.BaseProcess)}
    return [(child.pid, -child.exitcode) for child in children if (child.exitcode or 0) < 0]
