"""The run directories of a sweep: each run's config and state. Nothing is ever lost."""

import functools
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from pprint import pformat

from mmengine.config import Config

from ..records import (
    FILE,
    LOADERS,
    RunRecord,
    code_version,
    config_hash,
    former_hash,
    is_smoke,
    read_record,
    write_record,
)
from ..runner.build import merge_cfg_options, read_config
from ..utils.errors import UserError
from ..utils.files import temporary_name, write_text
from ..utils.paths import PREVIOUS
from .image_size import set_image_size
from .plan import Plan, Run, cell_paths

CONFIG = 'config.py'
CodeVersion = tuple[tuple[str, str | None], ...]  # the sorted items of ``RunRecord.code``
STOPPED = 'stopped'
SETTLED = ('finished', 'diverged', STOPPED)  # states of a task that is not run again


@dataclass(frozen=True)
class Task:
    """A run with its directory and state: small, as a sweep may have 10,000.

    Attributes:
        run: The run.
        directory: Directory of all its files.
        make_config: Makes its full config, which takes 50 KiB.
        hash: ``config_hash`` of that.
        state: ``'new'``, ``'unfinished'`` (started, failed or killed: it will be resumed), ``'finished'``,
            ``'diverged'`` (it would diverge again) or ``'changed'`` (the directory belongs to another config: it will
            be moved aside); with successive halving ``'stopped'`` (other learning rates were better).
        former_hash: ``former_hash`` of the config; records of version 0.1.0 have it.
        reason: Why an unfinished run has ended, if its record says so.
        code: Version of the code of its record, if there is one.
        halving: Settings of its ``HalvingHook``, if it may be stopped.
    """

    run: Run
    directory: Path
    make_config: Callable[[], Config]
    hash: str
    state: str
    former_hash: str | None = None
    reason: str = ''
    code: CodeVersion | None = None
    halving: dict | None = None

    @property
    def config(self) -> Config:
        """Its full config, made again at every use."""
        return self.make_config()

    def owns(self, record: RunRecord | None) -> bool:
        """Whether a record is of this config."""
        return record is not None and record.config_hash in (self.hash, self.former_hash)


def run_config(plan: Plan, run: Run, directory: Path, cfg_options: dict | None = None) -> Config:
    """The full config of a run.

    Args:
        plan: Gives epochs, data roots, image size and options of the dataset.
        run: The run.
        directory: Its work directory.
        cfg_options: Overrides of the command line, merged last.

    Raises:
        UserError: An option does not fit the config.
    """
    cfg = deepcopy(_cell_config(run.config))
    cfg.optim_wrapper.optimizer.lr = run.lr
    cfg.randomness.seed = run.seed
    if plan.epochs is not None:
        cfg.train_cfg.max_epochs = plan.epochs
    if root := plan.data_roots.get(run.dataset):
        for loader in LOADERS:
            for dataset in cfg[loader].dataset.get('datasets', [cfg[loader].dataset]):
                dataset.data_root = root
    if plan.image_size is not None:
        set_image_size(cfg, plan.image_size)
    merge_cfg_options(cfg, run.config, plan.dataset_options.get(run.dataset))
    for key in ('load_from', 'resume'):
        if key in (cfg_options or {}):
            raise UserError(f'--cfg-options {key}: a sweep resumes its runs itself; set weights in the model part.')
    merge_cfg_options(cfg, run.config, cfg_options)
    cfg.run = dict(model=run.model, method=run.method, dataset=run.dataset)
    cfg.work_dir = str(directory)
    cfg.experiment_name = run.name
    return cfg


@functools.cache
def _cell_config(name: str) -> Config:
    path, method = cell_paths(name)
    cfg = read_config(path)
    if method is not None:
        part = read_config(method)
        cfg.optim_wrapper, cfg.param_scheduler = part.optim_wrapper, part.param_scheduler
    return cfg


def own_rate(name: str) -> float:
    """The learning rate of a config in ``configs/``.

    Args:
        name: Its name, as :attr:`ftsgd_plugin.sweep.plan.Run.config`.
    """
    return _cell_config(name).optim_wrapper.optimizer.lr


def survey(plan: Plan, out: str | os.PathLike, cfg_options: dict | None = None, halving: bool = False) -> list[Task]:
    """Every run of a plan with its state in the directory of a sweep; writes nothing."""
    return [task_of(plan, run, out, cfg_options, halving) for run in plan.runs()]


def task_of(
    plan: Plan, run: Run, out: str | os.PathLike, cfg_options: dict | None = None, halving: bool = False
) -> Task:
    """One run of a plan with its state in the directory of a sweep; writes nothing.

    Args:
        plan, run, out, cfg_options: See :func:`run_config`.
        halving: Whether a run that successive halving has stopped is settled; else it is to be continued.
    """
    directory = Path(out).absolute() / 'runs' / run.name
    return task_in(directory, run, functools.partial(run_config, plan, run, directory, cfg_options), halving)


def task_in(directory: Path, run: Run, cfg: Config | Callable[[], Config], halving: bool = False) -> Task:
    """A run of any config with its state in its directory; writes nothing.

    Args:
        directory: Its work directory, which may not exist yet.
        run: Its names, learning rate and seed, for its record if it fails.
        cfg: Its full config, or what makes it.
        halving: See :func:`task_of`.
    """
    make_config = (lambda: cfg) if isinstance(cfg, Config) else cfg
    made, record = make_config(), record_of(directory)
    task = Task(run, directory, make_config, config_hash(made), '', former_hash(made))
    if record is None:
        # Without a record nothing tells which config a checkpoint belongs to.
        state = 'changed' if any(directory.glob('*.pth')) else 'new'
    elif not task.owns(record) and not _was_equivalent(record, task):
        state = 'changed'
    else:
        state = record.status if record.status in ('finished', 'diverged') else 'unfinished'
        if halving and record.status == STOPPED:
            state = STOPPED
    if record is None:
        return replace(task, state=state)
    reason = record.error if record.status in ('failed', 'interrupted', STOPPED) else ''
    return replace(task, state=state, reason=reason, code=_shared(tuple(sorted(record.code.items()))))


@functools.lru_cache(maxsize=100)
def _shared(code: CodeVersion) -> CodeVersion:
    """One object for all runs of a version."""
    return code


def _was_equivalent(record: RunRecord, task: Task) -> bool:
    """Whether a record of version 0.1.0 is of a config that differs in nothing that can change a number."""
    try:
        written = read_config(str(task.directory / CONFIG))
    except UserError:
        return False
    return former_hash(written) == record.config_hash and config_hash(written) == task.hash


def record_of(directory: Path) -> RunRecord | None:
    """The record in a run's directory; ``None`` if there is none, or none that can be read."""
    try:
        return read_record(directory) if (directory / FILE).is_file() else None
    except UserError:
        return None


def prepare(task: Task, aside: Path | None = None) -> Path | None:
    """Prepare a run's directory for starting or resuming.

    Args:
        task: The run.
        aside: Where an old directory of another config is moved. Default: ``replaced`` in the directory of the sweep.

    Returns:
        Path | None: The new place of an old directory of another config.
    """
    moved = _move_aside(task.directory, aside) if task.state == 'changed' else None
    settings = task.config.to_dict()
    if task.halving:
        settings['custom_hooks'] = [*(settings.get('custom_hooks') or []), task.halving]
    text = f'"""{task.run.name}, written by tools/sweep.py."""\n\n'
    text += ''.join(f'{key} = {pformat(value, width=116, sort_dicts=False)}\n' for key, value in settings.items())
    write_text(task.directory / CONFIG, text)
    return moved


def _move_aside(directory: Path, aside: Path | None) -> Path:
    """Move a directory to where the tables, which look for ``record.json``, do not find it."""
    aside = aside or directory.parents[1] / 'replaced'
    aside.mkdir(parents=True, exist_ok=True)
    number = 1
    while (target := aside / f'{directory.name}.{number}').exists():
        number += 1
    if (directory / FILE).exists():
        os.replace(directory / FILE, directory / f'replaced-{FILE}')
    os.replace(directory, target)
    return target


def mark_failed(task: Task, reason: str) -> None:
    """Mark a run's record as failed; the epochs that it has reached stay, and so does an interruption by a signal."""
    record = record_of(task.directory)
    if task.owns(record) and record.status == 'interrupted':
        return
    if not task.owns(record):
        run = task.run
        record = RunRecord(run.model, run.method, run.dataset, run.lr, run.seed, task.hash, 'failed', [])
        record = replace(record, code=code_version(), smoke=is_smoke(task.config))
    now = datetime.now(timezone.utc).isoformat(timespec='seconds')
    write_record(replace(record, status='failed', error=reason, finished=now), task.directory)


def is_finished(task: Task) -> bool:
    """Whether the directory now holds the finished record of this config."""
    return ended_as(task) == 'finished'


def has_diverged(task: Task) -> bool:
    """Whether the directory now holds the record of this config, and it says that the run has diverged."""
    return ended_as(task) == 'diverged'


def ended_as(task: Task) -> str:
    """The status of the record of this config in the directory; empty if there is none."""
    record = record_of(task.directory)
    return record.status if task.owns(record) else ''


def delete_weights(directory: Path) -> None:
    """Remove the checkpoints of a finished run."""
    delete_previous(directory)
    for path in (directory / 'last_checkpoint', *directory.glob('*.pth'), *directory.glob(temporary_name('*.pth'))):
        path.unlink(missing_ok=True)


def delete_previous(directory: Path) -> None:
    """Remove what only an unfinished run may need: the checkpoint before the last."""
    shutil.rmtree(directory / PREVIOUS, ignore_errors=True)
