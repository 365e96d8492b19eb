"""Successive halving in a sweep: which runs take part in it, and which are left out as their learning rate was stopped.

Learning rates of a model, method and data set compete with the first seed. A rate that is stopped there is not run with
the other seeds, so that the numbers of a rate are always over all of its seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..evaluation.halving import FACTOR as FACTOR
from ..evaluation.halving import import_scheduler
from ..utils.errors import UserError
from .plan import Plan, Run
from .runs import STOPPED, Task


def check_halving(factor: float) -> None:
    """Find before any run that halving cannot be done.

    Raises:
        UserError: The factor is not more than 1, or Ray Tune is not installed.
    """
    if not factor > 1:
        raise UserError(f'--halving {factor:g}: give more than 1; 3 keeps a third of the learning rates.')
    import_scheduler()


def is_first(plan: Plan, run: Run) -> bool:
    """Whether a run has the first seed of its model."""
    return run.seed == plan.model_seeds.get(run.model, plan.seeds)[0]


def with_halving(plan: Plan, tasks: Sequence[Task], factor: float) -> list[Task]:
    """The same tasks: those of the first seed compete, those of a rate that was stopped are ``'stopped'`` too.

    Args:
        plan: Of the sweep.
        tasks: All runs of some models, methods and data sets.
        factor: One of so many learning rates continues.
    """
    rivals: dict[str, dict[str, str]] = {}
    hooks: dict[str, dict] = {}
    for task in tasks:
        if is_first(plan, task.run):
            cell = task.run.config
            rivals.setdefault(cell, {})[task.directory.name] = task.hash
            if cell not in hooks:
                count = evaluations(task.config.train_cfg)
                hooks[cell] = dict(type='HalvingHook', rivals=rivals[cell], evaluations=count, factor=factor)
    first = [replace(task, halving=hooks[task.run.config]) if is_first(plan, task.run) else task for task in tasks]
    return without_stopped(plan, first)


def without_stopped(plan: Plan, tasks: Sequence[Task]) -> list[Task]:
    """The same tasks; those whose learning rate was stopped with the first seed are ``'stopped'`` unless they ended.

    Args:
        plan: Of the sweep.
        tasks: Output of :func:`with_halving`, with the states of now.
    """
    stopped = {(task.run.config, task.run.lr) for task in tasks if task.state == STOPPED and is_first(plan, task.run)}
    why = 'its learning rate was stopped with the first seed'
    return [
        replace(task, state=STOPPED, reason=why)
        if (task.run.config, task.run.lr) in stopped and task.state in ('new', 'unfinished', 'changed')
        else task
        for task in tasks
    ]


def evaluations(train_cfg: Mapping) -> int:
    """How often MMEngine's loop evaluates during a whole run."""
    by_epoch = train_cfg.get('max_epochs') is not None
    end, begin = train_cfg['max_epochs' if by_epoch else 'max_iters'], train_cfg.get('val_begin', 1)
    interval = train_cfg.get('val_interval', 1 if by_epoch else 1000)  # MMEngine's defaults
    return sum(step >= begin and (step % interval == 0 or step == end) for step in range(1, end + 1))
