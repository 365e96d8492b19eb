"""Run tasks of a sweep's directory, with progress on stdout, and conclude each by its record."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import filelock

from ..profiling.run_costs import RunCost
from ..records import code_version, read_record
from ..utils.errors import UserError
from ..utils.metrics import ID_METRIC
from ..utils.paths import tool_path
from .forecast import flop_weights, predict_costs
from .forked import Forks
from .progress import SweepProgress, repeating
from .ray_backend import LOG, Cluster, hold_lock, run_process
from .runs import (
    CONFIG,
    SETTLED,
    STOPPED,
    Task,
    delete_previous,
    delete_weights,
    ended_as,
    has_diverged,
    mark_failed,
    prepare,
)

WATCH_SECONDS = 20.0
Failures = list[tuple[str, str]]  # name of the run and last line
Command = Callable[[Path], list[str]]  # directory of a run -> what follows the interpreter to start or resume it


def train_command(directory: Path) -> list[str]:
    """Train the run of a directory, or resume it: the default command of a sweep."""
    return [tool_path('train'), str(directory / CONFIG), '--work-dir', str(directory), '--resume']


def run_tasks(
    tasks: Sequence[Task],
    out: str | os.PathLike,
    place: Callable[[], Cluster | Forks],
    keep_checkpoints: bool = False,
    command: Command = train_command,
    forecast: bool = True,
    watch: Callable[[], str] | None = None,
    costs: Sequence[RunCost | None] | None = None,
) -> Failures:
    """Run those of some tasks that are not finished, with progress on stdout. No failure stops the others.

    Args:
        tasks: Any runs of a sweep's directory, which the caller has locked.
        out: The directory, for messages.
        place: Makes the place where they run, if there is one to run.
        keep_checkpoints, command: See :func:`run_sweep`.
        forecast: Predict the costs first, for the time that is left. Defaults to True.
        watch: Gives a line that is printed every ``WATCH_SECONDS`` while runs are running, unless it is empty.
        costs: Predicted costs of all tasks; with them nothing is predicted.

    Returns:
        list: Name and last line of every run that failed.

    Raises:
        UserError: As :func:`run_sweep`.
    """
    failures: Failures = []
    to_do = [i for i, task in enumerate(tasks) if task.state not in SETTLED]
    for task in tasks:
        if task.state == 'finished' and not keep_checkpoints:
            delete_weights(task.directory)
    _warn_of_other_code(tasks)
    if not to_do:
        print(f'all {len(tasks)} runs are finished')
        _name_diverged(tasks)
        _count_stopped(tasks)
        return failures
    if costs is None and forecast:
        costs = predict_costs(tasks)
    flops = [1.0] * len(tasks) if costs is None else flop_weights(costs)
    finished = [i for i, task in enumerate(tasks) if task.state in SETTLED]
    cluster = place()
    try:
        at_once = min(cluster.workers, len(to_do))
        print(f'{len(tasks)} runs, {len(finished)} finished before, {at_once} at a time, in {out}', flush=True)
        # Only now: Ray sets its own handler of SIGTERM when it starts.
        with contextlib.ExitStack() as stack:
            stack.enter_context(_interruptible(out))
            methods = [task.run.method for task in tasks]
            progress = stack.enter_context(SweepProgress(methods, flops, finished))
            if watch is not None:
                stack.enter_context(repeating(WATCH_SECONDS, lambda: (line := watch()) and progress.print(line)))

            def start(job: int) -> None:
                task = tasks[to_do[job]]
                if moved := prepare(task):
                    progress.print(_moved(task, moved))
                progress.started(to_do[job])

            jobs = ((command(tasks[i].directory), str(tasks[i].directory)) for i in to_do)
            for job, status, line in cluster.run(jobs, start):
                task = tasks[to_do[job]]
                failure = conclude(task, status, line, keep_checkpoints)
                if failure:
                    failures.append((task.run.name, failure))
                progress.ended(to_do[job], task.run.name, failure, '' if failure else _note(task))
    finally:
        cluster.close()
    _name_diverged(tasks)
    _count_stopped(tasks)
    return failures


def run_one(task: Task, keep_checkpoints: bool = False, command: Command = train_command) -> str:
    """Run one task from this process without Ray, as a task of the Slurm array does.

    Returns:
        str: Last line of a failure, ``''`` without one.
    """
    if task.state == 'finished':
        if not keep_checkpoints:
            delete_weights(task.directory)
        return ''
    if task.state in SETTLED:
        return ''
    if moved := prepare(task):
        print(_moved(task, moved))
    with _interruptible(task.directory):
        status, line = run_process(command(task.directory), str(task.directory), {}, os.getcwd())
    return conclude(task, status, line, keep_checkpoints)


def conclude(task: Task, status: int, line: str, keep_checkpoints: bool) -> str:
    """After a run has ended, delete its weights, or mark its record as failed and return the failure."""
    ended = ended_as(task)
    if status == 0 and ended in ('finished', STOPPED):
        (delete_previous if keep_checkpoints else delete_weights)(task.directory)
        return ''
    if ended == 'diverged':
        return ''  # a result, not a failure: the same settings diverge again
    failure = line or 'ended without a finished record'
    # On a full disk the failure is still reported and the record stays as it was.
    with contextlib.suppress(UserError, OSError):
        mark_failed(task, failure)
    return failure


def _moved(task: Task, where: Path) -> str:
    return f'{task.run.name}: its config has changed; the old directory is now {where}'


def _name_diverged(tasks: Sequence[Task]) -> None:
    names = [task.run.name for task in tasks if has_diverged(task)]
    if names:
        more = f' and {len(names) - 4} more' if len(names) > 4 else ''
        print(f'{len(names)} diverged, without a result: {", ".join(names[:4])}{more}; to try again, remove their runs')


def _count_stopped(tasks: Sequence[Task]) -> None:
    if not any(task.halving or task.state == STOPPED for task in tasks):
        return
    count = sum(task.state == STOPPED or ended_as(task) == STOPPED for task in tasks)
    print(f'{count} of {len(tasks)} stopped by successive halving; without --halving they would be continued')


def _note(task: Task) -> str:
    record = read_record(task.directory)
    if record.status in ('diverged', STOPPED):
        return f'{record.status}: {record.error}'
    selected = (record.selected or {}).get(record.selected_by)
    label = 'ID' if record.selected_by == ID_METRIC else record.selected_by
    result = '' if selected is None or record.smoke else f'{label} {selected:6.1%}  '
    return f'{result}{record.resources.get("seconds", 0):6.1f} s'


def _warn_of_other_code(tasks: Sequence[Task]) -> None:
    ours = tuple(sorted(code_version().items()))
    others = [task.run.name for task in tasks if task.code is not None and task.code != ours]
    if others:
        print(f'warning: {len(others)} runs were begun or finished by another version of the code, e.g. {others[0]}')


def failures_text(failures: Failures, out: str | os.PathLike) -> str:
    """The list of failures that ends a sweep."""
    lines = [f'{len(failures)} failed; their logs are {out}/runs/NAME/{LOG}; the same command tries them again:']
    return '\n'.join([*lines, *(f'  {name}: {line}' for name, line in failures)])


@contextlib.contextmanager
def locked(out: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of a sweep's directory."""
    try:
        with hold_lock(Path(out) / 'sweep.lock', 1):
            yield
    except filelock.Timeout:
        raise UserError(f'{out}: another process is running this sweep; wait for it or end it.') from None


@contextlib.contextmanager
def _interruptible(where: str | os.PathLike) -> Iterator[None]:
    """Let SIGTERM end the runs as Ctrl-C does, with one line."""

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        raise UserError(f'{where}: interrupted; run the same command again to continue.') from None
    finally:
        signal.signal(signal.SIGTERM, before)
