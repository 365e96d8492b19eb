"""Layer lists for open_clip's vision towers that are not listed by hand."""

from collections.abc import Iterator

from torch import nn

from .entry import Entry
from .generic import layer_list_of, register_generic
from .structure import find_blocks, list_around_blocks


def _size(tower: nn.Module) -> tuple[int, int, int]:
    size = getattr(tower, 'image_size', 224)
    return (3, *(size if isinstance(size, (tuple, list)) else (size, size)))


@register_generic('open_clip.transformer', network=lambda module: hasattr(module, 'conv1'), shape=_size)
def _vision_transformer(tower: nn.Module) -> Iterator[Entry]:
    """open_clip's ``VisionTransformer``, for variants that the list written by hand leaves out."""
    blocks = [f'transformer.resblocks.{name}' for name, _ in tower.transformer.resblocks.named_children()]
    yield from list_around_blocks(tower, blocks, shape=_size(tower))


@register_generic('open_clip.timm_model', network=lambda module: hasattr(module, 'trunk'), shape=_size)
def _timm_model(tower: nn.Module) -> Iterator[Entry]:
    """A network of timm and what open_clip puts behind it: pooling and projection, which are pretrained, no head."""
    for entry in layer_list_of(tower.trunk)(tower.trunk):
        role = 'projection' if entry.role == 'head' else entry.role
        name = 'trunk_head' if entry.role == 'head' else entry.name
        members, earlier = ([f'trunk.{path}' for path in paths] for paths in (entry.members, entry.earlier))
        group = entry.group if name == entry.name else name
        yield Entry(name, role, *members, block=entry.block, group=group, earlier=earlier)
    yield Entry('projection', 'projection', 'head')


@register_generic('open_clip.modified_resnet', network=lambda module: hasattr(module, 'attnpool'), shape=_size)
def _modified_resnet(tower: nn.Module) -> Iterator[Entry]:
    """CLIP's ResNet: three convolutions as stem, four stages, attention pooling."""
    blocks = find_blocks(tower, [name for name, _ in tower.named_children() if name.startswith('layer')])
    yield from list_around_blocks(tower, blocks, shape=_size(tower))
