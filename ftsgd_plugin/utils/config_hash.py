"""The hash of a config that tells whether two runs have the same numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')  # keys of a config

# Keys that name a run, or say where and how it is started.
_RUN_KEYS = ('work_dir', 'experiment_name', 'run', 'resume', 'launcher')
# Keys that say what is logged and drawn, and what a test after the training evaluates: no record has its numbers.
_REPORT_KEYS = (
    *('visualizer', 'vis_backends', 'log_processor', 'log_level'),
    *('test_dataloader', 'test_evaluator', 'test_cfg'),
)
_CACHE_KEY = 'image_cache'  # of a config and of its data sets: where images are kept, which changes no pixel
_MACHINE_KEYS = ('pin_memory', 'persistent_workers', 'collate_fn')  # of data loaders; tools/train.py sets them
_SPEED_KEYS = ('prefetch_factor', 'pin_memory_device', 'timeout', 'multiprocessing_context')  # of data loaders
# Hooks that watch and write.
_REPORT_HOOKS = (
    *('IterTimerHook', 'LoggerHook', 'CheckpointHook', 'SafeCheckpointHook', 'VisualizationHook'),
    *('HostMemoryHook', 'ResourceHook', 'RunRecordHook', 'LayerGradNormHook', 'MemoryProfilerHook', 'ProfilerHook'),
    'FrozenFeaturesHook',  # changes no number
    'HalvingHook',  # a run that it ends is not finished, and the others have the same numbers
)
# With these loops the order and the augmentation of the data do not depend on the workers.
_LOOPS_WITHOUT_WORKERS = ('ResumableEpochTrainLoop', 'ResumableIterTrainLoop')


def config_hash(cfg: Config) -> str:
    """SHA-256 of the settings that can change a number of the run's record, see :func:`counted_settings`."""
    return _digest(counted_settings(cfg))


def counted_settings(cfg: Config) -> dict:
    """The settings that can change a number of the run's record.

    Left out are names and places (``work_dir``, ``experiment_name``, ``run``, ``resume`` with its ``load_from``,
    ``launcher``), logging, drawing, checkpoints and the test (``log_level``, ``visualizer``, ``default_hooks.logger``,
    ``test_dataloader``, ``RunRecordHook``, ...), how processes are started (``env_cfg.mp_cfg``), and of data loaders
    what only makes them faster (``num_workers``, unless the training loop is MMEngine's, whose workers draw the
    augmentation; ``image_cache`` of the data sets). Tuples count as lists, a class as its name. The version of the
    package does not count.
    """
    content = {key: value for key, value in _settings(cfg).items() if key not in _REPORT_KEYS}
    if isinstance(content.get('env_cfg'), dict):
        content['env_cfg'] = {key: value for key, value in content['env_cfg'].items() if key != 'mp_cfg'}
    for name in LOADERS:
        if content.get(name):
            free = name != 'train_dataloader' or _type_name(content.get('train_cfg')) in _LOOPS_WITHOUT_WORKERS
            left_out = (*_SPEED_KEYS, 'num_workers') if free else _SPEED_KEYS
            content[name] = {key: value for key, value in content[name].items() if key not in left_out}
    hooks = content.pop('default_hooks', None) or {}
    _take_out_adapters(content)
    _keep_order_of_multipliers(content)
    kept = {key: hook for key, hook in hooks.items() if hook is not None and _type_name(hook) not in _REPORT_HOOKS}
    custom = [hook for hook in content.pop('custom_hooks', None) or [] if _type_name(hook) not in _REPORT_HOOKS]
    return {**content, 'default_hooks': kept, 'custom_hooks': custom}


def _take_out_adapters(content: dict) -> None:
    """Leave out the adapters that a run puts around its backbone: its method asks for them, and a plan has none yet."""
    backbone = (content.get('model') or {}).get('backbone') or {}
    paramwise = (content.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    if paramwise.get('lora') is not None and _type_name(backbone) == 'LoRABackbone':
        content['model'] = {**content['model'], 'backbone': backbone['module']}


def _keep_order_of_multipliers(content: dict) -> None:
    """Make ``lr_mult`` a list: of several that match a layer the last counts, and the hash sorts the keys of dicts."""
    paramwise = (content.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    if isinstance(lr_mult := paramwise.get('lr_mult'), dict):
        paramwise = {**paramwise, 'lr_mult': list(lr_mult.items())}
        content['optim_wrapper'] = {**content['optim_wrapper'], 'paramwise_cfg': paramwise}


def other_settings(saved: str, cfg: Config) -> list[str]:
    """The counted settings that differ from those of another config.

    Args:
        saved: What :func:`as_text` made of that config.
        cfg: A config.

    Returns:
        list[str]: Such as ``"train_dataloader.dataset.split='train' there, 'val' here"``.
    """
    before, now = (dict(_leaves('', json.loads(text))) for text in (saved, as_text(cfg)))
    shown = [{key: repr(value) for key, value in side.items()} for side in (before, now)]
    keys = sorted(key for key in before.keys() | now.keys() if shown[0].get(key) != shown[1].get(key))
    return [f'{key}={shown[0].get(key, "not set")} there, {shown[1].get(key, "not set")} here' for key in keys]


def as_text(cfg: Config) -> str:
    """The counted settings as JSON, for :func:`other_settings`."""
    return json.dumps(counted_settings(cfg), sort_keys=True, default=str)


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not items or not value:
        yield path, value
        return
    for key, item in items:
        yield from _leaves(f'{path}.{key}' if path else str(key), item)


def former_hash(cfg: Config) -> str:
    """The hash that version 0.1.0 wrote: all settings but the names and places; of loaders all but what tools set."""
    return _digest(_settings(cfg))


def _settings(cfg: Config) -> dict:
    content = {key: value for key, value in cfg.to_dict().items() if key not in (*_RUN_KEYS, _CACHE_KEY)}
    if cfg.get('resume'):
        content['load_from'] = None
    for name in LOADERS:
        if content.get(name):
            content[name] = {key: value for key, value in content[name].items() if key not in _MACHINE_KEYS}
            if 'dataset' in content[name]:
                content[name]['dataset'] = _without_cache(content[name]['dataset'])
    return content


def _without_cache(dataset: object) -> object:
    """A data set, or one around others, without the place of cached images."""
    if isinstance(dataset, list | tuple):
        return [_without_cache(one) for one in dataset]
    if not isinstance(dataset, dict):
        return dataset
    inner = ('dataset', 'datasets')
    return {
        key: _without_cache(value) if key in inner else value for key, value in dataset.items() if key != _CACHE_KEY
    }


def _type_name(settings: object) -> str:
    """The last part of ``type``, which may be a class or have a scope: ``mmpretrain.RunRecordHook``."""
    kind = settings.get('type') if isinstance(settings, dict) else settings
    return str(getattr(kind, '__name__', kind)).split('.')[-1]


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
