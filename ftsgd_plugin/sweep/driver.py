"""Run the unfinished runs of a sweep and report how they ended; the logic of ``tools/sweep.py``."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import filelock

from ..profiling.run_costs import RunCost
from ..records import code_version, read_record
from ..utils.errors import UserError
from ..utils.metrics import ID_METRIC
from ..utils.options import TFLOPS
from ..utils.paths import tool_path
from .forecast import describe, flop_weights, predict_costs
from .forked import Forks
from .halving import check_halving, is_first, with_halving, without_stopped
from .plan import Plan, Run, claim_directory, read_plan
from .progress import SweepProgress, repeating
from .ray_backend import LOG, Cluster, hold_lock, run_process
from .ray_slurm import write_ray_script
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
    task_of,
)
from .slurm import command_line, write_tasks

WATCH_SECONDS = 20.0
Failures = list[tuple[str, str]]  # name of the run and last line
Command = Callable[[Path], list[str]]  # directory of a run -> what follows the interpreter to start or resume it


def train_command(directory: Path) -> list[str]:
    """Train the run of a directory, or resume it: the default command of a sweep."""
    return [tool_path('train'), str(directory / CONFIG), '--work-dir', str(directory), '--resume']


def sweep(
    plan: str | os.PathLike,
    out: str | os.PathLike | None = None,
    cfg_options: dict | None = None,
    dry_run: bool = False,
    tflops: float = TFLOPS,
    address: str | None = None,
    gpus: float | None = None,
    cpus: int | None = None,
    workers: int | None = None,
    keep_checkpoints: bool = False,
    slurm: str | os.PathLike | None = None,
    index: int | None = None,
    forked: bool = False,
    ray_nodes: int | None = None,
    halving: float | None = None,
) -> Failures:
    """Run a plan file on Ray, or print what it would run, or write it as a Slurm script, or run one of its runs.

    Args:
        plan: The plan file.
        out: Directory of the sweep. Default: ``work_dirs/PLAN_NAME``.
        cfg_options: Overrides of every run's config.
        dry_run: Print the runs with predicted GPU-hours and disk space; run and write nothing.
        tflops: Sustained TFLOP/s of a GPU that the GPU-hours assume.
        address, gpus, cpus, workers: See :class:`ftsgd_plugin.sweep.ray_backend.Cluster`.
        keep_checkpoints: Keep the weights of finished runs.
        slurm: Write a Slurm array script into this directory and run nothing.
        index: Run this one run of the plan here, without Ray.
        forked: Run ``workers`` at a time in forked processes of this machine, without Ray.
        ray_nodes: With ``slurm``: the script starts Ray on so many machines of one job, instead of an array.
        halving: Stop learning rates early, see :func:`run_sweep`.

    Returns:
        list: Name and last line of every run that failed.

    Raises:
        UserError: The plan is wrong, the directory belongs to another plan or process, ``index`` is outside the plan,
            or as :func:`run_sweep`.

    Examples:
        >>> sweep('configs/sweeps/demo.py', workers=2)
    """
    content = read_plan(str(plan))
    out = Path(out or Path('work_dirs') / Path(plan).stem)
    if halving is not None:
        check_halving(halving)
    if dry_run:
        print(describe(list_tasks(content, content.runs(), out, cfg_options, halving), out, tflops))
        return []
    runs = content.runs()
    if index is not None and not 0 <= index < len(runs):
        raise UserError(f'--index {index}: the plan has runs 0 to {len(runs) - 1}.')
    claim_directory(content, out)
    more = ['--keep-checkpoints'] * keep_checkpoints + ([] if halving is None else ['--halving', f'{halving:g}'])
    if slurm and ray_nodes is not None:
        options = place_options(gpus, cpus, workers) + more
        words = command_line(plan, out, options, cfg_options)
        script = write_ray_script(slurm, ray_nodes, len(runs), words)
        print(f'{len(runs)} runs; start them with: sbatch --partition=NAME --time=HH:MM:SS --gpus-per-node=N {script}')
        return []
    if slurm:
        write_tasks(slurm, runs, plan, out, more, cfg_options, gpus, cpus)
        return []
    if index is not None:
        own = runs[index]
        rivals = [own] if halving is None else [run for run in runs if run.config == own.config]
        task = next(t for t in list_tasks(content, rivals, out, cfg_options, halving) if t.run == own)
        failure = run_one(task, keep_checkpoints)
        print(f'{task.run.name}: {failure or ended_as(task) or f"{task.state}: {task.reason}"}')
        return [(task.run.name, failure)] if failure else []
    failures = run_sweep(
        content, out, cfg_options, address, gpus, cpus, workers, keep_checkpoints, forked=forked, halving=halving
    )
    if failures:
        print(f'\n{failures_text(failures, out)}', file=sys.stderr)
    else:
        print(f'\nfinished: {out}')
    return failures


def run_sweep(
    plan: Plan,
    out: str | os.PathLike,
    cfg_options: dict | None = None,
    address: str | None = None,
    gpus: float | None = None,
    cpus: int | None = None,
    workers: int | None = None,
    keep_checkpoints: bool = False,
    command: Command = train_command,
    forked: bool = False,
    halving: float | None = None,
) -> Failures:
    """Run the unfinished runs of a plan on Ray or in forked processes, with progress on stdout.

    No failure stops the others.

    Args:
        plan: The plan.
        out: Directory of the sweep, claimed for the plan by :func:`ftsgd_plugin.sweep.plan.claim_directory`. Only one
            process at a time may run it.
        cfg_options: Overrides of every run's config.
        address, gpus, cpus, workers: See :class:`ftsgd_plugin.sweep.ray_backend.Cluster`.
        keep_checkpoints: Keep the weights of finished runs.
        command: Gives the command of a run.
        forked: Run ``workers`` at a time in forked processes of this machine, without Ray; see
            :class:`ftsgd_plugin.sweep.forked.Forks`.
        halving: One of so many learning rates continues at every decision, by the ID metric of the first seed; others
            are stopped (:class:`ftsgd_plugin.HalvingHook`) and their other seeds left out. The other seeds of the
            remaining rates run afterwards. Default: every run is run to its end.

    Returns:
        list: Name and last line of every run that failed.

    Raises:
        UserError: Another process runs this sweep, Ray is not available, the directory cannot be written, or the sweep
            was interrupted.
    """
    with locked(out):
        tasks = list_tasks(plan, plan.runs(), out, cfg_options, halving)
        place = place_of(address, gpus, cpus, workers, forked)
        if halving is None:
            return run_tasks(tasks, out, place, keep_checkpoints, command)
        first = [task for task in tasks if is_first(plan, task.run)]
        failures = run_tasks(first, out, place, keep_checkpoints, command)
        now = [replace(task, state=STOPPED) if ended_as(task) == STOPPED else task for task in first]
        others = without_stopped(plan, [*now, *(task for task in tasks if not is_first(plan, task.run))])[len(now) :]
        if any(task.state not in SETTLED for task in others):
            print(
                f'the other seeds of the {len(now) - sum(t.state == STOPPED for t in now)} runs that were not stopped'
            )
            failures += run_tasks(others, out, place, keep_checkpoints, command)
        return failures


def list_tasks(
    plan: Plan, runs: Sequence[Run], out: str | os.PathLike, cfg_options: dict | None, halving: float | None
) -> list[Task]:
    """Some runs of a plan with their states; with halving all runs of a model, method and data set are needed."""
    tasks = [task_of(plan, run, out, cfg_options, halving is not None) for run in runs]
    return tasks if halving is None else with_halving(plan, tasks, halving)


def place_of(
    address: str | None = None,
    gpus: float | None = None,
    cpus: int | None = None,
    workers: int | None = None,
    forked: bool = False,
) -> Callable[[], Cluster | Forks]:
    """What makes the place where runs run: Ray, or forked processes. The arguments are those of :func:`run_sweep`."""
    return (lambda: Forks(workers)) if forked else (lambda: Cluster(address, gpus, cpus, workers))


def place_options(gpus: float | None, cpus: int | None, workers: int | None) -> list[str]:
    """The options of ``tools/sweep.py`` that say so."""
    values = {'--gpus-per-run': gpus, '--cpus-per-run': cpus, '--workers': workers}
    return [word for option, value in values.items() if value is not None for word in (option, f'{value:g}')]


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
