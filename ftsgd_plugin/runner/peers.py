"""What the ranks of a run know about each other: who lives, who was asked to stop, at which update all stop.

A thread on every rank writes a sign of life into the process group's store twice a second and reads those of the
others. The training step itself pays for none of it: it looks at one attribute.
"""

import contextlib
import itertools
import os
import socket
import sys
import threading
import time
from datetime import timedelta

import torch
from torch.distributed import PrefixStore, Store

from ..utils.errors import UserError
from ..utils.signals import StopSignals

PERIOD = 0.5  # seconds between signs of life
SILENT_SECONDS = 60.0  # without one, a rank is called silent
LOST_SECONDS = 3.0  # when a collective has failed: a rank without one for so long is lost
_HEARD_SECONDS = 5.0  # how long rank 0 waits for the others to hear of a stop or a loss before it ends
_groups = itertools.count()  # the runs of a process one after the other; equal on all ranks


class Peers(contextlib.AbstractContextManager):
    """The other ranks of a distributed run. A context manager, entered by all ranks.

    *Stopping.* A rank that receives a signal announces it in the store, and every rank hears of it within a second.
    From then on each rank waits for its device at every update boundary, and acknowledges once. When all have, rank 0
    names the next update as the last. No rank can finish that update before rank 0 has begun it, so each finds the
    name in the store when it gets there.

    *Silence.* A rank that gives no sign of life for a minute (stopped, swapped out, its machine lost) is named on
    stderr. After the collective time-out the run ends with a line; NCCL would abort the process in C++.

    *Loss.* The first rank whose collective fails announces who has gone silent. The others, whose collectives may fail
    only when that rank ends, name the same.

    Args:
        signals: What this process has received.
        timeout: The collective time-out in seconds.
        store: A store that all ranks share. Default: the process group's.
        rank, size: Default: the process group's.
    """

    def __init__(
        self,
        signals: StopSignals,
        timeout: float,
        store: Store | None = None,
        rank: int | None = None,
        size: int | None = None,
    ) -> None:
        self.signals, self.timeout = signals, timeout
        self.rank = torch.distributed.get_rank() if rank is None else rank
        self.size = torch.distributed.get_world_size() if size is None else size
        store = torch.distributed.distributed_c10d._get_default_store() if store is None else store
        self._store = PrefixStore(f'ftsgd/{next(_groups)}', store)
        self._wanted: int | None = None
        self._acknowledged = False
        self._updates, self._target = 0, None
        self._names: dict[int, str] = {}
        self._signs: dict[int, bytes] = {}
        self._seen: dict[int, float] = {}
        self._named: set[int] = set()
        self._store_failed = False
        self._lost: list[int] = []  # as the first to notice has announced
        self._looked = time.monotonic()  # when the store has answered last
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name='ftsgd-peers', daemon=True)

    def __enter__(self) -> 'Peers':
        self._store.set(f'name/{self.rank}', f'process {os.getpid()} on {socket.gethostname()}')
        self._store.set(f'sign/{self.rank}', '0')
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._ended.set()
        self._thread.join(4 * PERIOD)

    def wanted(self) -> int | None:
        """The signal that some rank has received, as far as this rank knows."""
        return self.signals.received or self._wanted

    def agree(self) -> int | None:
        """At an update boundary, in the main thread: the signal, if all ranks stop at this boundary."""
        self._updates += 1
        if self._wanted is None:
            return None
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # the host may be ahead of the collectives that it has queued
        if not self._acknowledged:
            self._acknowledged = True
            self._store.add('acknowledged', 1)
        if self._target is None:
            if self.rank == 0 and self._store.add('acknowledged', 0) == self.size:
                self._target = self._updates + 1
                self._store.set('target', str(self._target))
            elif self.rank != 0 and self._store.check(['target']):
                self._target = int(self._store.get('target'))
        return self._wanted if self._target is not None and self._updates >= self._target else None

    def wait_for_save(self) -> None:
        """Rank 0: all is saved. The others wait for it, since the launcher ends all ranks with the first."""
        with contextlib.suppress(RuntimeError):  # the store ends with its host
            self._announce()
            if self.rank == 0:
                self._store.set('saved', '1')
                deadline = time.monotonic() + _HEARD_SECONDS
                while self._store.add('heard', 0) < self.size and time.monotonic() < deadline:
                    time.sleep(PERIOD / 5)
            else:
                self._store.wait(['saved'], timedelta(seconds=self.timeout))

    def lost(self) -> str | None:
        """After a failure, name the ranks that have ended or are stopped; waits for signs of life for some seconds."""
        deadline = time.monotonic() + LOST_SECONDS + 2 * PERIOD
        while time.monotonic() < deadline and not self._store_failed and not self._lost:
            time.sleep(PERIOD)
        if self._lost:
            self._agree_on_loss(noticed=False)
        elif self._store_failed or time.monotonic() - self._looked > LOST_SECONDS:  # then nobody's signs are known
            return f'rank 0 or the launcher of rank {self.rank}'
        else:
            self._lost = self._silent(LOST_SECONDS)
            if self._lost:
                self._agree_on_loss(noticed=True)
        return self._describe(self._lost) if self._lost else None

    def _agree_on_loss(self, noticed: bool) -> None:
        """Let the others know what this rank has noticed; rank 0, whose store ends with it, waits until they do."""
        if 0 in self._lost or self._store_failed:
            return  # the store is rank 0's
        with contextlib.suppress(RuntimeError):
            if noticed:
                self._store.set('lost', ' '.join(map(str, self._lost)))
                self._store.add('heard of loss', 1)
            deadline, living = time.monotonic() + _HEARD_SECONDS, self.size - len(self._lost)
            while self.rank == 0 and self._store.add('heard of loss', 0) < living and time.monotonic() < deadline:
                time.sleep(PERIOD / 5)

    def _watch(self) -> None:
        # Its own connection: a call of the main thread that waits would hold back the signs of life.
        store = self._store.clone() if hasattr(self._store, 'clone') else self._store
        others = [rank for rank in range(self.size) if rank != self.rank]
        count, heard, before = 0, False, time.monotonic()
        try:
            self._names = dict(zip(others, map(bytes.decode, store.multi_get([f'name/{rank}' for rank in others]))))
            while not self._ended.wait(PERIOD):
                count, now = count + 1, time.monotonic()
                store.set(f'sign/{self.rank}', str(count))
                if self.signals.received is not None:
                    self._announce(store)
                if not heard and store.check(['stop']):
                    heard, self._wanted = True, int(store.get('stop'))
                    store.add('heard', 1)
                if not self._lost and store.check(['lost']):
                    self._lost = [int(rank) for rank in store.get('lost').split()]
                    store.add('heard of loss', 1)
                paused = now - before > 10 * PERIOD  # this process was stopped itself
                for rank, sign in zip(others, store.multi_get([f'sign/{rank}' for rank in others])):
                    if paused or sign != self._signs.get(rank):
                        self._signs[rank], self._seen[rank] = sign, now
                before = self._looked = now
                self._name_silent()
        except RuntimeError:  # of the store: its host has ended
            self._store_failed = True

    def _announce(self, store: Store | None = None) -> None:
        if (number := self.signals.received or self._wanted) is not None:
            (store or self._store).set('stop', str(int(number)))

    def _silent(self, seconds: float) -> list[int]:
        now = time.monotonic()
        return [rank for rank, seen in sorted(self._seen.items()) if now - seen > seconds]

    def _describe(self, ranks: list[int]) -> str:
        return ', '.join(f'rank {rank} ({self._names.get(rank, "unknown")})' for rank in ranks)

    def _name_silent(self) -> None:
        silent = self._silent(min(SILENT_SECONDS, self.timeout / 2))
        self._named &= {*silent}
        reports = self.rank == min({*range(self.size)} - {*silent})
        if reports and (new := [rank for rank in silent if rank not in self._named]):
            self._named |= {*new}
            self._print(
                f'warning: {self._describe(new)} has given no sign of life for '
                f'{min(SILENT_SECONDS, self.timeout / 2):g} s: stopped, swapped out or lost; the run ends after '
                f'{self.timeout:g} s (env_cfg.dist_cfg.timeout)'
            )
        if gone := self._silent(0.95 * self.timeout):  # just before NCCL's own watchdog
            if reports:
                self._print(f'error: {lost_line(self._describe(gone))}')
            else:
                time.sleep(LOST_SECONDS)
            os._exit(2)  # the main thread hangs in a collective

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def lost_line(who: str) -> str:
    """What a user reads about ranks that have been lost."""
    return (
        f'{who} is lost: killed (usually because memory ran out), stopped, or cut off from the network; continue with '
        'the same command and --resume.'
    )


def lost_peer(peers: Peers) -> UserError | None:
    """After a failure without a line of its own: the error that names the lost ranks, ``None`` if none is lost."""
    who = peers.lost()
    return None if who is None else UserError(lost_line(who))
