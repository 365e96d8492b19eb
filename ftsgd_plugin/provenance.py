"""What a run is and what it ran on: names, hash of its config, version of the code, versions of the stack."""

import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size

from .utils.errors import UserError
from .utils.paths import config_path
from .utils.version import __version__

# What names a run, or where and how it is started; everything else in a config can change its numbers.
_NOT_OF_THE_RUN = ('work_dir', 'experiment_name', 'run', 'resume', 'launcher')
_OF_THE_MACHINE = ('pin_memory', 'persistent_workers', 'collate_fn')  # tools/train.py fits them to the machine
_STACK = ('torch', 'torchvision', 'mmengine', 'mmpretrain', 'timm', 'open_clip_torch', 'numpy')


def config_hash(cfg: Config) -> str:
    """SHA-256 of the full config without what names the run only and what ``tools/train.py`` fits to the machine.

    Left out: ``work_dir``, ``experiment_name``, ``run``, ``resume`` (with its ``load_from``), ``launcher``, and of data
    loaders ``pin_memory``, ``persistent_workers`` and ``collate_fn``. Tuples count as lists.
    """
    content = {key: value for key, value in cfg.to_dict().items() if key not in _NOT_OF_THE_RUN}
    if cfg.get('resume'):
        content['load_from'] = None
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if content.get(name):
            content[name] = {key: value for key, value in content[name].items() if key not in _OF_THE_MACHINE}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def run_names(cfg: Config) -> dict[str, str]:
    """``model``, ``method`` and ``dataset`` of a config.

    They are what ``run = dict(model=..., method=..., dataset=...)`` says; else the parts of the file's name if it is
    ``{model}_{method}_{dataset}`` with a method of ``configs/_base_/methods``; else the types of backbone, optimizer
    and training set.
    """
    if cfg.get('run'):
        return {key: str(cfg.run[key]) for key in ('model', 'method', 'dataset')}
    parts = Path(cfg.filename).stem.split('_') if cfg.filename else []
    if len(parts) == 3 and _is_method(parts[1]):
        return dict(zip(('model', 'method', 'dataset'), parts))
    return {
        'model': str(cfg.model.get('backbone', cfg.model).get('type')),
        'method': str(cfg.optim_wrapper.optimizer.type),
        'dataset': str(cfg.train_dataloader.dataset.type),
    }


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
            commit = None  # no git on this machine, or a checkout it does not trust
    return {'version': __version__, 'commit': commit}


def _git(root: Path, *words: str) -> str:
    command = ['git', '-C', str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def environment() -> dict[str, str | int]:
    """Versions of Python and the stack, the ``device`` and the number of ``processes``."""
    versions = {'python': platform.python_version()}
    for package in _STACK:
        # The OneDL forks carry the same modules under other names of packages.
        for name in (package, f'onedl-{package}'):
            try:
                versions[package] = importlib.metadata.version(name)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'cpu ({platform.machine()})'
    return {**versions, 'device': device, 'processes': get_world_size()}
