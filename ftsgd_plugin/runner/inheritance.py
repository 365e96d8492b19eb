"""Taking a method into another project's config; why MMEngine could not merge one, and what to write instead."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..utils.paths import config_path

_METHODS = '_base_/methods'


def method_part(name: str, lr: float | None = None, **paramwise: Any) -> tuple[dict, list[dict]]:
    """A method's optimizer and schedule, for a config whose base sets both, such as a stock config of MMPretrain.

    Args:
        name: A file of ``configs/_base_/methods``, e.g. ``'freeze-embed'`` or ``'gradual-unfreezing'``.
        lr: Learning rate. Default: the part's, the middle of the paper's grid.
        **paramwise: More keys of ``paramwise_cfg``, e.g. ``layer_decay_rate=0.65``.

    Returns:
        tuple: ``optim_wrapper`` and ``param_scheduler``, which replace those of the base and take nothing from them.

    Raises:
        UserError: There is no such method.

    Examples:
        >>> _base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
        >>> custom_imports = dict(imports=['ftsgd_plugin'])
        >>> optim_wrapper, param_scheduler = __import__('ftsgd_plugin').method_part('freeze-embed', lr=1e-3)
    """
    part = Config.fromfile(config_path(f'{_METHODS}/{name}')).to_dict()
    wrapper, schedulers = part['optim_wrapper'], part['param_scheduler']
    if lr is not None:
        wrapper['optimizer']['lr'] = lr
    wrapper.setdefault('paramwise_cfg', {}).update(paramwise)
    if not isinstance(schedulers, list):
        schedulers = [] if schedulers is None else [schedulers]
    return {**wrapper, '_delete_': True}, schedulers


def inheritance_failure(error: BaseException) -> str | None:
    """Explain an exception that MMEngine raises while it merges config files.

    MMEngine raises ``KeyError`` and ``TypeError`` for many mistakes. The frames of its two merging functions on the
    traceback hold the keys, so the text of the exception is not needed.

    Args:
        error: Any exception from ``Config.fromfile`` or ``Config.merge_from_dict``.

    Returns:
        str | None: One line that names the key and the form that works; ``None`` for another cause.
    """
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    read, merge = Config._file2dict.__code__, Config._merge_a_into_b.__code__
    last = frames[-1] if frames else None
    for frame in reversed(frames):  # the innermost file
        duplicates = frame.f_locals.get('duplicate_keys') if frame.f_code is read else None
        if duplicates and isinstance(error, KeyError):
            keys, second = ', '.join(sorted(duplicates)), Path(frame.f_locals['base_cfg_path'])
            example = ''
            if second.parent == Path(config_path(f'{_METHODS}/sgd')).parent:
                call = f"__import__('ftsgd_plugin').method_part({second.stem!r})"
                example = f': optim_wrapper, param_scheduler = {call}'
            return (
                f'{keys}: two of its bases set it, the second is {second}; MMEngine merges a base with its child only. '
                f'Keep one of them in _base_ and set these keys in this file{example} (docs/configs.md, "In another '
                'project")'
            )
    if last is not None and last.f_code is merge and isinstance(error, TypeError):
        key, value, base = (last.f_locals.get(name) for name in 'kvb')
        if isinstance(value, Mapping) and isinstance(base, Mapping) and isinstance(base.get(key), list | tuple):
            return (
                f'{key}: a dict here, but a list in its base, and MMEngine merges dicts only; write '
                f'{key} = [dict(...)], which replaces the list, or dict(_delete_=True, ...)'
            )
    return None
