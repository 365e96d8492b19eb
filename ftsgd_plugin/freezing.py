"""Make exactly these layers train; the only module that writes ``requires_grad``.

Frozen means ``requires_grad=False``, ``grad is None``, in no optimizer group, and eval mode after every ``train()``.
Never a learning rate of zero or a zero gradient: momentum and weight decay still move such weights.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from types import MethodType

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .layers import Layer, list_layers, unwrap
from .utils.errors import UserError

Freeze = str | Sequence[str]
FREEZES = ('embed', 'stem', 'none', 'all-but-head', 'all-but-first-block')  # each for several layers
TRAINS = ('all', 'norms-and-biases')
# Frozen by us and not by the model itself: a mark on the parameter, because schedules know no model, and the names on
# the model, because a deep copy of a parameter loses its attributes.
_FROZEN = '_ftsgd_frozen'
_TRAINED = '_ftsgd_trained'  # on the model: ids of the parameters that trained when eval mode was last updated


def select_layers(layers: Sequence[Layer], freeze: Freeze = 'embed') -> list[Layer]:
    """Select the layers that ``freeze`` names, in the order of the list.

    Args:
        layers: Output of :func:`ftsgd_plugin.layers.list_layers`.
        freeze: ``'embed'``, the paper's choice (patch convolution and ``ln_pre``; stem and first stage of a convnet);
            ``'stem'``, the first layer alone; ``'none'``; ``'all-but-head'``; ``'all-but-first-block'``, what surgical
            fine-tuning (arXiv 2210.11466) calls the first block, and the head, which is new; or a list of layer names
            and globs (``['pos_embed', 'blocks.0.*']``). Defaults to ``'embed'``.

    Returns:
        list[Layer]: The selected layers.

    Raises:
        UserError: A name or glob matches no layer, ``freeze`` has another type, or nothing would be left to train.
    """
    if freeze == 'none':
        return []
    if freeze == 'embed':
        chosen = {layer.name for layer in layers if layer.role == 'embed'}
    elif freeze == 'stem':
        chosen = {layers[0].name}
    elif freeze == 'all-but-head':
        chosen = {layer.name for layer in layers if layer.role != 'head'}
    elif freeze == 'all-but-first-block':
        first = _first_block(layers)
        chosen = {layer.name for layer in layers if layer.name not in first and layer.role != 'head'}
    elif isinstance(freeze, Sequence) and not isinstance(freeze, str) and all(isinstance(p, str) for p in freeze):
        chosen = set()
        for pattern in freeze:
            matches = [layer.name for layer in layers if fnmatchcase(layer.name, pattern)]
            if not matches:
                raise UserError(f'freeze={list(freeze)!r}: {pattern!r} matches no layer; {_suggest(pattern, layers)}')
            chosen.update(matches)
    else:
        raise UserError(
            f'freeze={freeze!r} is none of {", ".join(map(repr, FREEZES))} or a list of layer names and globs.'
        )
    if len(chosen) == len(layers):
        raise UserError(f'freeze={freeze!r} leaves nothing to train; name fewer of the {len(layers)} layers.')
    return [layer for layer in layers if layer.name in chosen]


def _first_block(layers: Sequence[Layer]) -> set[str]:
    """Names of the layers up to the first block.

    The authors' code trains the stem and the first stage of a ResNet. That is the embedding of a convnet. A ViT's
    embedding is one convolution: its first block is the next layer.
    """
    first = {layer.name for layer in layers if layer.role == 'embed'}
    if layers[0].name == 'stem':  # of a convnet, followed by its first stage
        return first
    return first | {layer.name for layer in layers if layer.role == 'position' or layer.block == 0}


def _suggest(pattern: str, layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers]
    close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
    if close:
        return f'did you mean {" or ".join(map(repr, close))}?'
    return f'the layers run from {names[0]!r}, {names[1]!r} to {names[-1]!r}.'


def set_trainable(params: Iterable[nn.Parameter], wanted: bool) -> bool:
    """Let parameters train, or freeze them and drop their gradients. Repeated calls are fine.

    Args:
        params: The parameters.
        wanted: Whether they train.

    Returns:
        bool: Whether any parameter changed.
    """
    changed = False
    for param in params:
        if param.requires_grad != wanted:
            param.requires_grad_(wanted)
            changed = True
            if not wanted:
                setattr(param, _FROZEN, True)
        if wanted:
            vars(param).pop(_FROZEN, None)
        else:
            param.grad = None
    return changed


def frozen_by_us(param: nn.Parameter) -> bool:
    """Whether this module, and not the model itself, has frozen a parameter."""
    return hasattr(param, _FROZEN)


def left_out(model: nn.Module, train: str) -> list[nn.Parameter]:
    """The parameters that ``train`` leaves frozen, whatever their layer.

    Args:
        model: The model, not wrapped.
        train: ``'all'``: none. ``'norms-and-biases'``: all outside the head but biases and the scales of norms, as in
            BitFit (arXiv 2106.10199) and in tuning norms alone (arXiv 2003.00152).

    Raises:
        UserError: ``train`` is something else.
    """
    if train == 'all':
        return []
    if train != 'norms-and-biases':
        raise UserError(f'train={train!r} is none of {", ".join(map(repr, TRAINS))}.')
    kept = set()
    for module in model.modules():
        norm = 'norm' in type(module).__name__.lower()
        for name, param in module.named_parameters(recurse=False):
            if param.ndim <= 1 and (norm or name.endswith('bias')):
                kept.add(id(param))
    inside = [param for layer in list_layers(model) if layer.role != 'head' for param in layer.params.values()]
    return [param for param in inside if id(param) not in kept]


def freeze_layers(model: nn.Module, layers: Iterable[Layer], train: str = 'all') -> None:
    """Freeze exactly these layers and let the others train; may be called again with other layers.

    A parameter that the model itself freezes (``frozen_stages``, a sine-cosine ``pos_embed``) stays frozen; one that an
    earlier call or a schedule of ours (:class:`~ftsgd_plugin.optim.GradualUnfreezingLR`) has frozen trains again.

    Args:
        model: The model, wrapped or not.
        layers: The layers to freeze, out of ``list_layers(model)``.
        train: What trains of the others, see :func:`left_out`. Defaults to ``'all'``.
    """
    model, layers = unwrap(model), list(layers)
    _note_frozen(model)
    own = dict(model.named_parameters())
    set_trainable((own[name] for name in getattr(model, _FROZEN)), True)
    for layer in layers:
        set_trainable(layer.params.values(), False)
    set_trainable(left_out(model, train), False)
    _note_frozen(model)
    _set_eval_mode(model, layers)


def _note_frozen(model: nn.Module) -> None:
    """Note on the model the names of what we have frozen."""
    earlier = getattr(model, _FROZEN, ())
    frozen = [
        name
        for name, param in model.named_parameters()
        if not param.requires_grad and (hasattr(param, _FROZEN) or name in earlier)
    ]
    setattr(model, _FROZEN, tuple(frozen))


def keep_eval_mode(model: nn.Module) -> RemovableHandle:
    """Keep layers in eval mode while none of their parameters trains, and release them when one does.

    A forward pre-hook of the model compares what trains with the last training step, so a scheduler that knows only
    parameters (:class:`~ftsgd_plugin.optim.GradualUnfreezingLR`) may open and close layers. Repeated calls are fine.

    Args:
        model: The model, not wrapped, with a registered layer list.

    Returns:
        RemovableHandle: Its ``remove()`` ends this; what is in eval mode stays so.
    """
    setattr(model, _TRAINED, None)
    return model.register_forward_pre_hook(_update_eval_mode)


def _update_eval_mode(model: nn.Module, args: tuple = ()) -> None:
    if model.training:  # outside the disabled function: torch.export traces a model in eval mode with its hooks
        _follow_trained(model)


@torch._dynamo.disable
def _follow_trained(model: nn.Module) -> None:
    trained = [id(param) for param in _all_parameters(model) if param.requires_grad]
    if trained != getattr(model, _TRAINED):
        layers = list_layers(model)  # listed here: a deep copy of the model (EMA) shares the hook, not the layers
        _set_eval_mode(model, [x for x in layers if not any(param.requires_grad for param in x.params.values())])
        _note_frozen(model)
        setattr(model, _TRAINED, trained)


def _all_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters, shared ones several times: ``model.parameters()`` takes ten times as long, in every step."""
    waiting = [model]
    while waiting:
        module = waiting.pop()
        yield from (param for param in module._parameters.values() if param is not None)
        waiting.extend(child for child in module._modules.values() if child is not None)


def _set_eval_mode(model: nn.Module, layers: Iterable[Layer]) -> None:
    """Put the modules of these layers into eval mode, to stay there, and release all others.

    A held module has its own ``train``, as a backbone with ``frozen_stages`` overrides it in its class. What is held
    is read from the modules, not from handles, because copies of the model (EMA, pickles) carry the override along.
    A released module gets the mode that the model's ``train()`` gives it: MMPretrain's ``norm_eval`` keeps batch norms
    in eval mode there.
    """
    keep_eval = {id(module) for layer in layers for module in layer.modules.values()}
    released = set()
    for module in model.modules():
        held = isinstance(module.__dict__.get('train'), MethodType) and module.train.__func__ is _stay_in_eval_mode
        if id(module) in keep_eval:
            if not held:
                module.train = MethodType(_stay_in_eval_mode, module)
            module.eval()
        elif held:
            del module.train
            released.update(map(id, module.modules()))
    if released:
        others = [(module, module.training) for module in model.modules() if id(module) not in released]
        model.train(model.training)
        for module, mode in others:
            module.training = mode


def _stay_in_eval_mode(self: nn.Module, mode: bool = True) -> nn.Module:
    """``Module.train`` of a frozen module. A bound method, so that ``copy.deepcopy`` (EMA) rebinds it to the copy."""
    type(self).train(self, False)
    return self  # MMPretrain's backbones return None


# Pickling a bound method stores its name: a module saved whole must load with the ``train`` of its class.
_stay_in_eval_mode.__name__ = 'train'
