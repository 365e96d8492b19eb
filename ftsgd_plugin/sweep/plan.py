"""The plan of a sweep as data: read and check it, expand it to runs."""

import itertools
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from ..methods import OTHER_METHODS
from ..runner.build import read_config
from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.paths import config_path

PLAN_FILE = 'plan.json'
SMOKE_FILE = 'smoke.json'  # instead of it in the directory of a smoke test


@dataclass(frozen=True)
class Run:
    """One training of a sweep.

    Attributes:
        model, method, dataset: As in the config's name.
        lr: Learning rate, of gradual unfreezing the base.
        seed: ``randomness.seed``.
    """

    model: str
    method: str
    dataset: str
    lr: float
    seed: int

    @property
    def config(self) -> str:
        """Name of its config in ``configs/``."""
        return f'{self.model}_{self.method}_{self.dataset}'

    @property
    def name(self) -> str:
        """Name of its directory, e.g. ``clip-vit-b16_freeze-embed_fmow_lr3e-4_seed0``."""
        lr = np.format_float_scientific(self.lr, trim='-', exp_digits=1)
        return f'{self.config}_lr{lr}_seed{self.seed}'


@dataclass(frozen=True)
class Plan:
    """The keys of a plan file.

    Attributes:
        models, datasets: Names as in the configs.
        lrs: Learning rates of each method; its keys are the methods.
        seeds: Seeds of every model that ``model_seeds`` does not name.
        model_seeds: Seeds of some models.
        epochs: Epochs of every run. Default: as in the configs.
        data_roots: Directory of each dataset. Default: as in the configs.
        image_size: Side of the images in pixels. Default: as in the configs.
        dataset_options: Overrides of the configs of a dataset, by dotted key.
    """

    models: list[str]
    datasets: list[str]
    lrs: dict[str, list[float]]
    seeds: list[int]
    model_seeds: dict[str, list[int]] = field(default_factory=dict)
    epochs: int | None = None
    data_roots: dict[str, str] = field(default_factory=dict)
    image_size: int | None = None
    dataset_options: dict[str, dict] = field(default_factory=dict)

    def runs(self) -> list[Run]:
        """Every run, the first seed of everything first."""
        seeds = {model: self.model_seeds.get(model, self.seeds) for model in self.models}
        return [
            Run(model, method, dataset, lr, seeds[model][n])
            for n in range(max(map(len, seeds.values())))
            for model, dataset, method in itertools.product(self.models, self.datasets, self.lrs)
            if n < len(seeds[model])
            for lr in self.lrs[method]
        ]


# Of the keys that an earlier version did not write.
_DEFAULTS = {'image_size': None, 'dataset_options': {}}


def read_plan(path: str) -> Plan:
    """Read and check a plan file.

    Raises:
        UserError: A key is unknown or missing, a name has no config, or a grid holds a duplicate or a rate that is not
            positive.
    """
    content = read_config(path).to_dict()
    known = {one.name for one in fields(Plan)}
    if unknown := sorted(content.keys() - known):
        raise UserError(f'{path}: {unknown[0]!r} is not a key of a plan; its keys are {", ".join(sorted(known))}.')
    if missing := [key for key in ('models', 'datasets', 'lrs', 'seeds') if not content.get(key)]:
        raise UserError(f'{path}: {missing[0]} is missing or empty; see configs/sweeps/paper.py.')
    plan = Plan(**content)
    check_plan(plan, path)
    return plan


def check_plan(plan: Plan, path: str) -> None:
    """Check names and values of a plan.

    Args:
        plan: The plan.
        path: Its file, for the message.

    Raises:
        UserError: As :func:`read_plan`.
    """
    listed = {
        'models': (list, plan.models),
        'datasets': (list, plan.datasets),
        'lrs': (dict, plan.lrs),
        'seeds': (list, plan.seeds),
        'model_seeds': (dict, plan.model_seeds),
        'data_roots': (dict, plan.data_roots),
        'dataset_options': (dict, plan.dataset_options),
    }
    for key, (kind, value) in listed.items():
        if not isinstance(value, kind):
            raise UserError(f'{path}: {key} must be a {kind.__name__}, not {value!r}; see configs/sweeps/paper.py.')
    _check_names(path, 'models', plan.models, 'models')
    _check_names(path, 'lrs', plan.lrs, 'methods')
    _check_names(path, 'datasets', plan.datasets, 'datasets')
    for key in plan.model_seeds:
        _check_member(path, 'model_seeds', key, plan.models)
    for key in plan.data_roots:
        _check_member(path, 'data_roots', key, plan.datasets)
    for key, options in plan.dataset_options.items():
        _check_member(path, 'dataset_options', key, plan.datasets)
        if not isinstance(options, dict):
            raise UserError(f'{path}: dataset_options[{key!r}] must be a dict, not {options!r}; give dotted keys.')
    for model, method, dataset in itertools.product(plan.models, plan.lrs, plan.datasets):
        cell_paths(f'{model}_{method}_{dataset}')
    for method, grid in plan.lrs.items():
        where = f'{path}: lrs[{method!r}]'
        for lr in _sequence(where, grid):
            if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not (math.isfinite(lr) and lr > 0):
                raise UserError(f'{where}: {lr!r} is not a positive number; correct it.')
        _no_duplicate(where, grid)
    for where, seeds in {
        'seeds': plan.seeds,
        **{f'model_seeds[{m!r}]': s for m, s in plan.model_seeds.items()},
    }.items():
        for seed in _sequence(f'{path}: {where}', seeds):
            if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
                raise UserError(f'{path}: {where}: {seed!r} is not a whole number from 0 up; correct it.')
        _no_duplicate(f'{path}: {where}', seeds)
    for key in ('epochs', 'image_size'):
        value = getattr(plan, key)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f'{path}: {key}: {value!r} is not a positive whole number; correct it or leave it out.')


def cell_paths(name: str) -> tuple[str, str | None]:
    """The files of a cell: its config and ``None``, else that of SGD and the method part that takes SGD's place.

    Args:
        name: As :attr:`Run.config`.

    Raises:
        UserError: There is neither.
    """
    model, method, dataset = name.split('_')
    if method in OTHER_METHODS:  # of what is not in the paper there is a part alone
        return config_path(f'{model}_sgd_{dataset}'), config_path(f'_base_/methods/{method}')
    return config_path(name), None


def claim_directory(plan: Plan, out: str | os.PathLike, smoke: bool = False) -> None:
    """Write ``plan.json`` into the directory of a sweep, or compare the plan with an existing one.

    Args:
        plan: The plan.
        out: The directory.
        smoke: Whether it is for a smoke test, which shares no directory with a sweep: ``smoke.json``.

    Raises:
        UserError: The directory holds the sweep of another plan or of the other kind, or cannot be written.
    """
    names = (SMOKE_FILE, PLAN_FILE) if smoke else (PLAN_FILE, SMOKE_FILE)
    path, other = (Path(out) / name for name in names)
    if other.exists() or (smoke and not path.exists() and (Path(out) / 'runs').exists()):
        raise UserError(f'{out}: holds the runs of a {"sweep" if smoke else "smoke test"}; choose another --out.')
    content = json.loads(json.dumps(asdict(plan)))
    if path.is_file():
        try:
            found = json.loads(path.read_text())
        except ValueError:
            found = {}
        if different := [key for key in content if found.get(key, _DEFAULTS.get(key)) != content[key]]:
            raise UserError(
                f'{path}: belongs to another plan ({", ".join(different)} differ); choose another directory, or remove '
                'that file to continue here: finished runs that both plans have are kept.'
            )
        return
    write_text(path, json.dumps(content, indent=1) + '\n')


def _check_names(path: str, key: str, names: Iterable[str], parts: str) -> None:
    known = sorted(file.stem for file in Path(config_path(f'_base_/{parts}/{_EXAMPLE[parts]}')).parent.glob('*.py'))
    for name in names:
        _check_member(path, key, name, known)
    _no_duplicate(f'{path}: {key}', list(names))


_EXAMPLE = {
    'models': 'vit-tiny',
    'methods': 'sgd',
    'datasets': 'digits',
}  # one file of each directory, to find the others


def _check_member(path: str, key: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        close = get_close_matches(str(name), known, n=1)
        hint = f'did you mean {close[0]!r}?' if close else f'known: {", ".join(known)}.'
        raise UserError(f'{path}: {key}: {name!r} is unknown; {hint}')


def _sequence(where: str, values: list) -> list:
    if not isinstance(values, (list, tuple)) or not values:
        raise UserError(f'{where}: {values!r} is not a list with values; correct it.')
    return values


def _no_duplicate(where: str, values: list) -> None:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UserError(f'{where}: {value!r} is listed twice; remove one.')
