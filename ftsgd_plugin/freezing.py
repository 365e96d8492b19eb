"""Make exactly these layers train.

Frozen means: ``requires_grad=False``, ``grad is None``, in no optimizer group, eval mode after every ``train()``.
Never a zero learning rate or a zero gradient: momentum and weight decay still move such weights.
"""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from types import MethodType

from torch import nn

from .layers import Layer, unwrap
from .utils.errors import UserError

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
