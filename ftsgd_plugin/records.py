"""The record of a run: ``record.json`` in its work directory. Schema, validation, config hash, environment.

Reading and validating a record imports neither torch nor MMEngine.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Literal, get_args, get_origin, get_type_hints

from .utils.config_hash import LOADERS as LOADERS
from .utils.config_hash import config_hash as config_hash
from .utils.config_hash import former_hash as former_hash
from .utils.errors import UserError
from .utils.files import write_text
from .utils.names import type_name
from .utils.paths import config_path
from .utils.version import __version__

if TYPE_CHECKING:
    from mmengine.config import Config

FILE = 'record.json'
SCHEMA = 1

_LONGEST_NAME = 200
_MOST = 1e18  # of a resource: bytes, seconds, parameters
_SURROGATE = re.compile('[\ud800-\udfff]')  # JSON can hold halves of characters, UTF-8 cannot
_STACK = ('torch', 'torchvision', 'mmengine', 'mmpretrain', 'timm', 'open_clip_torch', 'numpy')


@dataclass(frozen=True)
class RunRecord:
    """The settings, state and results of a run. :func:`read_record` validates every field by its annotation.

    Attributes:
        model, method, dataset: As in the config's name, e.g. ``'vit-b16'``, ``'freeze-embed'``, ``'camelyon'``.
        lr: Learning rate of the config (the base rate for gradual unfreezing); positive.
        seed: ``randomness.seed``.
        config_hash: :func:`config_hash` of the config.
        status: ``'running'``, ``'finished'``, ``'failed'``, ``'interrupted'`` (a signal has stopped it), ``'diverged'``
            (its numbers were no longer finite) or ``'stopped'`` (by successive halving: other learning rates were
            better).
        epochs: Metrics of every evaluation in order (fractions; keys of ``GroupAccuracy``).
        selected_epoch: Index into ``epochs`` of the selected one, from 0; ``None`` before the first evaluation.
        selected_by: The metric it was selected by, of the ID data: ``'id/accuracy'``, ``'id/balanced_accuracy'``.
        code: ``version`` of the package and ``commit`` of its checkout (``None`` outside one; ``+`` if changed).
        environment: Versions of Python and the stack, ``device`` and number of ``processes``.
        phases: The phases of a schedule that ended before their length, see ``PhaseEndHook``: ``phase`` (from 0),
            ``step`` of the schedule, ``evaluations``, ``best`` value and ``best_step``.
        resources: ``seconds`` of training with evaluation, ``peak_bytes`` (of the device, or of the host without one),
            ``state_bytes`` of the optimizer, ``parameters``, ``trained_parameters``; absent if unknown.
        lr_mult: Measured multipliers of the learning rate by stage (``paramwise_cfg=dict(lr_mult='gradient')``); empty
            if none was measured.
        command: The command line that started the run.
        started, finished: ISO 8601 times; ``finished`` is empty until the run ends.
        error: Last line of a failure or divergence, why it was stopped, or how an interrupted run is continued.
        smoke: Whether it was a trial of two iterations (``tools/sweep.py --smoke``): no table shows it.
        schema: Version of this layout.
    """

    model: str
    method: str
    dataset: str
    lr: float
    seed: int
    config_hash: str
    status: Literal['running', 'finished', 'failed', 'interrupted', 'diverged', 'stopped']
    epochs: list[dict[str, float]]
    selected_epoch: int | None = None
    selected_by: str = 'id/accuracy'
    code: dict[str, str | None] = field(default_factory=dict)
    environment: dict[str, str | int | None] = field(default_factory=dict)
    resources: dict[str, float] = field(default_factory=dict)
    phases: list[dict[str, float]] = field(default_factory=list)
    lr_mult: dict[str, float] = field(default_factory=dict)
    command: str = ''
    started: str = ''
    finished: str = ''
    error: str = ''
    smoke: bool = False
    schema: int = SCHEMA

    @property
    def selected(self) -> dict[str, float] | None:
        """Metrics of the selected epoch."""
        return None if self.selected_epoch is None else self.epochs[self.selected_epoch]


def write_record(record: RunRecord, directory: str | os.PathLike) -> Path:
    """Write ``record.json`` into a run's directory atomically.

    Raises:
        UserError: The disk is full or the directory cannot be written; an earlier record is untouched.
    """
    return write_text(Path(directory) / FILE, json.dumps(asdict(record), indent=1) + '\n')


def read_record(path: str | os.PathLike) -> RunRecord:
    """Read a record and validate every field.

    Keys that this version does not know are ignored; optional ones that are missing take their defaults. A run with a
    metric of NaN or Inf, as earlier versions called finished, is read as diverged, with the epochs before it.

    Args:
        path: The file, or the run's directory.

    Raises:
        UserError: One line with the file and the key: the file is missing, unreadable, truncated or of another schema;
            a key is missing; a value has the wrong type, is not finite or is out of range.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        if not path.is_file():  # a directory, a pipe
            raise FileNotFoundError
        data = json.loads(path.read_text('utf-8-sig'))
    except FileNotFoundError:
        raise UserError(f'{path}: no such record; name a directory of runs.') from None
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); correct its permissions.') from None
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: truncated or not a record ({error}); run it again or remove it.') from None
    if not isinstance(data, dict) or data.get('schema') != SCHEMA:
        found = data.get('schema') if isinstance(data, dict) else None
        raise UserError(f'{path}: schema {_short(found)} instead of {SCHEMA}; read it with the version that wrote it.')
    known = {one.name: data[one.name] for one in fields(RunRecord) if one.name in data}
    known = _as_diverged(known)
    if fault := _fault(known):
        raise UserError(f'{path}: {fault}; run it again or remove it.')
    return RunRecord(**known)


def _as_diverged(values: dict) -> dict:
    """The values of a record, as those of a diverged run if a metric of an epoch is not finite."""
    epochs = values.get('epochs')
    for i, metrics in enumerate(epochs if isinstance(epochs, list) else ()):
        for key, value in metrics.items() if isinstance(metrics, dict) else ():
            if isinstance(value, float) and not math.isfinite(value):
                error = f'epochs[{i}][{key!r}]={value!r} is not a finite number'
                return {**values, 'status': 'diverged', 'epochs': epochs[:i], 'selected_epoch': None, 'error': error}
    return values


def find_records(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """The record files below directories (or named themselves), sorted."""
    found = []
    for path in map(Path, paths):
        inside = (Path(root, FILE) for root, names, files in os.walk(path) if FILE in files or FILE in names)
        found += sorted(inside) if path.is_dir() else [path]
    return found


def _fault(values: dict) -> str | None:
    """What is wrong with the values of a record, named by its key; ``None`` if nothing is."""
    required = [one.name for one in fields(RunRecord) if one.default is MISSING and one.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        return f'{missing[0]} is missing'
    kinds = _field_types()
    for name, value in values.items():
        if fault := _type_fault(name, value, kinds[name]):
            return fault
    for name in ('model', 'method', 'dataset'):
        if not values[name].strip() or len(values[name]) > _LONGEST_NAME:
            return f'{name}={_short(values[name])} is empty or longer than {_LONGEST_NAME} characters'
    for key, value in values.get('resources', {}).items():
        if not 0 <= value < _MOST:
            return f'resources[{_short(key)}]={value:g} is negative or too large'
    if values['lr'] <= 0:
        return f'lr={values["lr"]!r} is not a positive number'
    selected = values.get('selected_epoch')
    if selected is not None and not 0 <= selected < len(values['epochs']):
        return f'selected_epoch={selected} is not one of the {len(values["epochs"])} epochs'
    return None


@functools.cache
def _field_types() -> dict[str, object]:
    return get_type_hints(RunRecord)


def _type_fault(name: str, value: object, kind: object) -> str | None:
    """Compare a value from JSON with an annotation of :class:`RunRecord`; booleans are not numbers."""
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else f'{name}={_short(value)} is not one of {", ".join(get_args(kind))}'
    if isinstance(kind, UnionType):
        faults = [_type_fault(name, value, option) for option in get_args(kind)]
        return None if None in faults else faults[0]
    if get_origin(kind) is list:
        if not isinstance(value, list):
            return f'{name}={_short(value)} is not a list'
        return _first(_type_fault(f'{name}[{i}]', item, get_args(kind)[0]) for i, item in enumerate(value))
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            return f'{name}={_short(value)} is not a dictionary'
        item_kind = get_args(kind)[1]
        if item_kind is float and all(map(_is_finite, value.values())):
            return None  # metrics are most of a record: without a message and a recursion for each
        keys = (_type_fault(f'a key of {name}', key, str) for key in value)
        return _first(keys) or _first(_type_fault(f'{name}[{key!r}]', item, item_kind) for key, item in value.items())
    if kind is float:
        return None if _is_finite(value) else f'{name}={_short(value)} is not a finite number'
    if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return f'{name} is not Unicode' if isinstance(value, str) and _SURROGATE.search(value) else None
    return f'{name}={_short(value)} is not of type {kind.__name__}'


def _first(faults: Iterable[str | None]) -> str | None:
    return next((fault for fault in faults if fault), None)


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of a float
        return False


def _short(value: object) -> str:
    """A value on one line of a message."""
    text = repr(value)
    return text if len(text) <= 40 else f'{text[:37]}...'


def run_names(cfg: Config) -> dict[str, str]:
    """``model``, ``method`` and ``dataset`` of a config.

    They come from ``run = dict(model=..., method=..., dataset=...)``; else from the file's name if it is
    ``{model}_{method}_{dataset}`` with a method of ``configs/_base_/methods``; else they are the types of backbone,
    optimizer and training set.
    """
    if cfg.get('run'):
        return {key: str(cfg.run[key]) for key in ('model', 'method', 'dataset')}
    parts = Path(cfg.filename).stem.split('_') if cfg.filename else []
    if len(parts) == 3 and _is_method(parts[1]):
        return dict(zip(('model', 'method', 'dataset'), parts))
    return {
        'model': _type_of(cfg.model.get('backbone', cfg.model)),
        'method': _type_of(cfg.optim_wrapper.optimizer),
        'dataset': _type_of(cfg.train_dataloader.dataset),
    }


def is_smoke(cfg: Mapping) -> bool:
    """Whether a config is a trial of two iterations, as ``run = dict(..., smoke=True)`` says."""
    return bool((cfg.get('run') or {}).get('smoke'))


def _type_of(cfg: Mapping) -> str:
    """The ``type`` as it is written; of a class, or of the import path that it is dumped as, the bare name."""
    kind = cfg.get('type')
    return kind if isinstance(kind, str) and kind.count('.') < 2 else type_name(kind)


def _is_method(name: str) -> bool:
    try:
        return bool(config_path(f'_base_/methods/{name}'))
    except UserError:
        return False


@functools.cache
def code_version() -> dict[str, str | None]:
    """``version`` of the package and ``commit`` of its checkout: ``None`` outside one, with ``+`` if files changed."""
    root = Path(__file__).resolve().parents[1]
    commit = None
    if (root / '.git').exists():
        try:
            commit = _git(root, 'rev-parse', 'HEAD').strip()
            commit += '+' if _git(root, 'status', '--porcelain', '--untracked-files=no').strip() else ''
        except (OSError, subprocess.SubprocessError):
            commit = None  # git is missing on this machine, or does not trust the checkout
    return {'version': __version__, 'commit': commit}


def _git(root: Path, *words: str) -> str:
    command = ['git', '-C', str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def environment() -> dict[str, str | int]:
    """Versions of Python and the stack, the ``device`` and the number of ``processes``."""
    import torch
    from mmengine.dist import get_world_size

    versions = {'python': platform.python_version()}
    for package in _STACK:
        # The OneDL forks provide the same modules under other package names.
        for name in (package, f'onedl-{package}'):
            try:
                versions[package] = importlib.metadata.version(name)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'cpu ({platform.machine()})'
    return {**versions, 'device': device, 'processes': get_world_size()}
