"""Find that data is absent before anything is built: the model of a run can take minutes."""

import os.path as osp
from collections.abc import Iterable, Mapping

from mmengine.registry import DATASETS

from ..datasets.base import BenchmarkDataset
from ..utils.errors import UserError
from .config_sites import find_type
from .signatures import accepted


def check_data(cfg: Mapping, loaders: Iterable[str]) -> None:
    """Find data sets whose directory or annotation file does not exist.

    Only paths are looked at; what is in the files is checked when they are read.

    Args:
        cfg: A run's config.
        loaders: Keys of the data loaders that the run will use.

    Raises:
        UserError: Data is absent.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    for name in loaders:
        loader = cfg.get(name)
        if isinstance(loader, Mapping):
            _check_dataset(f'{name}.dataset', loader.get('dataset'), scope)


def _check_dataset(key: str, cfg: object, scope: str) -> None:
    if not isinstance(cfg, Mapping):
        return
    inner = cfg.get('datasets')
    for i, one in enumerate(inner if isinstance(inner, list | tuple) else ()):
        _check_dataset(f'{key}.datasets.{i}', one, scope)
    _check_dataset(f'{key}.dataset', cfg.get('dataset'), scope)
    if cfg.get('data_root') is None or cfg.get('type') is None:
        return
    if not isinstance(cfg['data_root'], str):
        raise UserError(f'{key}.data_root={cfg["data_root"]!r} is not text; set it to the directory of the data.')
    target = find_type(cfg['type'], DATASETS, key, cfg.get('_scope_') or scope)
    if isinstance(target, type) and issubclass(target, BenchmarkDataset):
        _build_without_images(target, cfg)
    elif not _downloads(target, cfg):
        _check_paths(key, cfg)


def _build_without_images(target: type[BenchmarkDataset], cfg: Mapping) -> None:
    """Let a benchmark look for its files itself: it says where they come from."""
    takes = accepted(target)
    options = {name: value for name, value in cfg.items() if name not in ('type', '_scope_', 'pipeline')}
    if all(name in takes.parameters for name in options) and isinstance(options.get('split'), str):
        target(**options | {'lazy_init': True, 'pipeline': []}).check_root()


def _check_paths(key: str, cfg: Mapping) -> None:
    """The paths of any other data set, joined as MMEngine joins them."""
    root = cfg['data_root']
    if not _is_local(root, cfg) or not root:
        return
    if not osp.isdir(root):
        raise UserError(f'{key}.data_root: {root}: no such directory; set it to the directory of the data.')
    named = {'ann_file': cfg.get('ann_file')}
    prefix = cfg.get('data_prefix')
    named |= {f'data_prefix.{name}': path for name, path in prefix.items()} if isinstance(prefix, Mapping) else {}
    named |= {'data_prefix': prefix} if isinstance(prefix, str) else {}
    for name, path in named.items():
        if _is_local(path, cfg) and path and not osp.exists(osp.join(root, path)):
            raise UserError(
                f'{key}.{name}: {osp.join(root, path)}: no such file or directory; correct it or data_root.'
            )


def _is_local(path: object, cfg: Mapping) -> bool:
    remote = cfg.get('backend_args') or cfg.get('file_client_args')
    return isinstance(path, str) and not remote and '://' not in path and not path.startswith('s3:')


def _downloads(target: object, cfg: Mapping) -> bool:
    parameter = accepted(target).parameters.get('download')
    return parameter is not None and bool(cfg.get('download', parameter.default))
