"""Predicted costs of runs, kept in the user's cache directory: a large plan takes a minute to predict only once."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
from dataclasses import astuple
from pathlib import Path

from mmengine.config import Config

from ..profiling.run_costs import RunCost
from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.paths import cache_directory

LIMIT = 10_000  # entries of about 150 bytes
_KEYS = ('model', 'run', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader', 'val_dataloader')
_LIBRARIES = ('torch', 'torchvision', 'timm', 'open_clip_torch', 'mmengine', 'mmpretrain', 'onedl-mmpretrain')


def cache_file() -> Path:
    """``ftsgd_plugin/run_costs.json`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    return cache_directory() / 'run_costs.json'


class CostCache:
    """Costs by config, without learning rate and seed, as long as this package and its libraries stay the same.

    A file that is missing or damaged, or that other software has written, is an empty cache. One that cannot be
    written is left out.
    """

    def __init__(self) -> None:
        self._file = cache_file()
        self._costs: dict[str, RunCost] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            content = json.loads(self._file.read_text())
            if content['software'] == _software():
                self._costs = {key: _checked(values) for key, values in content['costs'].items()}

    def __getitem__(self, cfg: Config) -> RunCost | None:
        return self._costs.get(_key(cfg))

    def __setitem__(self, cfg: Config, cost: RunCost) -> None:
        self._costs[_key(cfg)] = cost
        self._changed = True

    def save(self) -> None:
        """Write the file if there is something new; the oldest entries beyond ``LIMIT`` are dropped."""
        if not self._changed:
            return
        costs = {key: astuple(cost) for key, cost in list(self._costs.items())[-LIMIT:]}
        with contextlib.suppress(UserError, OSError):
            write_text(self._file, json.dumps({'software': _software(), 'costs': costs}))


def _checked(values: list) -> RunCost:
    if not all(isinstance(value, int | float) for value in values):
        raise TypeError('not a number')
    return RunCost(*values)


def _key(cfg: Config) -> str:
    settings = {key: cfg.get(key) for key in _KEYS}
    optimizer = {key: value for key, value in cfg.optim_wrapper.optimizer.items() if key != 'lr'}
    settings['optim_wrapper'] = {**cfg.optim_wrapper, 'optimizer': optimizer}
    return _digest(json.dumps(settings, sort_keys=True, default=str).encode())


@functools.cache
def _software() -> str:
    """Changes with every edit of this package and every other version of a library."""
    package = Path(__file__).resolve().parents[1]
    sources = [path.read_bytes() for path in sorted(package.rglob('*.py'))]
    versions = []
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f'{name}=={importlib.metadata.version(name)}')
    return _digest(b'\0'.join([*sources, '\n'.join(versions).encode()]))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
