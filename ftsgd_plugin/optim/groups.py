"""What trains, and in which groups of the optimizer; needs PyTorch alone.

:func:`param_groups` is for a loop of one's own. ``FreezeEmbedOptimWrapperConstructor`` freezes and merges by the same
functions.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..freezing import Freeze, freeze_layers, select_layers
from ..layers import Layer, layer_depths, list_layers, unwrap
from ..utils.errors import UserError
from .checkpointing import use_non_reentrant_checkpointing
from .ddp import rebuild_reducers
from .places import mark_layers
from .rates import GRADIENT, check_lr_mult, multiply_rates
from .values import check_values

LARGE_EMBEDDING = 0.02  # share of the parameters; of the paper's seven models the largest is 0.0095 (BiT ResNet-50)
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)  # as in MMEngine


def param_groups(
    model: nn.Module,
    freeze: Freeze = 'embed',
    *,
    train: str = 'all',
    lr: float | None = None,
    weight_decay: float | None = None,
    norm_decay_mult: float | None = None,
    bias_decay_mult: float | None = None,
    layer_decay_rate: float | None = None,
    lr_mult: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Freeze layers of a model and group the parameters that train, for any optimizer of ``torch.optim``.

    They are the groups of ``FreezeEmbedOptimWrapperConstructor``, in the same order: parameters with the same stage
    (role and block) and the same hyper-parameters share one, and each stores ``name`` (its first layer), ``role`` and
    ``block`` (``None`` outside blocks). Frozen parameters are in no group: no state, no weight decay. A warning names
    an embedding of more than 2 % of the parameters. To freeze other layers, call it again for a new optimizer.

    Args:
        model: A classifier with a layer list, wrapped in ``DistributedDataParallel`` or not.
        freeze: ``'embed'``, the paper's choice; another name; or a list of layer names and globs, see
            :func:`ftsgd_plugin.select_layers`. Defaults to ``'embed'``.
        train: What trains of the other layers: ``'all'``, or ``'norms-and-biases'`` and the head. Defaults to
            ``'all'``.
        lr: Learning rate. Defaults to the optimizer's.
        weight_decay: Weight decay. Defaults to the optimizer's.
        norm_decay_mult: Multiplies the weight decay of norm layers; 0 turns it off. Defaults to 1.
        bias_decay_mult: Multiplies the weight decay of the other biases. Defaults to 1.
        layer_decay_rate: Multiplies the learning rate once per layer above, as BEiT's and MAE's recipes do
            (:func:`ftsgd_plugin.layers.layer_depths`). Defaults to none.
        lr_mult: Role, block or glob -> multiplier of the learning rate, such as ``{'embed': 0.1, 'blocks.*': 0.5}``
            (:func:`ftsgd_plugin.optim.rates.lr_multipliers`). Defaults to none.

    Returns:
        list[dict]: The groups, from input to output.

    Raises:
        UserError: ``freeze`` matches nothing or leaves nothing to train, the model has no layer list, a value is not a
            number to train with, or a multiplier is given without what it multiplies.

    Examples:
        >>> optimizer = torch.optim.SGD(param_groups(model, freeze='embed', lr=1e-3), momentum=0.9)
    """
    _check_options(lr, weight_decay, norm_decay_mult, bias_decay_mult, layer_decay_rate, lr_mult)
    inner = unwrap(model)
    layers, frozen = freeze_model(inner, freeze, train, listed=layer_decay_rate is not None or lr_mult is not None)
    if (message := large_embedding(layers, frozen)) is not None:
        warnings.warn(message, stacklevel=2)
    rebuild_reducers(model)
    options = _weight_decays(inner, weight_decay, norm_decay_mult, bias_decay_mult)
    if layer_decay_rate is not None:
        decay_rates(layers, options, lr, layer_decay_rate)
    if lr_mult is not None:
        multiply_rates(layers, options, lr, lr_mult)
    common = {key: value for key, value in (('lr', lr), ('weight_decay', weight_decay)) if value is not None}
    groups = [{**common, **group} for group in merge_by_stage(layers, options)]
    check_complete(inner, groups)
    return groups


def freeze_model(
    model: nn.Module, freeze: Freeze, train: str = 'all', listed: bool = False
) -> tuple[list[Layer], list[Layer]]:
    """Freeze layers of a model for its training.

    Args:
        model: The model, not wrapped.
        freeze: Which, see :func:`ftsgd_plugin.freezing.select_layers`.
        train: What trains of the others, see :func:`ftsgd_plugin.freezing.left_out`. Defaults to ``'all'``.
        listed: Whether the layers are needed even if none is frozen. Defaults to False.

    Returns:
        tuple: All layers (none if the architecture is not known and not needed), and those that are frozen.

    Raises:
        UserError: ``freeze`` matches nothing or leaves nothing to train, ``train`` is unknown, the model has no layer
            list, or its activation checkpointing is re-entrant.
    """
    try:
        layers = list_layers(model)
    except UserError:
        if freeze != 'none' or train != 'all' or listed:
            raise
        layers = []
    frozen = select_layers(layers, freeze)
    use_non_reentrant_checkpointing(model)
    freeze_layers(model, frozen, train)
    if not any(param.requires_grad for param in model.parameters()):
        raise UserError(f'freeze={freeze!r} leaves nothing to train, as the model itself freezes the rest.')
    return layers, frozen


def large_embedding(layers: Sequence[Layer], frozen: Sequence[Layer]) -> str | None:
    """A warning if the embedding that is frozen is more than the first few filters that the paper freezes."""
    embedding = [layer for layer in frozen if layer.role == 'embed']
    if not embedding:
        return None
    share = sum(layer.num_params for layer in embedding) / sum(layer.num_params for layer in layers)
    if share <= LARGE_EMBEDDING:
        return None
    return (
        f'the frozen embedding ({embedding[0].name} to {embedding[-1].name}) is {share:.1%} of the parameters; in the '
        "paper's models it is less than 1%. tools/print_layers.py shows its layers; freeze may name fewer."
    )


def merge_by_stage(layers: Sequence[Layer], options: Mapping[nn.Parameter, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Group parameters that agree in role, block and every option, in the order of the layer list.

    Args:
        layers: All layers of the model; with none, groups have no ``name``, ``role`` and ``block``.
        options: The parameters that train -> their own options; what they share is the optimizer's.
    """
    merged: dict[tuple, dict[str, Any]] = {}

    def add(params: Iterable[nn.Parameter], stage: dict[str, Any]) -> None:
        for param in params:
            if param in options:
                own = options[param]
                key = (stage.get('role'), stage.get('block'), repr(sorted(own.items())))
                merged.setdefault(key, {'params': [], **stage, **own})['params'].append(param)

    mark_layers(layers)
    for layer in layers:
        name = layer.name if layer.block is None else f'blocks.{layer.block}'
        add(layer.params.values(), {'name': name, 'role': layer.role, 'block': layer.block})
    if not layers:
        add(options, {})
    return list(merged.values())


def decay_rates(layers: Sequence[Layer], options: Mapping[nn.Parameter, dict], lr: float, rate: float) -> None:
    """Multiply learning rates by the layer-wise decay.

    Args:
        layers: All layers of the model.
        options: The parameters that train -> their own options; their ``lr`` is set.
        lr: Learning rate of those without one.
        rate: Factor from each layer to the one before it.
    """
    depths = layer_depths(layers)
    top = max(depths.values())
    for layer in layers:
        for name, param in layer.params.items():
            if (own := options.get(param)) is not None:
                own['lr'] = own.get('lr', lr) * rate ** (top - depths[name])


def check_complete(model: nn.Module, groups: Iterable[Mapping[str, Any]]) -> None:
    """Assert that every trained parameter is in exactly one group, and no frozen one in any."""
    held = [id(param) for group in groups for param in group['params']]
    trained = {id(param) for param in model.parameters() if param.requires_grad}
    assert len(held) == len(set(held)) and set(held) == trained, 'optimizer groups and trained parameters differ'


def check_layer_decay_rate(label: str, rate: Any) -> None:
    """Refuse a rate of layer-wise decay that is not above 0 and at most 1; ``None`` is none."""
    if rate is not None and not (is_number(rate) and 0 < rate <= 1):
        raise UserError(
            f'{label}={rate!r} is not a number above 0 and at most 1, by which the learning rate is multiplied from '
            'each block to the one before it; correct it.'
        )


def check_number(label: str, value: Any) -> None:
    """Refuse what is neither a number nor ``None``."""
    if value is not None and not is_number(value):
        raise UserError(f'{label}={value!r} is not a number; correct it.')


def is_number(value: Any) -> bool:
    """Whether a value is a real number; ``True`` and ``False`` are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_options(
    lr: Any, weight_decay: Any, norm_decay_mult: Any, bias_decay_mult: Any, rate: Any, lr_mult: Any
) -> None:
    multipliers = dict(norm_decay_mult=norm_decay_mult, bias_decay_mult=bias_decay_mult)
    for name, value in dict(lr=lr, weight_decay=weight_decay, **multipliers).items():
        check_number(f'param_groups: {name}', value)
    check_values('param_groups', dict(lr=lr, weight_decay=weight_decay, **multipliers))
    check_layer_decay_rate('param_groups: layer_decay_rate', rate)
    if lr_mult == GRADIENT:
        raise UserError(
            "param_groups: lr_mult='gradient' is measured by ftsgd_plugin.gradient_lr_mult(model) after a "
            'backward pass; give its result.'
        )
    check_lr_mult('param_groups: lr_mult', lr_mult, measured=False)
    for name, value in dict(layer_decay_rate=rate, lr_mult=lr_mult).items():
        if value is not None and lr is None:
            raise UserError(f'param_groups: {name} multiplies the learning rate and there is none; give lr.')
    for name, value in multipliers.items():
        if value is not None and weight_decay is None:
            raise UserError(f'param_groups: {name} multiplies the weight decay and there is none; give weight_decay.')


def _weight_decays(
    model: nn.Module, weight_decay: float | None, norm_decay_mult: float | None, bias_decay_mult: float | None
) -> dict[nn.Parameter, dict[str, Any]]:
    """The parameters that train -> their own weight decay, if any.

    The rule of MMEngine's ``DefaultOptimWrapperConstructor``, which cannot be called without MMEngine.
    """
    options: dict[nn.Parameter, dict[str, Any]] = {}
    for module in model.modules():
        for name, param in module.named_parameters(recurse=False):
            if not param.requires_grad or param in options:
                continue
            multiplier = bias_decay_mult if name == 'bias' else None
            if isinstance(module, _NORMS) and norm_decay_mult is not None:
                multiplier = norm_decay_mult
            options[param] = {} if multiplier is None else {'weight_decay': weight_decay * multiplier}
    return options
