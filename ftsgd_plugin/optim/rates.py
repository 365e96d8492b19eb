"""Learning rates by layer: multipliers by role, block or glob, or from gradients; needs PyTorch alone."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from statistics import median
from typing import Any

from torch import nn

from ..layers import Layer, list_layers
from ..utils.errors import UserError
from ..utils.names import did_you_mean
from ..utils.norms import stacked_norms

GRADIENT = 'gradient'  # ``lr_mult`` of multipliers that are measured before the first update
MEASURED = 'measured_lr_mult'  # key of an optimizer's group: its measured multiplier; ``None`` before the measurement
_UNSCALED = ('head',)  # roles whose rate stays: a new head has to move


def check_lr_mult(label: str, value: Any, measured: bool = True) -> None:
    """Refuse multipliers of learning rates that are none.

    Args:
        label: How messages name the option.
        value: ``None``; ``'gradient'``; or role, block or glob -> a number above 0.
        measured: Whether ``'gradient'`` is possible. Defaults to True.

    Raises:
        UserError: It is something else.
    """
    if value is None or (value == GRADIENT and measured):
        return
    if not isinstance(value, Mapping) or not value:
        either = "'gradient' or " if measured else ''
        raise UserError(
            f"{label}={value!r} is not {either}a dict such as {{'embed': 0.1, 'blocks.*': 0.5}}; correct it."
        )
    for name, number in value.items():
        if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number < math.inf:
            raise UserError(
                f'{label}[{name!r}]={number!r} is not a number above 0; to freeze layers name them in freeze instead.'
            )


def stage_of(layer: Layer) -> str:
    """What a layer is called in ``lr_mult`` beside its own name: ``'blocks.3'``, outside blocks its role."""
    return layer.role if layer.block is None else f'blocks.{layer.block}'


def lr_multipliers(layers: Sequence[Layer], lr_mult: Mapping[str, float]) -> dict[str, float]:
    """The multiplier of every layer, by its name; layers of rate 1 are left out.

    Args:
        layers: All layers of the model.
        lr_mult: Role (``'embed'``, ``'position'``, ``'block'``, ``'norm'``, ``'projection'``, ``'head'``), block
            (``'blocks.0'``), layer name, or a glob of blocks and layer names -> multiplier. Of several that match a
            layer the last counts.

    Raises:
        UserError: One matches no layer.
    """
    found: dict[str, float] = {}
    for pattern, multiplier in lr_mult.items():
        matched = [
            layer.name
            for layer in layers
            if pattern == layer.role or any(fnmatchcase(name, pattern) for name in (stage_of(layer), layer.name))
        ]
        if not matched:
            known = {name for layer in layers for name in (layer.role, stage_of(layer), layer.name)}
            raise UserError(f'lr_mult[{pattern!r}] matches no layer; {did_you_mean(pattern, known)}')
        found.update(dict.fromkeys(matched, float(multiplier)))
    return {name: multiplier for name, multiplier in found.items() if multiplier != 1}


def multiply_rates(
    layers: Sequence[Layer], options: Mapping[nn.Parameter, dict], lr: float, lr_mult: Mapping[str, float]
) -> None:
    """Multiply learning rates layer by layer.

    Args:
        layers: All layers of the model.
        options: The parameters that train -> their own options; their ``lr`` is set.
        lr: Learning rate of those without one.
        lr_mult: As in :func:`lr_multipliers`.
    """
    multipliers = lr_multipliers(layers, lr_mult)
    for layer in layers:
        if (multiplier := multipliers.get(layer.name)) is not None:
            for param in layer.params.values():
                if (own := options.get(param)) is not None:
                    own['lr'] = own.get('lr', lr) * multiplier


def gradient_lr_mult(model: nn.Module) -> dict[str, float]:
    """Multipliers of learning rates from the gradients that a model holds now. This project's rule, not the paper's.

    Let ``g`` be the norm of a stage's gradient over the square root of its number of parameters: how far plain SGD
    moves one of its parameters at rate 1. A stage is a block, or all layers of one role. The multiplier is
    ``min(1, m / g)`` with the median ``m`` over the blocks, and 1 for the head: where gradients are larger than those
    of the typical block, as in the embedding of the paper's ViTs, steps are no longer than in that block. No rate
    grows.

    Args:
        model: A classifier with a layer list, after one or more backward passes.

    Returns:
        dict: Stage -> multiplier, for ``lr_mult`` of :func:`ftsgd_plugin.param_groups` and of ``paramwise_cfg``.

    Raises:
        UserError: The median block has no gradient or one of zeros, or a gradient is NaN or infinite.

    Examples:
        >>> loss_of(model(images), labels).backward()
        >>> optimizer = torch.optim.SGD(param_groups(model, 'none', lr=1e-3, lr_mult=gradient_lr_mult(model)))
    """
    stages = stages_with_gradient(list_layers(model))
    norms = stacked_norms([[param.grad for param in params] for params in stages.values()]).tolist() if stages else []
    return multipliers_of(dict(zip(stages, norms)), sizes_of(stages))


def stages_with_gradient(layers: Sequence[Layer]) -> dict[str, list[nn.Parameter]]:
    """Stage -> its parameters that hold a gradient, from input to output."""
    stages: dict[str, list[nn.Parameter]] = {}
    for layer in layers:
        own = [param for param in layer.params.values() if param.grad is not None]
        if own:
            stages.setdefault(stage_of(layer), []).extend(own)
    return stages


def sizes_of(stages: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, int]:
    """Number of scalars of every stage."""
    return {stage: sum(param.numel() for param in params) for stage, params in stages.items()}


def multipliers_of(norms: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    """The rule of :func:`gradient_lr_mult`.

    Args:
        norms: Stage -> L2 norm of its gradient.
        sizes: Stage -> number of its parameters.

    Examples:
        >>> multipliers_of({'embed': 8.0, 'blocks.0': 2.0, 'head': 9.0}, {'embed': 4, 'blocks.0': 4, 'head': 1})
        {'embed': 0.25, 'blocks.0': 1.0, 'head': 1.0}
    """
    if bad := [stage for stage, norm in norms.items() if not math.isfinite(norm)]:
        raise UserError(f'lr_mult={GRADIENT!r}: the gradient of {bad[0]} is not finite; look at the data and the loss.')
    each = {stage: norm / math.sqrt(sizes[stage]) for stage, norm in norms.items()}
    blocks = [value for stage, value in each.items() if stage.startswith('blocks.')]
    middle = median(blocks or [0.0])
    if not middle:  # of a head of zeros too, which passes nothing on
        raise UserError(f'lr_mult={GRADIENT!r}: the typical block has no gradient to compare with; let some train.')
    return {stage: 1.0 if stage in _UNSCALED or value <= middle else middle / value for stage, value in each.items()}
