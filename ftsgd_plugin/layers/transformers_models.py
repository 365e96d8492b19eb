"""Layer lists for the vision models of Hugging Face ``transformers``, by the names of their lists of layers."""

import re
from collections.abc import Iterator

from torch import nn

from .containers import Unit, blocks_of, members
from .entry import Entry
from .generic import register_generic
from .register import register_layer_list
from .structure import list_around_blocks

_SIGLIP2 = ('VisionModel', 'ForImageClassification')
_NETWORK = re.compile(r'(Model|ModelWithProjection|ForImageClassification(WithTeacher)?|Backbone)$')
_CONTAINER = re.compile(r'layers?|stages|blocks?|network')
_HEAD = re.compile(r'(.+_)?classifier(_distill)?|fc|(dist_)?head')  # of a model for classification


def _is_network(module: nn.Module) -> bool:
    """Whether a module is a model that takes images, as it says itself, and returns features or classes."""
    name = type(module).__name__
    takes_images = getattr(module, 'main_input_name', None) == 'pixel_values'
    return takes_images and bool(_NETWORK.search(name)) and not name.startswith('Timm')  # whose network is timm's


def _shape(net: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model takes, from its config."""
    config = getattr(net.config, 'vision_config', None) or net.config
    size = getattr(config, 'image_size', None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    return getattr(config, 'num_channels', 3), height, width


@register_generic('transformers.models', network=_is_network, shape=_shape)
def _transformers(net: nn.Module) -> Iterator[Entry]:
    """A vision model of transformers, with or without a classifier."""
    yield from list_around_blocks(net, _blocks(net), classifiers(net), shape=_shape(net))


def classifiers(net: nn.Module) -> list[str]:
    """Names of the children that classify, of a model for classification."""
    children = [name for name, _ in net.named_children()] if 'Classification' in type(net).__name__ else []
    return [name for name in children if _HEAD.fullmatch(name)]


@register_layer_list(*(f'transformers.models.siglip2.modeling_siglip2.Siglip2{kind}' for kind in _SIGLIP2))
def _siglip2(net: nn.Module) -> Iterator[Entry]:
    """SigLIP 2 for images of any shape, by hand: it takes patches, masks and shapes, not images, and is not traced."""
    prefix = 'vision_model.' if hasattr(net, 'vision_model') else ''
    yield Entry('patch_embed', 'embed', f'{prefix}embeddings.patch_embedding')
    yield Entry('pos_embed', 'position', f'{prefix}embeddings.position_embedding')
    for i, path in enumerate(members(net, f'{prefix}encoder.layers')):
        yield Entry(path, 'block', path, block=i)
    yield Entry('post_norm', 'norm', f'{prefix}post_layernorm')
    yield Entry('proj', 'projection', f'{prefix}head')
    yield Entry('head', 'head', 'classifier')


def _blocks(net: nn.Module) -> list[Unit]:
    """The blocks in the outermost list of layers or stages."""
    for path in sorted((path for path, _ in net.named_modules()), key=lambda path: path.count('.')):
        module = net.get_submodule(path)
        if isinstance(module, nn.ModuleList) and len(module) > 1 and _CONTAINER.fullmatch(path.rpartition('.')[2]):
            return blocks_of(net, members(net, path))
    return []
