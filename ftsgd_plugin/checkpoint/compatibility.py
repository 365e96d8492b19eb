"""Compare a checkpoint with a model or a run: MMEngine leaves what does not fit random, here it is an error."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from logging import WARNING

import torch
from mmengine.logging import print_log
from torch import nn

from ..layers import in_backbone, in_head, list_layers, without_adapters
from ..utils.errors import UserError
from ..utils.names import type_name
from .io import read_content, weights_of


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
    model nor the state dict changes. A model whose parameters are divided over ranks cannot be copied for this: names
    and shapes must be its own.

    Args:
        model: Any module, not wrapped.
        state_dict: Tensors by name.

    Returns:
        list[Misfit]: Empty if the state dict fits.
    """
    own = {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    tensors = {name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
    misshapen = []
    if any(hasattr(param, 'placements') for param in model.parameters()):  # DTensor
        found = [Misfit(name, None, own.get(name)) for name in model.state_dict() if name not in state_dict]
        found += [Misfit(name, tuple(tensors[name].shape), None) for name in tensors if name not in own]
        both = [(name, tuple(tensors[name].shape)) for name in own if name in tensors]
        return found + [Misfit(name, shape, own[name]) for name, shape in both if not _is_loadable(shape, own[name])]

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
    # What get_extra_state returns need not be a tensor: then it only has to exist. What the model's own load hook took
    # out of the file (the position index of a resized Swin) is made by the model.
    missing = [name for name in missing if name not in tensors]
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


def pretrained_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, str]]:
    """Find the modules that ``init_cfg=dict(type='Pretrained', ...)`` fills.

    Yields:
        tuple: Name and module, the file's path, and the prefix of the module's tensors in the file (may be empty).
    """
    for name, module in model.named_modules():
        cfgs = getattr(module, 'init_cfg', None) or []
        for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
            if type_name(cfg) in ('Pretrained', 'PretrainedInit'):  # registered name, name of the class
                yield name, module, cfg['checkpoint'], cfg.get('prefix') or ''


def check_pretrained(
    model: nn.Module, new_parameters: Sequence[str] = (), classes: Sequence[str] | None = None
) -> None:
    """Find what ``init_cfg=dict(type='Pretrained', ...)`` would leave at random values.

    MMEngine loads what fits and logs the rest. Here every tensor of the module must be filled, except what
    :func:`accept_new` lets start again. The checkpoint may hold more, such as a head or a decoder, but not more of what
    the module has (the 7th block of a 6-block model). On a classifier the head may differ.

    Args:
        model: The model, before ``init_weights``.
        new_parameters: As in :func:`accept_new`.
        classes: Names of the classes to train, for :func:`warn_of_other_classes`.

    Raises:
        UserError: The file cannot be read or does not fit.
    """
    with without_adapters(model):
        for name, module, path, prefix in pretrained_parts(model):
            key = f'{name}.init_cfg' if name else 'model.init_cfg'
            content = read_content(path)
            found = accept_new(model, _unfilled(module, weights_of(content), prefix), path, new_parameters, name)
            if found:
                raise UserError(
                    f'{key}: {path} does not fit {type(module).__name__}: {summarise(found)}; correct the arguments '
                    f'of the model, the checkpoint or its prefix{_hint(found)}.'
                )
            if module is model:
                warn_of_other_classes(path, content, classes)


def accept_new(
    model: nn.Module, found: Sequence[Misfit], path: str, new_parameters: Sequence[str] = (), inside: str = ''
) -> list[Misfit]:
    """Take out what a file need not have: a norm after the last block, and parameters that may start again by name.

    Fine-tuning of self-supervised weights adds such parts. A norm gets a warning. Integer buffers, such as the indices
    of a position table, are made by the model.

    Args:
        model: The classifier.
        found: Misfits of one of its modules.
        path: The file, for the messages.
        new_parameters: Names of parameters or modules of the classifier, or globs.
        inside: Name of the module.

    Returns:
        list[Misfit]: The misfits that remain.

    Raises:
        UserError: A name of ``new_parameters`` matches no parameter of the model.
    """
    if isinstance(new_parameters, str):
        new_parameters = [new_parameters]
    names = [name for name, _ in model.named_parameters()]
    for pattern in new_parameters:
        if not any(_matches(name, pattern) for name in names):
            raise UserError(f'new_parameters: {pattern!r} matches no parameter of the model, such as {names[0]!r}.')
    norms = _final_norms(model)
    made = {name for name, buffer in model.named_buffers() if not buffer.is_floating_point()}  # e.g. position indices
    new, norm, remaining = [], [], []
    for misfit in found:
        name = f'{inside}.{misfit.name}' if inside else misfit.name
        if misfit.found is None and any(_matches(name, pattern) for pattern in new_parameters):
            new.append(name)
        elif misfit.found is None and name in norms:
            norm.append(misfit)
        elif misfit.found is not None or name not in made:
            remaining.append(misfit)
    replaced = [misfit for misfit in remaining if any(_takes_the_place_of(new_norm, misfit) for new_norm in norm)]
    if len(remaining) > len(replaced):
        return [misfit for misfit in found if misfit in norm or misfit in remaining]
    if norm:
        names = ', '.join(f'{inside}.{misfit.name}' if inside else misfit.name for misfit in norm)
        print_log(f'{path}: has no {names}: this norm after the last block starts at one and zero.', 'current', WARNING)
    if new:
        print_log(f'{path}: has no {", ".join(new)}, which may start again (new_parameters).', 'current')
    return []


def _takes_the_place_of(norm: Misfit, other: Misfit) -> bool:
    """Whether a missing norm's tensor replaces one of the file that the model does not have (``ln2`` for ``ln1``)."""
    ours, theirs = norm.name.split('.'), other.name.split('.')
    same_place = ours[:-2] == theirs[:-2] and ours[-1] == theirs[-1]
    return other.expected is None and other.found == norm.expected and same_place


def _hint(found: Sequence[Misfit]) -> str:
    """How to let parameters start again, if nothing else is wrong."""
    if len(found) > 8 or any(misfit.found is not None for misfit in found):
        return ''
    return "; or list what may start again in the config's new_parameters, e.g. new_parameters=['backbone.NAME']"


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f'{pattern}.')


def _final_norms(model: nn.Module) -> set[str]:
    try:
        return {name for layer in list_layers(model) if layer.role == 'norm' for name in layer.params}
    except UserError:  # a model without a layer list
        return set()


def warn_of_other_classes(path: str, checkpoint: dict, classes: Sequence[str] | None) -> None:
    """Warn if a checkpoint brings a head for other classes of the same number, which loads without a word.

    Args:
        path: The file, for the message.
        checkpoint: Its content; MMEngine stores the classes in ``meta``.
        classes: Names of the classes of this run's data; ``None`` if they have none.
    """
    meta = checkpoint.get('meta') or {}
    saved = (meta.get('dataset_meta') or {}).get('classes') or meta.get('CLASSES')
    if not saved or not classes or list(saved) == list(classes) or len(saved) != len(classes):
        return
    if not any(in_head(name) for name in weights_of(checkpoint)):
        return
    start = next(i for i, (one, other) in enumerate(zip(saved, classes)) if one != other)
    print_log(
        f'{path}: its head was trained for {_shortened(saved, start)}, and is used here for '
        f'{_shortened(classes, start)}; check the checkpoint and the classes of the data.',
        'current',
        WARNING,
    )


def _shortened(classes: Sequence[str], start: int) -> str:
    shown = ', '.join(map(str, classes[start : start + 4]))
    return f'{"..., " if start else ""}{shown}{", ..." if start + 4 < len(classes) else ""} ({len(classes)} classes)'


def _unfilled(module: nn.Module, weights: dict, prefix: str) -> list[Misfit]:
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
