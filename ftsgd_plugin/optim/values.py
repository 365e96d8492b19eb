"""Settings of optimizers and schedulers that are not numbers to train with."""

import math
from collections.abc import Iterable, Mapping

from torch.optim import Optimizer

from ..utils.errors import UserError

# With gradient clipping, an infinite limit logs the norm, and an infinite norm is the largest entry.
_MAY_BE_INFINITE = ('clip_grad.max_norm', 'clip_grad.norm_type', 'clip_grad.clip_value')


def check_settings(cfg: Mapping) -> None:
    """Refuse settings of the optimizer and of the schedulers that are not numbers to train with.

    Args:
        cfg: A run's config; ``optim_wrapper`` and ``param_scheduler`` are checked, at any depth.

    Raises:
        UserError: A value is NaN or infinite (except the limits of ``clip_grad``), a learning rate is negative, or a
            momentum is not in [0, 1).
    """
    for key in ('optim_wrapper', 'param_scheduler'):
        check_values(key, cfg.get(key))


def check_groups(optimizer: Optimizer) -> None:
    """:func:`check_settings` on the groups of an optimizer."""
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key != 'params'}
        check_values('optim_wrapper.optimizer', options)


def check_values(path: str, value: object) -> None:
    """:func:`check_settings` on one value, at any depth; ``path`` is how messages name it."""
    if isinstance(value, Mapping):
        items: Iterable = ((f'{path}.{key}', item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        items = ((f'{path}.{i}', item) for i, item in enumerate(value))
    else:
        if isinstance(value, int | float) and not isinstance(value, bool) and (reason := _fault(path, value)):
            raise UserError(f'{path}={value!r} {reason}.')
        return
    for name, item in items:
        check_values(name, item)


def _fault(path: str, value: float) -> str | None:
    """What is wrong with a number, and what to write."""
    name = path.rpartition('.')[2]
    if not math.isfinite(value) and not (value > 0 and path.endswith(_MAY_BE_INFINITE)):
        return 'is not a finite number; set one, such as 1e-3' if name == 'lr' else 'is not a finite number; set one'
    if name == 'lr' and value < 0:
        return 'is negative; set a learning rate such as 1e-3'
    if name == 'momentum' and not 0 <= value < 1:
        return 'is not in [0, 1); set a momentum such as 0.9'
    return None
