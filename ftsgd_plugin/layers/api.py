"""The layer list of a classifier: what a layer is, the register of architectures, and ``list_layers``."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from ..utils.errors import UserError
from ..utils.norms import stacked_norms
from .entry import Entry
from .generic import layer_list_of, no_list
from .names import unwrap
from .register import LayerList, path_of


@dataclass(frozen=True)
class Layer:
    """One layer of a classifier.

    Attributes:
        name: Unique name, e.g. ``'patch_embed'`` or ``'blocks.0.attn'``.
        role: ``'embed'`` (patch convolution and ``ln_pre``; stem and first stage of a convnet), ``'position'``
            (positional embedding, class token), ``'block'``, ``'norm'`` (the final one), ``'projection'``, ``'head'``.
        block: Index of the block from the input, or ``None`` outside blocks.
        group: The authors' coarser name, for figures, e.g. ``'trans0_attn'`` or ``'stage1'``.
        params: Full parameter name -> parameter, in the model's order. Never empty.
        modules: Full module name -> module, for the modules all of whose parameters are in this layer.
        earlier: Names of the parameters that layer-wise learning-rate decay counts with the block before.
    """

    name: str
    role: str
    block: int | None
    group: str
    params: dict[str, nn.Parameter] = field(repr=False)
    modules: dict[str, nn.Module] = field(repr=False)
    earlier: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def num_params(self) -> int:
        """Number of scalars in the layer."""
        return sum(param.numel() for param in self.params.values())

    @property
    def num_bytes(self) -> int:
        """Size of the layer's parameters in bytes."""
        return sum(param.numel() * param.element_size() for param in self.params.values())


_KEPT = '_ftsgd_layers'  # on a model: its layer list, see keep_layer_list
# Networks of which everything outside the backbone is the head, whatever its size.
_CLASSIFIERS = {'mmpretrain.models.classifiers.base.BaseClassifier'}


def list_layers(model: nn.Module) -> list[Layer]:
    """List the layers of a classifier from input to output.

    The model may be wrapped (``DistributedDataParallel``), and its backbone may be at any depth
    (``ImageClassifier.backbone``, or the model itself as in timm). Works on the meta device. A shared parameter belongs
    to the layer that names it first.

    Args:
        model: A classifier whose backbone class is registered.

    Returns:
        list[Layer]: The layers. Every parameter of ``model`` is in exactly one of them.

    Raises:
        UserError: The model contains no registered backbone, the list leaves out a parameter, or the backbone is a
            part of a network that is not known, so that what is around it need not be a head.
    """
    model = unwrap(model)
    if (kept := getattr(model, _KEPT, None)) is not None:
        own = dict(model.named_parameters())
        return [replace(layer, params={name: own[name] for name in layer.params}) for layer in kept]
    prefix, backbone, entries = _find_backbone(model)
    _check_surroundings(model, prefix, backbone)
    names = {id(param): name for name, param in model.named_parameters()}
    layers = [_resolve(entry, prefix, backbone, names) for entry in entries(backbone)]

    inside = f'{prefix}.' if prefix else ''
    forgotten = [name for name in names.values() if name.startswith(inside)]
    if forgotten:
        raise UserError(
            f'the layer list of {type(backbone).__name__} leaves out {", ".join(forgotten[:3])}'
            f'{" and more" if len(forgotten) > 3 else ""}; add an Entry for it (ftsgd_plugin/layers/ shows how).'
        )
    return _with_outer_head([layer for layer in layers if layer.params], model, prefix, names)


def keep_layer_list(model: nn.Module) -> None:
    """Let :func:`list_layers` return the present list of a model for ever, with the parameters of that time.

    For a model whose modules stay and whose parameters are replaced by others of the same names (sharding): some lists
    come from a copy of the network, which cannot be made then.
    """
    model = unwrap(model)
    setattr(model, _KEPT, [replace(layer, params=dict.fromkeys(layer.params)) for layer in list_layers(model)])


def _find_backbone(model: nn.Module) -> tuple[str, nn.Module, LayerList]:
    """Find the outermost module with a layer list; return its name, the module and the list."""
    for name, module in model.named_modules():
        entries = layer_list_of(module)
        if entries is not None:
            return name, module, entries
    inside = getattr(model, 'backbone', model)
    raise no_list(getattr(inside, 'net', inside), 'its library is not known here')


def _check_surroundings(model: nn.Module, prefix: str, backbone: nn.Module) -> None:
    """Refuse a backbone that is a part of an unknown network: a tower before other blocks, one of two towers."""
    own = {id(param) for param in backbone.parameters()}
    size = sum(param.numel() for param in backbone.parameters())
    path, outer = '', model
    for attribute in prefix.split('.') if prefix else ():
        outside = [(name, param) for name, param in outer.named_parameters() if id(param) not in own]
        if outside and not any(path_of(cls) in _CLASSIFIERS for cls in type(outer).__mro__):
            first = next(name for name, _ in outer.named_parameters())
            share = sum(param.numel() for _, param in outside)
            if share > size or first == outside[0][0]:
                reason = 'comes before it' if first == outside[0][0] else f'has {share / (share + size):.0%} of it'
                network = type(outer).__name__
                raise UserError(
                    f'{type(backbone).__name__} has a layer list, but is only a part of {network}: what is around it '
                    f'({outside[0][0]}, ...) {reason} and is not taken for a head; register a layer list for {network} '
                    '(ftsgd_plugin/layers/ shows how), or use an ImageClassifier.'
                )
        path = f'{path}.{attribute}' if path else attribute
        outer = model.get_submodule(path)


def _resolve(entry: Entry, prefix: str, backbone: nn.Module, names: dict[int, str]) -> Layer:
    """Turn an entry into a layer and remove its parameters from ``names`` (id -> full name)."""
    params, modules, earlier = {}, {}, set()
    for path in entry.members:
        member = backbone
        for attribute in path.split('.'):
            member = getattr(member, attribute, None)
        if isinstance(member, nn.Module):
            modules[f'{prefix}.{path}' if prefix else path] = member
            parts = member.parameters()
        else:
            parts = [member] if isinstance(member, nn.Parameter) else []
        found = {names.pop(id(param)): param for param in parts if id(param) in names}
        params.update(found)
        earlier.update(found if path in entry.earlier else ())
    return Layer(entry.name, entry.role, entry.block, entry.group, params, modules, frozenset(earlier))


def _with_outer_head(layers: list[Layer], model: nn.Module, prefix: str, names: dict[int, str]) -> list[Layer]:
    """Append everything outside the backbone as the layer ``head``, merged with the head of the backbone."""
    params = {name: param for name, param in model.named_parameters() if id(param) in names}
    if not params:
        return layers
    modules = {
        name: child
        for name, child in model.named_children()
        if name != prefix.split('.')[0] and any(True for _ in child.parameters())
    }
    if layers and layers[-1].role == 'head':
        inner = layers.pop()
        params, modules = {**inner.params, **params}, {**inner.modules, **modules}
    return [*layers, Layer('head', 'head', None, 'head', params, modules)]


def layer_depths(layers: Sequence[Layer]) -> dict[str, int]:
    """The depth of every parameter, for layer-wise learning-rate decay.

    Embedding and position are at depth 0, block i at i + 1, and final norm, projection and head after the last block,
    as MMPretrain's ``LearningRateDecayOptimWrapperConstructor`` and the fine-tuning code of BEiT and MAE have it.

    Args:
        layers: Output of :func:`ftsgd_plugin.layers.list_layers`.

    Returns:
        dict: Full parameter name -> depth.
    """
    blocks = 1 + max((layer.block for layer in layers if layer.block is not None), default=-1)
    outside = {'embed': 0, 'position': 0, 'norm': blocks + 1, 'projection': blocks + 1, 'head': blocks + 1}
    return {
        name: outside[layer.role] if layer.block is None else layer.block + (name not in layer.earlier)
        for layer in layers
        for name in layer.params
    }


def weight_norms(layers: Sequence[Layer]) -> torch.Tensor:
    """Return the L2 norms of the weights of all layers (L,), on the device."""
    return stacked_norms([list(layer.params.values()) for layer in layers])


def paper_parts(layers: Sequence[Layer]) -> dict[str, str]:
    """Map each group of layers to its part of the paper's gradient figure (section 3; the authors' notebooks).

    Their figure has one point for the embedding layer (patch convolution and ``ln_pre``; stem and first stage), one for
    the head (BiT's with the norm before it), and the layers between. It leaves out positional embedding, class token
    and the first norm of a ViT, and CLIP's projection.

    Args:
        layers: Output of :func:`ftsgd_plugin.layers.list_layers`.

    Returns:
        dict: Group name -> ``'embed'``, ``'middle'``, ``'head'``, or ``''`` if the figure leaves it out; from input to
        output.
    """
    roles = {layer.group: layer.role for layer in layers}  # of a group's last layer: BiT's head includes the final norm
    names = {'embed': 'embed', 'block': 'middle', 'norm': 'middle', 'head': 'head'}
    parts = {group: names.get(role, '') for group, role in roles.items()}
    if 'position' in roles.values():
        after = list(roles)[list(roles.values()).index('position') :]  # a hybrid has blocks before the position, too
        first = next((group for group in after if roles[group] == 'block'), None)
        blocks = {layer.group: layer.block for layer in layers}
        if list(blocks.values()).count(blocks.get(first)) > 1:  # its first norm; a verified list has the block in one
            parts[first] = ''
    return parts
