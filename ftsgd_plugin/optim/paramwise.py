"""The keys of ``paramwise_cfg``: which a constructor takes, and which parameters ``custom_keys`` match."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..freezing import TRAINS
from ..utils.errors import UserError
from ..utils.names import did_you_mean, type_name
from .groups import check_layer_decay_rate, check_number
from .rates import check_lr_mult

_OURS = 'FreezeEmbedOptimWrapperConstructor'
_LAYER_DECAY = 'LearningRateDecayOptimWrapperConstructor'  # MMPretrain's
_NUMBERS = frozenset(
    {
        'bias_decay_mult',
        'bias_lr_mult',
        'dcn_offset_lr_mult',
        'dwconv_decay_mult',
        'flat_decay_mult',
        'norm_decay_mult',
    }
)
DEFAULT_KEYS = _NUMBERS | {'bypass_duplicate', 'custom_keys'}
_OWN_KEYS = {  # by the constructor's class name, beyond those of MMEngine's default one
    'DefaultOptimWrapperConstructor': frozenset(),
    _OURS: frozenset({'freeze', 'layer_decay_rate', 'lora', 'lr_mult', 'train'}),
    _LAYER_DECAY: frozenset({'layer_decay_rate'}),
}
# The schedules of MMPretrain list these for models that may or may not have them: without a match only a warning.
_OF_STOCK_SCHEDULES = (
    *('absolute_pos_embed', 'attention_biases', 'bias', 'bn', 'cls_token', 'gamma', 'ln', 'mask_token', 'norm'),
    *('pos_embed', 'q_bias', 'rel_pos_h', 'rel_pos_w', 'relative_position_bias_table', 'v_bias'),
)


def check_paramwise(paramwise_cfg: Any, constructor: type = DefaultOptimWrapperConstructor) -> None:
    """Find a misspelt key or a value of the wrong kind in ``optim_wrapper.paramwise_cfg``.

    Args:
        paramwise_cfg: The dict, or ``None``.
        constructor: The constructor's class. Keys of one that is not known here are not checked.

    Raises:
        UserError: A key is unknown, or a value is not what it has to be.
    """
    key = 'optim_wrapper.paramwise_cfg'
    if paramwise_cfg is None:
        return
    if not isinstance(paramwise_cfg, Mapping):
        raise UserError(f'{key}={paramwise_cfg!r} is not a dict; write {key}=dict(...).')
    if knows_keys_of(constructor):
        name_of = constructor.__name__
        known = DEFAULT_KEYS | _OWN_KEYS[name_of] | {'_delete_'}
        for name in paramwise_cfg.keys() - known - {'_scope_'}:
            ours = name in _OWN_KEYS[_OURS]
            hint = f"set optim_wrapper.constructor='{_OURS}'." if ours else did_you_mean(name, known)
            raise UserError(f'{key}.{name}: {name_of} does not know it; {hint}')
    if constructor.__name__ != _LAYER_DECAY:
        check_layer_decay_rate(f'{key}.layer_decay_rate', paramwise_cfg.get('layer_decay_rate'))
    check_lr_mult(f'{key}.lr_mult', paramwise_cfg.get('lr_mult'))
    if paramwise_cfg.get('train', 'all') not in TRAINS:
        raise UserError(
            f'{key}.train={paramwise_cfg["train"]!r} is none of {", ".join(map(repr, TRAINS))}; correct it.'
        )
    for name in _NUMBERS & paramwise_cfg.keys():
        check_number(f'{key}.{name}', paramwise_cfg[name])
    custom = paramwise_cfg.get('custom_keys')
    if custom is None:
        return
    if not isinstance(custom, Mapping):
        raise UserError(f'{key}.custom_keys={custom!r} is not a dict; write dict(NAME=dict(lr_mult=...)).')
    for name, options in custom.items():
        if not isinstance(options, Mapping):
            raise UserError(f'{key}.custom_keys[{name!r}]={options!r} is not a dict; write dict(lr_mult=...).')
        for multiplier in ('lr_mult', 'decay_mult'):
            if multiplier in options:
                check_number(f'{key}.custom_keys[{name!r}].{multiplier}', options[multiplier])


def knows_keys_of(constructor: str | type) -> bool:
    """Whether all keys are known that a constructor takes; a subclass of the user may take more."""
    return type_name(constructor) in _OWN_KEYS


def check_custom_keys(model: nn.Module, paramwise_cfg: Mapping | None) -> None:
    """Find a key of ``custom_keys`` that is part of no parameter's name, and so would change nothing.

    Raises:
        UserError: There is one. Those that the schedules of MMPretrain list for models with and without such a
            parameter are a warning instead.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    # MMEngine matches in '{prefix}.{name}', which for a parameter of the model itself begins with a dot.
    matched = [name if '.' in name else f'.{name}' for name in names]
    for key in (paramwise_cfg or {}).get('custom_keys') or {}:
        if any(key in name for name in matched):
            continue
        label = f'optim_wrapper.paramwise_cfg.custom_keys[{key!r}] is part of no parameter name'
        if key.strip('.') in _OF_STOCK_SCHEDULES:
            print_log(f'{label}; it has no effect on this model.', logger='current', level=logging.WARNING)
        else:
            raise UserError(f'{label}, so it would have no effect; {did_you_mean(key, _parts_of(names))}')


def _parts_of(names: Iterable[str]) -> set[str]:
    """Names that a key may mean: those of modules at every depth, of parameters, and the last parts of both."""
    parts: set[str] = set()
    for name in names:
        words = name.split('.')
        parts.update('.'.join(words[: i + 1]) for i in range(len(words)))
        parts.update(word for word in words if not word.isdigit())
    return parts
