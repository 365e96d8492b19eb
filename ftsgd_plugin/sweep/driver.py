"""Run the unfinished runs of a sweep and report how they ended; the logic of ``tools/sweep.py``."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..utils.errors import UserError
from ..utils.options import TFLOPS
from .forecast import describe
from .forked import Forks
from .halving import check_halving, is_first, with_halving, without_stopped
from .plan import Plan, Run, claim_directory, read_plan
from .ray_backend import Cluster
from .ray_slurm import write_ray_script
from .running import Command, Failures, failures_text, locked, run_one, run_tasks, train_command
from .runs import SETTLED, STOPPED, Task, ended_as, task_of
from .slurm import command_line, write_tasks


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
