"""Layer lists for timm's networks, from what timm says: ``group_matcher``, ``get_classifier``, ``pretrained_cfg``."""

import re
from collections.abc import Iterator

from torch import nn

from .entry import Entry
from .generic import register_generic
from .structure import find_blocks, list_around_blocks, weights


def image_shape(net: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images that a timm network was built for."""
    size = getattr(getattr(net, 'patch_embed', None), 'img_size', None) or getattr(net, 'img_size', None)
    cfg = getattr(net, 'pretrained_cfg', None) or {}
    channels, *native = cfg.get('input_size') or (3, 224, 224)
    return (getattr(net, 'in_chans', channels) or channels, *(size if isinstance(size, tuple) else native))


def is_network(module: nn.Module) -> bool:
    """Whether a module of timm is a whole network and not a part of one."""
    return hasattr(module, 'get_classifier') and hasattr(module, 'forward_features')


@register_generic('timm.models', network=is_network, shape=image_shape)
def _timm(net: nn.Module) -> Iterator[Entry]:
    blocks = _matched(net) or find_blocks(net, _trunk(net))
    if hasattr(net, 'incre_modules'):  # HRNet's, which its matcher leaves to the head: half of the network
        blocks = [*blocks, *find_blocks(net, ['incre_modules'])]
    yield from list_around_blocks(net, blocks, classifier_paths(net), image_shape(net))


def classifier_paths(net: nn.Module) -> list[str]:
    """Attribute paths of the modules that timm's ``get_classifier`` returns, of those with parameters."""
    try:
        found = net.get_classifier()
    except AttributeError:  # num_classes=0 leaves an Identity, which has no parts
        return []
    wanted = {id(part) for part in (found if isinstance(found, (tuple, list)) else [found])}
    return [name for name, part in net.named_modules() if id(part) in wanted and any(True for _ in part.parameters())]


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
    return find_blocks(net, found) if stages and len(found) < 8 else found  # some matchers number stages only


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
