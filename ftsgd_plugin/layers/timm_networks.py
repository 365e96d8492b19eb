"""Layer lists for timm's networks, from what timm says: ``group_matcher``, ``get_classifier``, ``pretrained_cfg``."""

import re
from collections.abc import Iterator

from torch import nn

from .entry import Entry
from .generic import register_generic
from .structure import find_blocks, list_around_blocks, resolutions, weights
from .trace import MIN_BLOCKS

# What timm counts to the head of these networks although it has most of their parameters, and runs as blocks do.
_CLOSING_BLOCKS = {'HighResolutionNet': 'incre_modules', 'SelecSls': 'head', 'VGG': 'pre_logits'}


def image_shape(net: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images that a timm network was built for."""
    size = getattr(getattr(net, 'patch_embed', None), 'img_size', None) or getattr(net, 'img_size', None)
    cfg = getattr(net, 'pretrained_cfg', None) or {}
    channels, *native = cfg.get('input_size') or (3, 224, 224)
    return (getattr(net, 'in_chans', channels) or channels, *(size if isinstance(size, tuple) else native))


def is_network(module: nn.Module) -> bool:
    """Whether a module of timm is a whole network and not a part of one."""
    return hasattr(module, 'forward_features') and (
        hasattr(module, 'get_classifier') or hasattr(module, 'group_matcher')
    )


@register_generic('timm.models', network=is_network, shape=image_shape)
def _timm(net: nn.Module) -> Iterator[Entry]:
    blocks = _matched(net) or find_blocks(net, _trunk(net))
    for cls in type(net).__mro__:
        if closing := _CLOSING_BLOCKS.get(cls.__name__):
            children = net.get_submodule(closing).named_children()
            blocks = [*blocks, *(f'{closing}.{name}' for name, child in children if weights(child))]
    yield from list_around_blocks(net, [*_hybrid(net), *blocks], classifier_paths(net), image_shape(net))


def _hybrid(net: nn.Module) -> list[str | tuple[str, ...]]:
    """The blocks of the convnet that a hybrid has as patch embedding, and the projection of its features to tokens."""
    convnet = getattr(getattr(net, 'patch_embed', None), 'backbone', None)
    if not isinstance(convnet, nn.Module) or not any(True for _ in convnet.parameters()):
        return []
    path = 'patch_embed.backbone'
    children = () if isinstance(convnet, nn.Sequential) else convnet.named_children()  # a few convolutions are a stem
    parts = [name for name, child in children if any(True for _ in child.parameters())]
    stages = [name for name in parts if re.match('stages|layer', name)]
    rest = [f'{path}.{name}' for name in parts if name not in stages and name not in ('stem', 'conv1', 'bn1')]
    if any(True for _ in net.patch_embed.proj.parameters()):
        rest.append('patch_embed.proj')
    return [*find_blocks(net, [f'{path}.{name}' for name in stages]), *([tuple(rest)] if rest else [])]


def classifier_paths(net: nn.Module) -> list[str]:
    """Attribute paths of timm's classifier, of those with parameters: its own answer and hidden layers beside it."""
    try:
        found = net.get_classifier()
    except AttributeError:  # an encoder; num_classes=0 leaves an Identity, which has no parts
        found = ()
    wanted = {id(part) for part in (found if isinstance(found, (tuple, list)) else [found])}
    paths = [name for name, part in net.named_modules() if id(part) in wanted or name == 'head.pre_logits']
    return [path for path in paths if any(True for _ in net.get_submodule(path).parameters())]


def _trunk(net: nn.Module) -> list[str]:
    heads = {path.partition('.')[0] for path in classifier_paths(net)}
    return [
        name for name, child in net.named_children()
        if name not in heads and not re.search('stem|patch_embed', name) and weights(child) > 1
    ]  # fmt: skip


def _matched(net: nn.Module) -> list[str]:
    """The paths that ``group_matcher`` numbers."""
    if not hasattr(net, 'group_matcher'):
        return []
    found = _numbered(net, net.group_matcher(coarse=False))
    try:
        stages = found == _numbered(net, net.group_matcher(coarse=True))
    except AssertionError:  # RDNet's has no coarse groups
        stages = True
    if stages and (len(found) < MIN_BLOCKS or len(set(resolutions(net, found, image_shape(net)))) > 1):
        return find_blocks(net, found)  # a matcher that numbers stages only
    return found


def _numbered(net: nn.Module, matcher: object) -> list[str]:
    if not isinstance(matcher, dict):
        return []
    rules = []
    for rule in matcher.values():
        for pattern, suffix in rule if isinstance(rule, (list, tuple)) else [(rule, None)]:
            if pattern:
                rules.append((re.compile(pattern), suffix))
    found: dict[str, None] = {}
    for name, _ in net.named_parameters():
        match, suffix = next(((m, suffix) for rule, suffix in rules if (m := rule.match(name))), (None, None))
        if match and suffix is None and any(match.groups()):
            found[match.group(0)] = None
    return list(found)
