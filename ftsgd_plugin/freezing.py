"""Make exactly these layers train.

Frozen means: ``requires_grad=False``, ``grad is None``, in no optimizer group, eval mode after every ``train()``.
Never a zero learning rate or a zero gradient: momentum and weight decay still move such weights.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MethodType

import torch
from torch import nn
from torch.optim import Optimizer

from .errors import UserError
from .layers import Layer, unwrap

Freeze = str | Sequence[str]
_FROZEN_NAMES = '_ftsgd_frozen'  # names of the parameters that this module froze, kept on the model


def select_layers(layers: Sequence[Layer], freeze: Freeze = 'embed') -> list[Layer]:
    """The layers that ``freeze`` names, in order.

    Args:
        layers: Output of :func:`ftsgd_plugin.layers.list_layers`.
        freeze: ``'embed'``, the paper's choice (patch convolution and ``ln_pre``; stem and first stage of a convnet);
            ``'stem'``, the first layer alone; ``'none'``; or a list of layer names and globs (``['pos_embed',
            'blocks.0.*']``).

    Returns:
        list[Layer]: The selected layers.

    Raises:
        UserError: A name or glob matches no layer, ``freeze`` is of another type, or nothing would be left to train.
    """
    if freeze == 'none':
        return []
    if freeze == 'embed':
        chosen = {layer.name for layer in layers if layer.role == 'embed'}
    elif freeze == 'stem':
        chosen = {layers[0].name}
    elif isinstance(freeze, Sequence) and not isinstance(freeze, str) and all(isinstance(p, str) for p in freeze):
        chosen = set()
        for pattern in freeze:
            matches = [layer.name for layer in layers if fnmatchcase(layer.name, pattern)]
            if not matches:
                raise UserError(f'freeze={list(freeze)!r}: {pattern!r} matches no layer; {_suggest(pattern, layers)}')
            chosen.update(matches)
    else:
        raise UserError(f"freeze={freeze!r} is none of 'embed', 'stem', 'none' or a list of layer names and globs.")
    if len(chosen) == len(layers):
        raise UserError(f'freeze={freeze!r} leaves nothing to train; name fewer of the {len(layers)} layers.')
    return [layer for layer in layers if layer.name in chosen]


def _suggest(pattern: str, layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers]
    close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
    if close:
        return f'did you mean {" or ".join(map(repr, close))}?'
    return f'the layers run from {names[0]!r}, {names[1]!r} to {names[-1]!r}.'


def freeze_layers(model: nn.Module, layers: Iterable[Layer]) -> None:
    """Freeze exactly these layers and let the others train; may be called again with other layers.

    A parameter that the model itself holds fixed (``frozen_stages``, a sine-cosine ``pos_embed``) stays so.

    Args:
        model: The model, wrapped or not.
        layers: The layers to freeze, out of ``list_layers(model)``.
    """
    model, layers = unwrap(model), list(layers)
    earlier = getattr(model, _FROZEN_NAMES, ())
    for name, param in model.named_parameters():
        if name in earlier:
            param.requires_grad_(True)
    frozen = {name: param for layer in layers for name, param in layer.params.items() if param.requires_grad}
    for param in frozen.values():
        param.requires_grad_(False)
        param.grad = None
    setattr(model, _FROZEN_NAMES, tuple(frozen))

    _keep_in_eval_mode(model, layers)


def keep_closed_layers_in_eval_mode(model: nn.Module, layers: Sequence[Layer]) -> None:
    """Put the modules of layers of which nothing trains into eval mode for good, and release the others.

    Args:
        model: The model, not wrapped.
        layers: ``list_layers(model)``.
    """
    closed = [layer for layer in layers if not any(param.requires_grad for param in layer.params.values())]
    _keep_in_eval_mode(model, closed)


def _keep_in_eval_mode(model: nn.Module, layers: Iterable[Layer]) -> None:
    keep_eval = {id(module) for layer in layers for module in layer.modules.values()}
    for module in model.modules():
        held = isinstance(module.__dict__.get('train'), MethodType) and module.train.__func__ is _stay_in_eval_mode
        if id(module) in keep_eval:
            if not held:
                module.train = MethodType(_stay_in_eval_mode, module)
            module.eval()
        elif held:
            del module.train
            module.train(model.training)


def _stay_in_eval_mode(self: nn.Module, mode: bool = True) -> nn.Module:
    """``Module.train`` of a frozen module. A bound method, so that ``copy.deepcopy`` (EMA) rebinds it to the copy."""
    type(self).train(self, False)
    return self  # MMPretrain's backbones return None


# Pickling a bound method stores its name: a module saved whole must come back with its class's own ``train``.
_stay_in_eval_mode.__name__ = 'train'


def optimizer_state_bytes(optimizer: Optimizer) -> int:
    """Bytes of optimizer state that exist now (0 before the first step)."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


def predict_state_bytes(optimizer: Optimizer) -> int | None:
    """Bytes of state the optimizer will keep, found by one step of its twin on the meta device.

    Returns:
        int | None: Bytes, or ``None`` for an optimizer that cannot step on meta tensors.
    """
    groups = []
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key not in ('params', 'foreach', 'fused')}
        twins = [nn.Parameter(torch.empty_like(param, device='meta')) for param in group['params']]
        for twin in twins:
            twin.grad = torch.empty_like(twin)
        groups.append({**options, 'params': twins, 'foreach': False})
    try:
        twin_optimizer = type(optimizer)(groups, lr=optimizer.param_groups[0].get('lr', 1e-3))
        twin_optimizer.step()
    except Exception:  # any optimizer may be configured; the report is no reason to stop a run
        return None
    return optimizer_state_bytes(twin_optimizer)


@dataclass(frozen=True)
class FreezeReport:
    """What was decided at the start of a run, as counts.

    Attributes:
        freeze: The ``freeze`` option.
        trained, frozen: Layers, parameters and bytes of each.
        state_bytes: Optimizer state in bytes; ``None`` if unknown before the first step.
        optimizer: Class name of the optimizer.
        groups: Number of its parameter groups.
        self_frozen: Number of parameters that the model itself holds fixed (counted in ``frozen``).
    """

    freeze: Freeze
    trained: tuple[int, int, int]
    frozen: tuple[int, int, int]
    state_bytes: int | None
    optimizer: str
    groups: int
    self_frozen: int = 0

    @classmethod
    def of(cls, layers: Sequence[Layer], freeze: Freeze, optimizer: Optimizer) -> 'FreezeReport':
        """Count what trains now. A layer counts as frozen when none of its parameters trains."""
        trained, frozen, self_frozen = [0, 0, 0], [0, 0, 0], 0
        chosen = {layer.name for layer in select_layers(layers, freeze)}
        for layer in layers:
            trains = any(param.requires_grad for param in layer.params.values())
            (trained if trains else frozen)[0] += 1
            for param in layer.params.values():
                count = trained if param.requires_grad else frozen
                count[1] += param.numel()
                count[2] += param.numel() * param.element_size()
                if not param.requires_grad and layer.name not in chosen:
                    self_frozen += param.numel()
        return cls(
            freeze=freeze,
            trained=tuple(trained),
            frozen=tuple(frozen),
            state_bytes=predict_state_bytes(optimizer),
            optimizer=type(optimizer).__name__,
            groups=len(optimizer.param_groups),
            self_frozen=self_frozen,
        )

    def __str__(self) -> str:
        total = self.trained[1] + self.frozen[1]
        lines = [f'freeze={self.freeze!r}']
        for word, (count, params, size) in (('trained', self.trained), ('frozen', self.frozen)):
            lines.append(f'  {word:<8} {count:>4} layers {params:>13,} parameters {params / total:>8.2%} {_mb(size)}')
        if self.self_frozen:
            lines.append(f'           of these {self.self_frozen:,} parameters are held fixed by the model itself')
        state = 'unknown before the first step'
        if self.state_bytes is not None:
            state = f'{_mb(self.state_bytes)} of state, {self.state_bytes / total:.2f} bytes per parameter'
        lines.append(f'  {self.optimizer}: {self.groups} parameter groups, {state}')
        return '\n'.join(lines)


def _mb(size: int) -> str:
    return f'{size / 1e6:,.2f} MB'
