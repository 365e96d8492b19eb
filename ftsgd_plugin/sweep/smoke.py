"""Try every config of a plan for two iterations before it costs GPU-hours; the logic of ``tools/sweep.py --smoke``."""

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from tabulate import tabulate

from ..paper.names import CONFIG_METHODS
from ..profiling.run_costs import RunCost
from ..utils.errors import UserError
from ..utils.format import format_bytes, printable
from ..utils.options import TFLOPS
from ..utils.paths import config_path
from .absent import Absent, find_images, find_weights
from .driver import place_of
from .forecast import describe, predict_costs
from .forked import Forks
from .plan import Plan, Run, claim_directory, read_plan
from .ray_backend import LOG, Cluster
from .running import locked, run_one, run_tasks
from .runs import Task, own_rate, record_of, run_config, task_in
from .slurm import write_tasks
from .two_iterations import LOADERS, Images, cut

FAILED, MISSING = 1, 3  # exit codes: something has failed; nothing has, but data or weights are missing
Cell = tuple[str, str, str]  # model, method, data set


@dataclass(frozen=True)
class Trial:
    """The trial of a config.

    Attributes:
        run: With the config's own learning rate and the plan's first seed.
        task: What is run; ``None`` where something is missing.
        absent: What is missing.
    """

    run: Run
    task: Task | None
    absent: tuple[Absent, ...] = ()

    @property
    def outcome(self) -> tuple[str, str]:
        """``'ran'``, ``'failed'``, ``'missing'`` or ``'left'`` (not run yet, or not to its end), and why it failed."""
        if self.task is None:
            return 'missing', ''
        record = record_of(self.task.directory)
        if not self.task.owns(record) or record.status in ('running', 'interrupted'):
            return 'left', ''
        if record.status == 'finished':
            return 'ran', ''
        return 'failed', f'diverged: {record.error}' if record.status == 'diverged' else record.error


def smoke(
    plan: str | os.PathLike,
    out: str | os.PathLike | None = None,
    cfg_options: dict | None = None,
    random_weights: bool = False,
    dry_run: bool = False,
    tflops: float = TFLOPS,
    address: str | None = None,
    gpus: float | None = None,
    cpus: int | None = None,
    workers: int | None = None,
    slurm: str | os.PathLike | None = None,
    index: int | None = None,
    forked: bool = False,
) -> int:
    """Run every config of a plan's models and data sets, of all methods, for two iterations and a short evaluation.

    Each trains one batch in each of two epochs and evaluates a few images of every split. Those whose data or weights
    are missing are named; the others run, the cheapest first. No weights are written, and no table shows the records.
    A second call continues: what has run stays, what has failed or was missing is tried again.

    Args:
        plan: The plan file.
        out: Directory of the trials, shared with no sweep. Default: ``work_dirs/PLAN_NAME_smoke``.
        cfg_options: Overrides of every config.
        random_weights: Start from random weights instead of the pretrained ones.
        dry_run: Print what would run and how earlier trials have ended; run and write nothing.
        tflops, address, gpus, cpus, workers, slurm, index, forked: See :func:`ftsgd_plugin.sweep.driver.sweep`. Indices
            count all configs, whatever is missing.

    Returns:
        int: 0 if nothing has failed and nothing is missing, 1 if something has failed, 3 if something is only missing.

    Raises:
        UserError: As :func:`ftsgd_plugin.sweep.driver.sweep`.

    Examples:
        >>> smoke('configs/sweeps/paper.py', random_weights=True, forked=True)
    """
    content = read_plan(str(plan))
    out = Path(out or Path('work_dirs') / f'{Path(plan).stem}_smoke')
    cells = list_cells(content)
    if index is not None:
        if not 0 <= index < len(cells):
            raise UserError(f'--index {index}: there are configs 0 to {len(cells) - 1}.')
        cells = [cells[index]]
    if not dry_run:
        claim_directory(content, out, smoke=True)
    trials = find_trials(content, cells, out, cfg_options, random_weights)
    tasks = [trial.task for trial in trials if trial.task]
    if slurm:
        options = ['--smoke', *['--random-weights'] * random_weights]
        write_tasks(slurm, [trial.run for trial in trials], plan, out, options, cfg_options, gpus, cpus)
        print('afterwards --smoke --dry-run prints how they have ended\n')
    elif dry_run:
        print(f'{describe(cheapest_first(tasks)[0], out, tflops)}\n')
    elif index is not None:
        for task in tasks:
            run_one(task)
    else:
        _run(tasks, out, place_of(address, gpus, cpus, workers, forked))
    print(summary(trials, out))
    return exit_code(trials)


def _run(tasks: Sequence[Task], out: Path, place: Callable[[], Cluster | Forks]) -> None:
    with locked(out):
        if tasks:
            tasks, costs = cheapest_first(tasks)
            run_tasks(tasks, out, place, costs=costs)
            print()


def list_cells(plan: Plan) -> list[Cell]:
    """Every config of a plan's models and data sets: of the plan's methods, and of all others that have one."""
    methods = dict.fromkeys([*plan.lrs, *CONFIG_METHODS])
    cells = [(m, method, d) for m, d, method in itertools.product(plan.models, plan.datasets, methods)]
    return [cell for cell in cells if cell[1] in plan.lrs or _has_config(cell)]


def _has_config(cell: Cell) -> bool:
    try:
        return bool(config_path('_'.join(cell)))
    except UserError:
        return False


def find_trials(
    plan: Plan, cells: Sequence[Cell], out: Path, cfg_options: dict | None = None, random_weights: bool = False
) -> list[Trial]:
    """Find for every config whether its data and weights exist, and cut it; writes nothing.

    Args:
        plan: Gives data roots, image size, seeds and options.
        cells: Output of :func:`list_cells`.
        out: Directory of the trials.
        cfg_options, random_weights: See :func:`smoke`.
    """
    images: dict[str, Images | Absent] = {}
    weights: dict[str, Absent | None] = {}
    trials = []
    for model, method, dataset in cells:
        seed = plan.model_seeds.get(model, plan.seeds)[0]
        run = Run(model, method, dataset, own_rate(f'{model}_{method}_{dataset}'), seed)
        directory = out.absolute() / 'runs' / run.name
        cfg = run_config(plan, run, directory, cfg_options)
        if random_weights and cfg.model.backbone.get('pretrained'):
            cfg.model.backbone.pretrained = False
        key = _data_of(cfg)
        if key not in images:
            images[key] = find_images(cfg, dataset)
        if model not in weights:
            weights[model] = find_weights(cfg, model)
        absent = tuple(one for one in (images[key], weights[model]) if isinstance(one, Absent))
        if not absent:
            cut(cfg, images[key])
        trials.append(Trial(run, None if absent else task_in(directory, run, cfg), absent))
    return trials


def _data_of(cfg: Config) -> str:
    """What the choice of images depends on; the same for all models and methods of a data set."""
    loaders = {name: cfg[name].to_dict() for name in LOADERS}
    for loader in loaders.values():
        for settings in [loader['dataset'], *loader['dataset'].get('datasets', [])]:
            settings.pop('pipeline', None)
    return json.dumps(loaders, sort_keys=True, default=str)


def cheapest_first(tasks: Sequence[Task]) -> tuple[list[Task], list[RunCost | None]]:
    """Tasks by their predicted FLOPs, with their costs; those without a prediction last."""
    known = [
        (cost is None, 0.0 if cost is None else cost.flops, i, cost) for i, cost in enumerate(predict_costs(tasks))
    ]
    known.sort(key=lambda one: one[:3])
    return [tasks[i] for *_, i, _ in known], [cost for *_, cost in known]


def exit_code(trials: Sequence[Trial]) -> int:
    """0, ``FAILED`` or ``MISSING``."""
    found = {trial.outcome[0] for trial in trials}
    return FAILED if 'failed' in found else MISSING if 'missing' in found else 0


def summary(trials: Sequence[Trial], out: str | os.PathLike) -> str:
    """A table of the outcomes by model and data set, every failure, and everything that is missing; a line each."""
    outcomes = [trial.outcome for trial in trials]
    models, datasets = (
        list(dict.fromkeys(getattr(trial.run, key) for trial in trials)) for key in ('model', 'dataset')
    )
    rows = []
    for model in models:
        row = []
        for dataset in datasets:
            pairs = zip(trials, outcomes)
            states = Counter(o[0] for trial, o in pairs if (trial.run.model, trial.run.dataset) == (model, dataset))
            row.append(', '.join(f'{states[state]} {state}' for state in _STATES if states[state]))
        rows.append([model, *row, _largest_peak(trials, model)])
    counts = Counter(state for state, _ in outcomes)
    lines = [tabulate(rows, ['', *datasets, 'peak memory'], tablefmt='plain', disable_numparse=True), '']
    plural = 's' * (len(trials) != 1)
    lines.append(f'{len(trials)} config{plural}: ' + ', '.join(f'{counts[state]} {state}' for state in _STATES))
    if counts['failed']:
        lines.append(f'failed; logs: {out}/runs/NAME/{LOG}; the same command tries them again:')
        lines += [f'  {t.run.name}: {printable(o[1])}' for t, o in zip(trials, outcomes) if o[0] == 'failed']
    if absent := sorted({one: None for trial in trials for one in trial.absent}, key=lambda one: one.kind):
        lines.append('missing:')
        lines += [f'  {one.kind} of {one.name}: {printable(one.line)}' for one in absent]
    return '\n'.join(lines)


_STATES = ('ran', 'failed', 'missing', 'left')


def _largest_peak(trials: Sequence[Trial], model: str) -> str:
    records = [record_of(trial.task.directory) for trial in trials if trial.task and trial.run.model == model]
    peaks = [record.resources['peak_bytes'] for record in records if record and 'peak_bytes' in record.resources]
    return format_bytes(max(peaks)) if peaks else ''
