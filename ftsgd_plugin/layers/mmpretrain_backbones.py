"""Layer lists for MMPretrain's backbones, by the names that its backbones use for their stages and blocks."""

import re
import sys
from collections.abc import Iterator

from torch import nn

from .containers import Unit, blocks_of, leads_on, linear_layers, members
from .entry import Entry
from .generic import register_generic
from .structure import list_around_blocks

# Attributes that hold stages, or their names (ResNet, RepVGG, MobileNet), and attributes that hold blocks.
_STAGES = ('res_layers', 'stages', 'layers', 'network', 'features')
_BLOCKS = ('blocks', 'encoder', 'xca_layers', 'ca_layers')
# Stages or blocks that are children of the backbone itself: VAN, HRNet, Conformer, Inception.
_CHILDREN = re.compile(r'(layer|stage|blocks)_?\d+|trans_1|conv_trans_\d+|Mixed_\w+')
_PACKAGE = 'mmpretrain.models.backbones'


def _is_backbone(module: nn.Module) -> bool:
    """Whether a module is a backbone and not a part of one, by MMPretrain's own list; timm's network has its own."""
    listed = set(getattr(sys.modules.get(_PACKAGE), '__all__', ())) - {'TIMMBackbone'}
    return any(cls.__name__ in listed and cls.__module__.startswith(_PACKAGE) for cls in type(module).__mro__)


def _shape(net: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images that a backbone was built for."""
    patches = getattr(net, 'patch_embed', None)
    native = 32 if type(net).__name__ == 'LeNet5' else 224
    size = getattr(net, 'img_size', None) or getattr(patches, 'init_input_size', None) or native
    height, width = (size, size) if isinstance(size, int) else size
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels, height, width


@register_generic(_PACKAGE, network=_is_backbone, shape=_shape)
def _mmpretrain(net: nn.Module) -> Iterator[Entry]:
    """A backbone of MMPretrain."""
    if type(net).__name__ == 'Conformer':
        yield from _conformer(net)
        return
    hidden, head = linear_layers(net, 'classifier')
    yield from list_around_blocks(net, [*_blocks(net), *hidden], head=[*head, 'fc', 'AuxLogits'], shape=_shape(net))


def _blocks(net: nn.Module) -> list[Unit]:
    for attribute in _STAGES:
        if stages := members(net, attribute):
            return blocks_of(net, stages)
    if blocks := [path for attribute in _BLOCKS for path in members(net, attribute)]:
        return [(path,) for path in blocks if not leads_on(net.get_submodule(path))]
    return blocks_of(net, [name for name, _ in net.named_children() if _CHILDREN.fullmatch(name)])


def _conformer(net: nn.Module) -> Iterator[Entry]:
    """Two branches, of which the stem and what leads into them is the embedding; block 0 has one branch alone."""
    yield Entry('stem', 'embed', 'conv1', 'bn1', 'conv_1', 'trans_patch_conv')
    yield Entry('cls_token', 'position', 'cls_token')
    for i, name in enumerate(name for name, _ in net.named_children() if re.fullmatch(r'(conv_)?trans_\d+', name)):
        yield Entry(name, 'block', name, block=i)
    yield Entry('post_norm', 'norm', 'trans_norm')
