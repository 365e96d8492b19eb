"""Does a checkpoint fit? MMEngine loads what fits and leaves the rest at random values; here that is an error."""

import copy
import re
from collections.abc import Sequence

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader
from torch import nn

from ..layers import unwrap_state_dict
from ..utils.errors import UserError
from .io import check_readable

_FOREIGN = ' belongs to another model'
# Options of torch.optim that came with later versions, or that schedulers add to a group.
_CHANGING_OPTIONS = {
    *('capturable', 'decoupled_weight_decay', 'differentiable', 'foreach', 'fused', 'maximize'),
    *('initial_lr', 'initial_momentum', 'initial_weight_decay'),
}


def misfits(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> list[str]:
    """What keeps a state dict from filling a model, one phrase per tensor; empty if it fits.

    The model's own load hooks count (a ViT that resizes its positional embedding fits); nothing is loaded.

    Args:
        model: Any module, not wrapped.
        state_dict: Tensors by name.
    """
    twin = _on_meta(model)
    tensors = {name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
    wrong_size = []
    try:
        missing, unexpected = twin.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:  # raised for sizes, whatever strict says
        wrong_size = re.findall(r'size mismatch for (\S+):', str(error))
        if not wrong_size:
            raise
        fitting = {name: value for name, value in tensors.items() if name not in wrong_size}
        missing, unexpected = twin.load_state_dict(fitting, strict=False, assign=True)
    own = model.state_dict()
    found = [f'{name} is missing' for name in missing if name not in wrong_size]
    found += [f'{name}{_FOREIGN}' for name in unexpected]
    return found + [
        f'{name} is {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}' for name in wrong_size
    ]


def in_words(found: Sequence[str]) -> str:
    """The first two of :func:`misfits` and how many more there are."""
    more = f' and {len(found) - 2} more' if len(found) > 2 else ''
    return f'{"; ".join(found[:2])}{more}'


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy without memory: its load hooks work on shapes only."""
    memo = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        twin = torch.empty_like(tensor, device='meta')
        memo[id(tensor)] = nn.Parameter(twin, False) if isinstance(tensor, nn.Parameter) else twin
    return copy.deepcopy(model, memo)


def check_pretrained(model: nn.Module) -> None:
    """Find what ``init_cfg=dict(type='Pretrained', ...)`` would leave at random values.

    MMEngine loads what fits and logs the rest. Here every tensor of the module must be filled; the checkpoint may hold
    more, as a head or a decoder, but not more of what the module has (the 7th block of a 6-block model). On a whole
    classifier the head may differ.

    Args:
        model: The model, before ``init_weights``.

    Raises:
        UserError: The file cannot be read or does not fit.
    """
    for name, module in model.named_modules():
        cfgs = getattr(module, 'init_cfg', None) or []
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
            if cfg.get('type') != 'Pretrained':
                continue
            path, prefix = cfg['checkpoint'], cfg.get('prefix')
            key = f'{name}.init_cfg' if name else 'model.init_cfg'
            found = _unfilled(module, _read_state_dict(path), prefix)
            if found:
                raise UserError(
                    f'{key}: {path} does not fit {type(module).__name__}: {in_words(found)}; '
                    'correct the arguments of the model, the checkpoint or its prefix.'
                )


def _read_state_dict(path: str) -> dict:
    content = check_readable(path)
    content = CheckpointLoader.load_checkpoint(path, map_location='cpu') if content is None else content
    return unwrap_state_dict(content.get('state_dict', content))


def _unfilled(module: nn.Module, weights: dict, prefix: str | None) -> list[str]:
    if prefix:
        inside = prefix if prefix.endswith('.') else f'{prefix}.'
        weights = {name.removeprefix(inside): value for name, value in weights.items() if name.startswith(inside)}
    found = misfits(module, weights)
    if hasattr(module, 'backbone'):
        return [phrase for phrase in found if phrase.startswith('backbone.')]
    own = {name for name, _ in module.named_children()}
    return [phrase for phrase in found if not phrase.endswith(_FOREIGN) or phrase.split('.')[0] in own]


def resume_misfits(checkpoint: dict, optim_wrapper: OptimWrapper, schedulers: Sequence) -> str | None:
    """Why a run cannot go on from a checkpoint, apart from the weights; ``None`` if it can.

    Args:
        checkpoint: Content of the file.
        optim_wrapper: The run's optimizer wrapper.
        schedulers: The run's parameter schedulers.
    """
    absent = [key for key in ('meta', 'message_hub', 'optimizer') if key not in checkpoint]
    if absent or not {'epoch', 'iter'} <= checkpoint['meta'].keys():
        return f'holds weights but no training state ({", ".join(absent) or "meta.epoch"})'
    optimizer = getattr(optim_wrapper, 'optimizer', None)
    saved = checkpoint['optimizer'].get('param_groups')
    if optimizer is None or saved is None:  # several optimizers
        return None
    ours, theirs = optimizer.param_groups, saved
    absent = sorted(ours[0].keys() - theirs[0].keys() - _CHANGING_OPTIONS)
    if absent:
        return f'was written by another optimizer than {type(optimizer).__name__} (it has no {", ".join(absent)})'
    sizes = [[len(group['params']) for group in groups] for groups in (ours, theirs)]
    if sizes[0] != sizes[1]:
        return (
            f'trained {sum(sizes[1])} tensors in {len(sizes[1])} groups, this config trains {sum(sizes[0])} in '
            f'{len(sizes[0])} groups (another freeze or other paramwise options)'
        )
    states = checkpoint.get('param_schedulers', [])
    if isinstance(states, list) and len(states) != len(schedulers):
        return f'has the state of {len(states)} parameter schedulers, this config has {len(schedulers)}'
    return None
