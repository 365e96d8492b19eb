"""Activation checkpointing must not be re-entrant: above a frozen layer that would lose gradients without a word.

The re-entrant kind of ``torch.utils.checkpoint`` returns outputs without gradient if no input has one, and so does
every block above a frozen one. MMPretrain's ``with_cp`` looks at its input and does not checkpoint then; open_clip is
not re-entrant from 2.32, nor timm from 1.0.13 unless it is told to be.
"""

import functools
import importlib
import os
import sys

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..utils.errors import UserError
from ..utils.patching import replaced

_SWITCH = 'TIMM_REENTRANT_CKPT'
_non_reentrant = functools.partial(checkpoint, use_reentrant=False)


def use_non_reentrant_checkpointing(model: nn.Module) -> None:
    """Let timm, and MMEngine's config key ``activation_checkpointing``, checkpoint without re-entrance.

    Args:
        model: The model that is about to be frozen in part.

    Raises:
        UserError: The environment tells timm, some of whose modules are in the model, to be re-entrant.
    """
    if 'mmengine' in sys.modules:
        module = importlib.import_module('mmengine.runner.activation_checkpointing')
        if module.checkpoint is checkpoint:
            replaced(module, 'checkpoint', _non_reentrant)  # for good: a model with its wrapped forward may outlive it
    timm = sys.modules.get('timm.layers')
    if timm is None or not timm.use_reentrant_ckpt():
        return
    of_timm = any(type(part).__module__.partition('.')[0] == 'timm' for part in model.modules())
    if of_timm and _SWITCH in os.environ:
        raise UserError(
            f'{_SWITCH}={os.environ[_SWITCH]}: re-entrant activation checkpointing loses the gradients of all blocks '
            'above a frozen layer; unset this environment variable.'
        )
    timm.set_reentrant_ckpt(False)
