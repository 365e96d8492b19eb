"""Run what is left of a sweep and say what became of it."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..records import code_version, read_record
from ..utils.errors import UserError
from ..utils.paths import tool_path
from .cost import TFLOPS, predict
from .plan import Plan
from .process import run_process, take_lock
from .progress import Progress
from .ray_backend import Cluster
from .runs import CONFIG, LOG, Task, delete_weights, is_finished, mark_failed, prepare, survey

Failures = list[tuple[str, str]]  # name of the run and last line
Command = Callable[[Path], list[str]]  # directory of a run -> what follows the interpreter to start or resume it


def train_command(folder: Path) -> list[str]:
    """Train the run of a directory, or resume it: the default command of a sweep."""
    return [tool_path('train'), str(folder / CONFIG), '--work-dir', str(folder), '--resume']


def describe(tasks: Sequence[Task], out: str | os.PathLike, tflops: float = TFLOPS) -> str:
    """What a sweep would run, and its predicted GPU-hours and disk."""
    lines, hours, largest, kept, left = [], 0.0, 0.0, 0.0, 0
    for task in tasks:
        cost = predict(task.run, task.config)
        kept += cost.kept_bytes
        reason = f': {task.record.error}' if task.record and task.record.status == 'failed' else ''
        lines.append(f'{task.run.name:<60} {task.state + reason:<12} {cost.hours(tflops):9.3f} h')
        if task.state != 'finished':
            left += 1
            hours += cost.hours(tflops)
            largest = max(largest, cost.running_bytes)
    existing = next(parent for parent in [Path(out).absolute(), *Path(out).absolute().parents] if parent.is_dir())
    free = shutil.disk_usage(existing).free
    lines += [
        '',
        f'{len(tasks)} runs, {left} to do: about {hours:.1f} GPU-hours at {tflops:g} TFLOP/s sustained (an assumption)',
        f'disk: up to {_gb(largest)} per run at a time; {_gb(kept)} with --keep-checkpoints; {_gb(free)} are free',
    ]
    return '\n'.join(lines)


def _gb(size: float) -> str:
    return f'{size / 1e9:.1f} GB'


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
) -> Failures:
    """Run on Ray what is not finished, with progress on stdout. No failure stops the others.

    Args:
        plan: The plan.
        out: Folder of the sweep, which :func:`ftsgd_plugin.sweep.plan.claim_folder` has claimed for the plan; only one
            process at a time may run it.
        cfg_options: Overrides of the command line.
        address, gpus, cpus, workers: See :class:`ftsgd_plugin.sweep.ray_backend.Cluster`.
        keep_checkpoints: Keep the weights of finished runs.
        command: Makes the command of a run; tests replace the training by something quick.

    Returns:
        list: Name and last line of every run that failed.

    Raises:
        UserError: Another process runs this sweep, Ray cannot be had, or the folder cannot be written.
    """
    failures: Failures = []
    with _alone(out):
        tasks = survey(plan, out, cfg_options)
        to_do = [i for i, task in enumerate(tasks) if task.state != 'finished']
        for task in tasks:
            if task.state == 'finished' and not keep_checkpoints:
                delete_weights(task.folder)
        _warn_of_other_code(tasks)
        if not to_do:
            print(f'all {len(tasks)} runs are finished')
            return failures
        cluster = Cluster(address, gpus, cpus, workers)
        try:
            with _interruptible(out):  # from here on: Ray sets its own handler of SIGTERM when it starts
                finished = [i for i in range(len(tasks)) if i not in set(to_do)]
                work = [predict(task.run, task.config).flops for task in tasks]
                progress = Progress([task.run.method for task in tasks], work, finished)
                at_once = min(cluster.workers, len(to_do))
                print(f'{len(tasks)} runs, {len(finished)} finished before, {at_once} at a time, in {out}', flush=True)
                progress.draw()

                def start(job: int) -> None:
                    task = tasks[to_do[job]]
                    if moved := prepare(task):
                        progress.say(_moved(task, moved))
                    progress.started(to_do[job])

                jobs = [(command(tasks[i].folder), str(tasks[i].folder)) for i in to_do]
                for job, status, line in cluster.run(jobs, start, progress.draw):
                    task = tasks[to_do[job]]
                    failure = conclude(task, status, line, keep_checkpoints)
                    if failure:
                        failures.append((task.run.name, failure))
                    progress.ended(to_do[job], task.run.name, failure, '' if failure else _note(task))
        finally:
            cluster.close()
    return failures


def run_one(task: Task, keep_checkpoints: bool = False, command: Command = train_command) -> str:
    """Run one task in this process's place, without Ray: what a task of the Slurm array does.

    Returns:
        str: Last line of a failure, ``''`` without one.
    """
    if task.state == 'finished':
        if not keep_checkpoints:
            delete_weights(task.folder)
        return ''
    if moved := prepare(task):
        print(_moved(task, moved))
    with _interruptible(task.folder):
        status, line = run_process(command(task.folder), str(task.folder), {}, os.getcwd())
    return conclude(task, status, line, keep_checkpoints)


def conclude(task: Task, status: int, line: str, keep_checkpoints: bool) -> str:
    """Look at what a run has left; delete its weights or note its failure, and return that."""
    if status == 0 and is_finished(task):
        if not keep_checkpoints:
            delete_weights(task.folder)
        return ''
    failure = line or 'ended without a finished record'
    # On a full disk the failure is still said and the record stays as it was.
    with contextlib.suppress(UserError, OSError):
        mark_failed(task, failure)
    return failure


def _moved(task: Task, where: Path) -> str:
    return f'{task.run.name}: its config has changed; the old folder is now {where}'


def _note(task: Task) -> str:
    record = read_record(task.folder)
    selected = (record.selected or {}).get(record.selected_by)
    accuracy = '' if selected is None else f'ID {selected:6.1%}  '
    return f'{accuracy}{record.resources.get("seconds", 0):6.1f} s'


def _warn_of_other_code(tasks: Sequence[Task]) -> None:
    ours = code_version()
    others = [task.run.name for task in tasks if task.record is not None and task.record.code != ours]
    if others:
        print(f'warning: {len(others)} runs were begun or finished by another version of the code, e.g. {others[0]}')


def failures_text(failures: Failures, out: str | os.PathLike) -> str:
    """The list at the end."""
    lines = [f'{len(failures)} failed; their logs are {out}/runs/NAME/{LOG}; the same command tries them again:']
    return '\n'.join([*lines, *(f'  {name}: {line}' for name, line in failures)])


@contextlib.contextmanager
def _alone(out: str | os.PathLike) -> Iterator[None]:
    """Hold the folder's lock."""
    lock = os.open(Path(out) / 'sweep.lock', os.O_CREAT | os.O_RDWR)
    try:
        if not take_lock(lock, 1.0):
            raise UserError(f'{out}: another process is running this sweep; wait for it or end it.')
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _interruptible(where: str | os.PathLike) -> Iterator[None]:
    """SIGTERM ends the runs as Ctrl-C does, with one line."""

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        raise UserError(f'{where}: interrupted; the same command goes on.') from None
    finally:
        signal.signal(signal.SIGTERM, before)
