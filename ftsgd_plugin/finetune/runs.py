"""The trainings of a fine-tuning, in this process one after another: each a run directory as those of a sweep."""

import contextlib
import gc
import itertools
import os
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger

from ..evaluation.selection import select_lr
from ..paper.grids import format_rate
from ..records import RunRecord
from ..runner.run import train
from ..sweep.plan import Run
from ..sweep.ray_backend import LOG
from ..sweep.running import conclude
from ..sweep.runs import CONFIG, SETTLED, Task, prepare, task_in
from ..utils.cli import line_for_users
from ..utils.errors import UserError
from .progress import show

REPLACED = 'replaced'  # in the work directory: runs of other configs
_counter = itertools.count()


def training_task(cfg: Config, directory: Path) -> Task:
    """The training of a config in a directory, with its state there.

    Args:
        cfg: A full config with ``run``.
        directory: Its work directory.
    """
    cfg = deepcopy(cfg)
    cfg.work_dir = str(directory)
    # MMEngine keeps loggers and message hubs by this name, for as long as the process lives.
    cfg.experiment_name = f'{directory.name}_{os.getpid()}_{next(_counter)}'
    names = {key: cfg.run[key] for key in ('model', 'method', 'dataset')}
    return task_in(directory, Run(**names, lr=cfg.optim_wrapper.optimizer.lr, seed=cfg.randomness.seed), cfg)


def search_task(cfg: Config, directory: Path, lr: float, epochs: int) -> Task:
    """A run of the search: another rate, fewer epochs, and an evaluation in distribution only.

    Args:
        cfg: The config of the training.
        directory: Directory of the search.
        lr: Learning rate.
        epochs: Epochs.
    """
    cfg = deepcopy(cfg)
    cfg.optim_wrapper.optimizer.lr = lr
    cfg.train_cfg.max_epochs = epochs
    cfg.run.dataset = f'{cfg.run.dataset} (search, {epochs} epochs)'
    id_split = cfg.val_evaluator.id
    datasets = [one for one in cfg.val_dataloader.dataset.datasets if one['split'] == id_split]
    cfg.val_dataloader.dataset.datasets = datasets
    cfg.val_evaluator.ood = id_split  # nothing held out is looked at
    cfg.test_dataloader, cfg.test_evaluator = deepcopy(cfg.val_dataloader), deepcopy(cfg.val_evaluator)
    return training_task(cfg, directory / f'lr{format_rate(lr)}')


def run_task(task: Task, aside: Path, hooks: Sequence[Hook] = (), keep_checkpoints: bool = True) -> str:
    """Train a task or resume it, in this process; its output goes to ``run.log`` in its directory.

    Args:
        task: The task.
        aside: Where its directory is moved if it holds the run of another config.
        hooks: See :func:`ftsgd_plugin.runner.run.train`.
        keep_checkpoints: Whether the weights are kept.

    Returns:
        str: The line of a failure; ``''`` without one, and for a run that has diverged.

    Raises:
        Interrupted: A signal has stopped it, with a checkpoint.
    """
    if task.state in SETTLED:
        return ''
    if moved := prepare(task, aside):
        show('', f'{task.directory}: is of another config; it is {moved} now')
    status, line = 2, ''
    try:
        with output_in(task.directory / LOG):
            train(str(task.directory / CONFIG), work_dir=str(task.directory), resume=True, hooks=hooks)
        status = 0
    except torch.OutOfMemoryError:
        line = 'the memory of the GPU is too small; give a smaller --batch-size or --image-size'
    except Exception as error:
        line = line_for_users(error) or ''
        if not line:
            raise
    finally:
        free_memory()
    return conclude(task, status, line, keep_checkpoints)


@contextlib.contextmanager
def output_in(path: Path) -> Iterator[None]:
    """Append what is printed and logged to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = open(path, 'a', encoding='utf-8')  # noqa: SIM115  loggers of the run keep it
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield
    log.flush()


def free_memory() -> None:
    """Let go of what a run has left, and of its logger, which writes to a file."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings_on_terminal()


def warnings_on_terminal() -> None:
    """Let MMEngine's log be that of no run: warnings go to the terminal, the rest nowhere."""
    MMLogger.get_instance(f'finetune_{os.getpid()}_{next(_counter)}', log_level='WARNING')


def best_rate(records: dict[float, RunRecord], metric: str) -> float | None:
    """The rate whose selected epoch is the best by an ID metric; ``None`` if all have diverged.

    Args:
        records: Rate -> the record of its run; those that have diverged do not count.
        metric: An ID metric.

    Raises:
        UserError: A run has no value of it.
    """
    finished = {lr: [record.selected] for lr, record in records.items() if record.status == 'finished'}
    if any(None in selected for selected in finished.values()):
        raise UserError(f'--metric {metric}: is not defined on the validation images, which may be of one class.')
    return select_lr(finished, id_metric=metric) if finished else None


def best_checkpoint(directory: Path) -> Path:
    """The checkpoint that a run has saved as its best, the newest of several.

    Raises:
        UserError: There is none.
    """
    found = sorted(directory.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f'{directory}: has no best_*.pth; remove the directory and start the same command again.')
    return found[-1]
