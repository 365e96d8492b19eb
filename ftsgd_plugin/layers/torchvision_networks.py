"""Layer lists for torchvision's classification networks."""

import re
from collections.abc import Iterator

from torch import nn

from .containers import blocks_of, linear_layers, members
from .entry import Entry
from .generic import register_generic
from .structure import list_around_blocks

# Attributes that hold stages or blocks: MobileNet, ConvNeXt, Swin, VGG and others; MNASNet; RegNet; MaxViT; ViT.
_CONTAINERS = ('features', 'layers', 'trunk_output', 'blocks', 'encoder.layers')
# Stages or blocks that are children of the network itself: ResNet, ShuffleNet; GoogLeNet, Inception.
_CHILDREN = re.compile(r'(layer|stage)\d|inception\d[a-z]|Mixed_\w+')
_AUXILIARY = ('aux1', 'aux2', 'AuxLogits')  # classifiers beside the last one, for training alone


def _is_network(module: nn.Module) -> bool:
    return any(hasattr(module, name) for name in ('classifier', 'fc', 'head', 'heads'))


def _shape(net: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images that a network takes."""
    size = getattr(net, 'image_size', None) or getattr(net, 'input_size', None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    return 3, height, width


@register_generic('torchvision.models', network=_is_network, shape=_shape)
def _torchvision(net: nn.Module) -> Iterator[Entry]:
    """A classification network of torchvision. The hidden linear layers of a classifier (AlexNet, VGG) are blocks."""
    hidden, head = linear_layers(net, 'classifier')
    if not head and hasattr(net, 'classifier'):
        head = ['classifier']  # SqueezeNet's convolution
    paths = next((found for name in _CONTAINERS if (found := members(net, name))), None)
    paths = paths or [name for name, _ in net.named_children() if _CHILDREN.fullmatch(name)]
    blocks = [*blocks_of(net, paths), *hidden]
    yield from list_around_blocks(net, blocks, [*head, 'fc', 'head', 'heads', *_AUXILIARY], shape=_shape(net))
