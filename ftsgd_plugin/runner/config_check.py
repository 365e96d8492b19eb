"""Find mistakes in a config before anything is built: misspelt keys, unknown types, values that cannot be meant."""

import functools
import inspect
import logging
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.optim import Optimizer

from ..optim.gradual_unfreezing import GradualUnfreezingLR
from ..optim.paramwise import check_paramwise
from ..utils.errors import UserError
from ..utils.names import did_you_mean, near, type_name
from .config_sites import Site, find_type, sites
from .signatures import Accepted, accepted, wrong_kind

# Read from the config, not passed to the Runner.
_BESIDE_THE_RUNNER = frozenset(
    {
        *('runner_type', 'model_wrapper_cfg', 'find_unused_parameters', 'sync_bn', 'compile', 'custom_imports'),
        *('activation_checkpointing', 'efficient_conv_bn_eval', 'strategy', 'tta_model', 'tta_pipeline', 'tta_cfg'),
        *('run', 'vis_backends', 'new_parameters', 'image_cache'),
    }
)
RUNNER_KEYS = frozenset(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
# A variable of a config file is taken for a misspelling only of these: 'train_pipeline' is near 'tta_pipeline'.
_NEAR_KEYS = RUNNER_KEYS | {
    'model_wrapper_cfg',
    'find_unused_parameters',
    'custom_imports',
    'runner_type',
    'new_parameters',
}
_HOOK_NAMES = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint', 'visualization')
_DICTS = ('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg')
_TRAINING = ('train_dataloader', 'train_cfg', 'optim_wrapper')
MAX_SEED = 2**32 - 1  # NumPy's

# Dict of a config -> key -> the least whole number that it can be.
_LEAST = {
    'train_cfg': {'max_epochs': 1, 'max_iters': 1, 'val_begin': 0, 'val_interval': 1},
    'train_dataloader': {'batch_size': 1, 'num_workers': 0, 'num_batch_per_epoch': 1, 'prefetch_factor': 1},
    'optim_wrapper': {'accumulative_counts': 1},
    'auto_scale_lr': {'base_batch_size': 1},
    'model.head': {'num_classes': 1},
}
_LEAST['val_dataloader'] = _LEAST['test_dataloader'] = _LEAST['train_dataloader']
_LENIENT = (nn.Module, BaseTransform, BaseDataset)  # their annotations are the narrowest
_ANY_KIND = frozenset({'loss_scale'})  # annotated as text, takes numbers and dicts too
_accepted = functools.cache(accepted)


def check_options(cfg: Mapping, options: Mapping[str, Any]) -> None:
    """Find an override of a key that neither the config nor the Runner has.

    Args:
        cfg: The config, before the options are merged.
        options: Values by dotted key.

    Raises:
        UserError: There is one: nothing would read it.
    """
    known = RUNNER_KEYS | _BESIDE_THE_RUNNER | cfg.keys()
    for option in options:
        name = option.partition('.')[0]
        if name not in known:
            raise UserError(f'--cfg-options {option}: no config has {name!r}; {did_you_mean(name, known)}')


def check_keys(cfg: Mapping) -> None:
    """Find a misspelt top-level key.

    A name that is not near a known key is a variable of the config file: nothing else reads it, and that is fine.

    Raises:
        UserError: A name is unknown and near a key of the Runner.
    """
    for name in cfg.keys() - RUNNER_KEYS - _BESIDE_THE_RUNNER:
        if close := near(name.replace('config', 'cfg'), _NEAR_KEYS):
            raise UserError(
                f'{name}: the Runner has no such key; did you mean {" or ".join(map(repr, close))}? '
                '(A variable of the config file needs a name that is less alike.)'
            )
    for name in (cfg.get('default_hooks') or {}) if isinstance(cfg.get('default_hooks'), Mapping) else ():
        if name not in _HOOK_NAMES and (close := near(name, _HOOK_NAMES)):
            raise UserError(f'default_hooks.{name}: there is no such hook; did you mean {close[0]!r}?')


def check_dicts(cfg: Mapping) -> None:
    """Find a part that is not a dict.

    Raises:
        UserError: There is one.
    """
    for name in _DICTS:
        if cfg.get(name) is not None and isinstance(cfg[name], str | int | float | list | tuple):
            raise UserError(f'{name}={cfg[name]!r} is not a dict; write {name}=dict(...).')


def check_parts(cfg: Mapping, label: str, needed: Iterable[str] = ()) -> None:
    """Find a part that is missing.

    Args:
        cfg: The config.
        label: How messages name it.
        needed: Keys that it must have.

    Raises:
        UserError: There is one.
    """
    for name in ('model', *needed):
        if cfg.get(name) is None:
            hint = near(name, cfg.keys() - RUNNER_KEYS, cutoff=0.7)
            advice = (
                f'it has {hint[0]!r}: did you mean {name!r}?' if hint else f'add {name}=dict(...) or a base with it.'
            )
            raise UserError(f'{label}: has no {name}; {advice}')
    for stage, parts in (
        ('training', _TRAINING),
        ('validation', ('val_dataloader', 'val_cfg', 'val_evaluator')),
        ('testing', ('test_dataloader', 'test_cfg', 'test_evaluator')),
    ):
        absent = [name for name in parts if cfg.get(name) is None]
        if absent and len(absent) < len(parts):
            present = next(name for name in parts if name not in absent)
            raise UserError(
                f'{label}: has {present} but no {absent[0]}; {stage} needs all of {", ".join(parts)}: add it, or set '
                'the others to None.'
            )
    if cfg.get('param_scheduler') is not None and cfg.get('optim_wrapper') is None:
        raise UserError(f'{label}: has param_scheduler but no optim_wrapper; add it, or set param_scheduler=None.')


def check_config(cfg: Mapping) -> None:
    """Find mistakes in every part of a config against the classes that it names, without building any.

    Works alike for names and classes (configs in the newer style).

    Raises:
        UserError: A type is not registered, a key is one that its class does not take, a needed one is missing, or a
            value is of another kind or outside its range.
    """
    check_run_options(cfg)
    for site in sites(cfg):
        check_site(site)
    wrapper = cfg.get('optim_wrapper')
    if isinstance(wrapper, Mapping) and 'paramwise_cfg' in wrapper:
        kind = wrapper.get('constructor') or DefaultOptimWrapperConstructor
        scope = cfg.get('default_scope')
        found = find_type(kind, OPTIM_WRAPPER_CONSTRUCTORS, 'optim_wrapper.constructor', scope)
        if isinstance(found, type) and 'optimizer' in wrapper:
            check_paramwise(wrapper['paramwise_cfg'], found)


def check_run_options(cfg: Mapping) -> None:
    """Find what is wrong in the keys that hold plain values: the seed, the log level, ``load_from``, ``resume``.

    Raises:
        UserError: There is one.
    """
    randomness = cfg.get('randomness')
    seed = randomness.get('seed') if isinstance(randomness, Mapping) else None
    if seed is not None and not (_is_whole(seed) and 0 <= seed <= MAX_SEED):
        raise UserError(f'randomness.seed={seed!r} is not a whole number from 0 to {MAX_SEED}; correct it.')
    level = cfg.get('log_level', 'INFO')
    if not isinstance(level, int) and not (isinstance(level, str) and isinstance(logging.getLevelName(level), int)):
        raise UserError(f"log_level={level!r} is not a level of Python's logging; use 'INFO', 'WARNING' or 'ERROR'.")
    for name in ('load_from', 'work_dir', 'experiment_name', 'default_scope'):
        if not isinstance(cfg.get(name), str | None):
            raise UserError(f'{name}={cfg[name]!r} is not text; correct it.')
    if not isinstance(cfg.get('resume', False), bool | str | None):
        raise UserError(f'resume={cfg["resume"]!r} is neither True nor False; correct it.')


def check_site(site: Site) -> None:
    """Compare the keys and values of one dict with what its class takes.

    Raises:
        UserError: They do not fit.
    """
    takes, name = _accepted(site.target), getattr(site.target, '__name__', str(site.target))
    _check_names(site, takes, name)
    strict = not (inspect.isclass(site.target) and issubclass(site.target, _LENIENT))
    for key, value in site.cfg.items():
        if key not in takes.parameters or key in site.extra or key in _ANY_KIND:
            continue
        default = takes.parameters[key].default
        default = None if default is inspect.Parameter.empty else default
        if wanted := wrong_kind(value, takes.hints[key], default, strict=strict):
            raise UserError(f'{site.key}.{key}={value!r} is not {wanted}; correct it.')
    for key, least in _LEAST.get(site.key, {}).items():
        if site.cfg.get(key) is not None and not (_is_whole(site.cfg[key]) and site.cfg[key] >= least):
            raise UserError(f'{site.key}.{key}={site.cfg[key]!r} is not a whole number >= {least}; correct it.')
    if inspect.isclass(site.target):
        if issubclass(site.target, Optimizer):
            for key in ('lr', 'momentum', 'weight_decay', 'eps'):
                value = site.cfg.get(key)
                if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
                    raise UserError(f'{site.key}.{key}={value!r} is not a number; correct it.')
        elif issubclass(site.target, _ParamScheduler):
            _check_scheduler(site)
        elif issubclass(site.target, CheckpointHook | EarlyStoppingHook):
            rule = site.cfg.get('rule')
            if isinstance(rule, str) and rule not in ('greater', 'less'):
                raise UserError(f"{site.key}.rule={rule!r} is neither 'greater' nor 'less'; correct it.")


def _check_names(site: Site, takes: Accepted, name: str) -> None:
    known = {*takes.parameters, *site.extra}
    if not takes.open:
        for key in site.cfg:
            if key not in known:
                offered = known - site.given - {'_scope_', 'self'}
                raise UserError(
                    f'{site.key}: type={name!r} got an unexpected keyword argument {key!r}; '
                    f'{did_you_mean(key, offered | (known & site.extra))}'
                )
    for key in takes.required:
        if key not in site.cfg and key not in site.given:
            raise UserError(f'{site.key}: has no {key}, which {name} needs; add it.')


def _check_scheduler(site: Site) -> None:
    cfg = site.cfg
    begin, end = cfg.get('begin', 0), cfg.get('end')
    for key, value, least in (('begin', begin, 0), ('end', end, 1), ('T_max', cfg.get('T_max'), 1)):
        if value is not None and not (_is_whole(value) and value >= least):
            raise UserError(f'{site.key}.{key}={value!r} is not a whole number >= {least}; correct it.')
    if end is not None and end <= begin:
        raise UserError(f'{site.key}.end={end!r} is not after begin={begin!r}; correct one of them.')


def check_counting(cfg: Mapping) -> None:
    """Find schedulers by epochs in a loop that counts iterations, which is one "epoch": they would never step.

    Gradual unfreezing would open everything at once. Schedulers that step after a validation do step.

    Raises:
        UserError: There is one.
    """
    loop = cfg.get('train_cfg')
    if not isinstance(loop, Mapping):
        return
    for site in sites({key: cfg[key] for key in ('train_cfg', 'param_scheduler', 'default_scope') if key in cfg}):
        if site.key == 'train_cfg':
            by_iteration = inspect.isclass(site.target) and issubclass(site.target, IterBasedTrainLoop)
        elif by_iteration and _counts_epochs(site):
            gradual = issubclass(site.target, GradualUnfreezingLR)
            what = 'whose one "epoch" would open everything at once' if gradual else 'so it would never step'
            options = 'warmup, cooldown, begin, end' if gradual else 'begin, end and the like'
            raise UserError(
                f'{site.key}: {type_name(site.cfg)} counts epochs (by_epoch=True) and train_cfg iterations, {what}; '
                f'set by_epoch=False ({options} in steps).'
            )


def _counts_epochs(site: Site) -> bool:
    if not inspect.isclass(site.target) or not issubclass(site.target, _ParamScheduler):
        return False
    if getattr(site.target, 'need_val_args', False):  # steps after each validation
        return False
    if site.cfg.get('convert_to_iter_based') and site.cfg.get('end') is not None:
        return False  # its epochs are those of the data
    return bool(site.cfg.get('by_epoch', True))


def _is_whole(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and value == value and value % 1 == 0
