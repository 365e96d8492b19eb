"""Compare a checkpoint with a model or a run: MMEngine leaves what does not fit random, here it is an error."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..layers import in_backbone
from ..utils.errors import UserError
from ..utils.names import type_name
from .io import read_weights


@dataclass(frozen=True)
class Misfit:
    """A tensor in which a state dict and a model differ; ``str`` of it is a phrase for messages.

    Attributes:
        name: Name of the tensor in the model.
        found: Its shape in the state dict; ``None`` if it is missing there.
        expected: Its shape in the model; ``None`` if the model has no such tensor.
    """

    name: str
    found: tuple[int, ...] | None
    expected: tuple[int, ...] | None

    def __str__(self) -> str:
        if self.found is None:
            return f'{self.name} is missing'
        if self.expected is None:
            return f'{self.name} belongs to another model'
        return f'{self.name} is {self.found} instead of {self.expected}'


def misfits(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> list[Misfit]:
    """Find what prevents a state dict from filling a model: missing, then unexpected, then misshapen tensors.

    The model's own load hooks run first, on shapes only (a ViT that resizes its positional embedding fits). Neither the
    model nor the state dict changes.

    Args:
        model: Any module, not wrapped.
        state_dict: Tensors by name.

    Returns:
        list[Misfit]: Empty if the state dict fits.
    """
    own = {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    tensors = {name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
    misshapen = []

    def compare_shapes(module: nn.Module, loaded: dict, prefix: str, *args) -> None:
        every_name = {'recurse': False, 'remove_duplicate': False}  # a tensor may have two names
        for name, twin in itertools.chain(module.named_parameters(**every_name), module.named_buffers(**every_name)):
            name = prefix + name
            if name not in own or name not in loaded or _is_loadable(tuple(loaded[name].shape), own[name]):
                continue
            misshapen.append(Misfit(name, tuple(tensors.get(name, loaded[name]).shape), own[name]))
            loaded[name] = twin  # load_state_dict raises for shapes even if strict is False

    twin = _on_meta(model)
    for module in twin.modules():  # behind the hooks of the model
        module._register_load_state_dict_pre_hook(compare_shapes, with_module=True)
    missing, unexpected = twin.load_state_dict(tensors, strict=False, assign=True)
    # What get_extra_state returns need not be a tensor: then it only has to exist.
    found = [Misfit(name, None, own.get(name)) for name in missing if name in own or name not in state_dict]
    found += [Misfit(name, tuple(tensors[name].shape) if name in tensors else (), None) for name in unexpected]
    return found + misshapen


def _is_loadable(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return found == expected or (found == (1,) and expected == ())  # torch 0.3 wrote scalars as vectors


def summarise(found: Sequence[Misfit]) -> str:
    """The first two misfits and the number of the others, for a message."""
    more = f' and {len(found) - 2} more' if len(found) > 2 else ''
    return f'{"; ".join(map(str, found[:2]))}{more}'


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy on the meta device, which has shapes but no memory."""
    memo = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        twin = torch.empty_like(tensor, device='meta')
        memo[id(tensor)] = nn.Parameter(twin, False) if isinstance(tensor, nn.Parameter) else twin
    return copy.deepcopy(model, memo)


def check_pretrained(model: nn.Module) -> None:
    """Find what ``init_cfg=dict(type='Pretrained', ...)`` would leave at random values.

    MMEngine loads what fits and logs the rest. Here every tensor of the module must be filled. The checkpoint may hold
    more, such as a head or a decoder, but not more of what the module has (the 7th block of a 6-block model). On a
    classifier the head may differ.

    Args:
        model: The model, before ``init_weights``.

    Raises:
        UserError: The file cannot be read or does not fit.
    """
    for name, module in model.named_modules():
        cfgs = getattr(module, 'init_cfg', None) or []
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
            if type_name(cfg) not in ('Pretrained', 'PretrainedInit'):  # registered name, name of the class
                continue
            path, prefix = cfg['checkpoint'], cfg.get('prefix')
            key = f'{name}.init_cfg' if name else 'model.init_cfg'
            found = _unfilled(module, read_weights(path), prefix)
            if found:
                raise UserError(
                    f'{key}: {path} does not fit {type(module).__name__}: {summarise(found)}; '
                    'correct the arguments of the model, the checkpoint or its prefix.'
                )


def _unfilled(module: nn.Module, weights: dict, prefix: str | None) -> list[Misfit]:
    if prefix:
        inside = prefix if prefix.endswith('.') else f'{prefix}.'
        weights = {name.removeprefix(inside): value for name, value in weights.items() if name.startswith(inside)}
    found = misfits(module, weights)
    if hasattr(module, 'backbone'):
        return of_backbone(found)
    own = {name for name, _ in module.named_children()}
    return [misfit for misfit in found if misfit.expected is not None or misfit.name.split('.')[0] in own]


def of_backbone(found: Sequence[Misfit]) -> list[Misfit]:
    """The misfits in the backbone of a classifier."""
    return [misfit for misfit in found if in_backbone(misfit.name)]
