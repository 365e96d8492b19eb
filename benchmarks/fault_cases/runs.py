"""Kills, signals, dead workers and dead ranks: what a run leaves, and whether resuming equals never stopping."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from .place import (
    EPOCHS,
    PER_EPOCH,
    Outcome,
    Place,
    difference,
    iterations,
    last_line,
    lines_of,
    train_words,
    training_state,
)

DIE = 'tests/helpers/train_and_die.py'
LAST = f'epoch_{EPOCHS}.pth'
# Iteration after which a process is killed from outside; 12 of them, in every epoch.
KILLED_AFTER = (1, 2, 3, 5, 6, 7, 9, 11, 12, 13, 15, 17)
# In a checkpoint write: moment, file, which time (see tests/helpers/train_and_die.py).
KILLED_WRITING = (
    ('half', 'epoch_1.pth', 1),
    ('half', 'epoch_1.pth', 2),
    ('moved', 'epoch_1.pth', 1),
    ('half', 'epoch_2.pth', 1),
    ('moved', 'epoch_2.pth', 1),
    ('removing', 'epoch_1.pth', 1),
    ('half', LAST, 1),
    ('half', LAST, 2),
)


def straight_run(place: Place, config: Path, name: str) -> dict:
    """The final state of the run that nothing stops; trained once."""
    work_dir = place.directory / name
    if not (work_dir / LAST).exists():
        result = place.train(config, work_dir)
        assert result.returncode == 0, result.stderr
    return training_state(work_dir / LAST)


def resumed(place: Place, config: Path, work_dir: Path, expected: dict) -> str:
    """Resume a run; what is wrong with its end, or an empty string."""
    result = place.train(config, work_dir, '--resume')
    if result.returncode != 0:
        return f'resuming ended with code {result.returncode}: {last_line(result)}'
    return difference(training_state(work_dir / LAST), expected)


def kills(place: Place, count: int) -> Iterator[Outcome]:
    """SIGKILL during training and in checkpoint writes; the resumed run must be bit-identical."""
    config = place.small_config('kills.py')
    expected = straight_run(place, config, 'kills_straight')
    cases = [*KILLED_AFTER, *KILLED_WRITING]
    for case in cases[-count // 2 :] + cases[: count - count // 2] if count < len(cases) else cases:
        work_dir = place.fresh('kills')
        if isinstance(case, int):
            with place.started('tools/train.py', *train_words(config, work_dir), name='kills') as run:
                reached = run.wait_until(lambda text, case=case: iterations(text) >= case)
                run.send(signal.SIGKILL)
                code = run.result().returncode
            name = f'killed after iteration {case}'
        else:
            name, reached = f'killed: {case[1]} {case[0]}, time {case[2]}', True
            code = place.run(DIE, *case, *train_words(config, work_dir)).returncode
        if code != -signal.SIGKILL or not reached:
            yield Outcome(name, False, f'was not killed there (exit code {code})')
            continue
        wrong = resumed(place, config, work_dir, expected)
        yield Outcome(name, not wrong, wrong)


def _training(iteration: int) -> Callable[[str], bool]:
    return lambda text: iterations(text) >= iteration


def _says(words: str) -> Callable[[str], bool]:
    return lambda text: words in text


SIGNALS = (
    ('SIGTERM', 1, 'within an epoch', _training(4)),
    ('SIGUSR1', 1, 'at the end of an epoch', _training(PER_EPOCH)),
    ('SIGHUP', 1, 'in a validation', _says('Epoch(val) [1][1/')),
    ('SIGTERM', 1, 'while a checkpoint is written', _says('Saving checkpoint at 2 epochs')),
    ('SIGINT', 1, 'within an epoch', _training(8)),
    ('SIGINT', 2, 'twice within an epoch', _training(8)),
    ('SIGTERM', 1, 'before the first step', _says('Checkpoints will be saved to')),
)


def signals(place: Place, count: int) -> Iterator[Outcome]:
    """Requests to stop: one line, the exit code 128 + n, and a resumed run that is bit-identical."""
    config = place.small_config('signals.py')
    expected = straight_run(place, config, 'signals_straight')
    for name, times, moment, is_due in SIGNALS[:count]:
        case, work_dir = f'{name} {moment}', place.fresh('signals')
        with place.started('tools/train.py', *train_words(config, work_dir), name='signals') as run:
            reached = run.wait_until(is_due)
            for _ in range(times):
                run.send(getattr(signal, name))
            result = run.result()
        lines = [line for line in result.stderr.splitlines() if 'interrupted by' in line]
        if not reached or result.returncode != 128 + getattr(signal, name):
            wrong = f'exit code {result.returncode}: {last_line(result)}'
        elif len(lines) != 1 or 'Traceback' in result.stderr:
            wrong = f'{len(lines)} lines: {last_line(result)}'
        else:
            wrong = resumed(place, config, work_dir, expected)
        yield Outcome(case, not wrong, wrong)


def children(pid: int) -> list[int]:
    """Processes that a process has started, the latest last."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]


WORKERS = (
    ('a data worker, first epoch', signal.SIGKILL, _training(2)),
    ('a data worker, second epoch', signal.SIGKILL, _training(8)),
    ('a data worker by SIGBUS', signal.SIGBUS, _training(2)),
)
RANKS = (
    ('the second rank', 1, _training(3)),
    ('the first rank', 0, _training(3)),
    ('the second rank, second epoch', 1, _training(8)),
)


def deaths(place: Place, count: int) -> Iterator[Outcome]:
    """Killed data workers and ranks: one line with the cause and how to resume, and a run that resumes."""
    for case in [*WORKERS, *RANKS][:count]:
        yield from _worker(place, *case) if case in WORKERS else _rank(place, *case)


def _worker(place: Place, name: str, number: int, is_due: Callable[[str], bool]) -> Iterator[Outcome]:
    config = place.small_config('workers.py', workers=2)
    expected = straight_run(place, config, 'workers_straight')
    work_dir = place.fresh('workers')
    with place.started('tools/train.py', *train_words(config, work_dir), name='workers') as run:
        reached, wrong = run.wait_until(is_due), ''
        workers = children(run.pid) if reached else []
        if not workers:
            wrong = 'no worker was alive'
        for pid in workers[-1:]:
            os.kill(pid, number)
        result = run.result()
    yield Outcome(f'death of {name}', not (wrong := wrong or _explained(result)), wrong)
    if not wrong and (wrong := resumed(place, config, work_dir, expected)):
        yield Outcome(f'resuming after the death of {name}', False, wrong)


def _rank(place: Place, name: str, rank: int, is_due: Callable[[str], bool]) -> Iterator[Outcome]:
    from helpers import free_port

    config, work_dir = place.small_config('ranks.py'), place.fresh('ranks')
    words = [*train_words(config, work_dir, '--launcher', 'pytorch')]
    shared = dict(WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    with (
        place.started('tools/train.py', *words, name='rank0', RANK=0, LOCAL_RANK=0, **shared) as first,
        place.started('tools/train.py', *words, name='rank1', RANK=1, LOCAL_RANK=1, **shared) as second,
    ):
        reached = first.wait_until(is_due)
        (first, second)[rank].send(signal.SIGKILL)
        result = (second, first)[rank].result()
    wrong = _explained(result) if reached else 'the run ended before'
    yield Outcome(f'death of {name}', not wrong, wrong)


def _explained(result: subprocess.CompletedProcess) -> str:
    """What is missing in the words of a process that has lost another, or an empty string."""
    lines = lines_of(result, 'error: ', 'interrupted ')
    if result.returncode in (0, -signal.SIGKILL) or 'Traceback' in result.stderr:
        return f'exit code {result.returncode}: {last_line(result)}'
    if len(lines) != 1 or '--resume' not in lines[0]:
        return f'{len(lines)} lines: {last_line(result)}'
    return ''
