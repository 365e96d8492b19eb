"""Finding the blocks of a network in its containers, by the conventions that vision libraries share."""

import re
from collections.abc import Iterable

from torch import nn

Unit = tuple[str, ...]  # attribute paths of the parts of one block
_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_WEIGHTED = (nn.Conv2d, nn.Linear)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_ONE_CONVOLUTION = {'Conv2d', 'ConvModule', 'BasicConv2d'}  # and sequences: convolution, norm and activation
_BETWEEN = re.compile(r'Merg|Embed|Down|Transition')  # classes that lead from one stage to the next


def members(net: nn.Module, attribute: str) -> list[str]:
    """Attribute paths of what a container holds, in its order; a list of names of the network's children counts as one.

    Members without parameters are left out; if there is no such container, nothing is returned.
    """
    container = net
    for part in attribute.split('.'):
        container = getattr(container, part, None)
    if isinstance(container, nn.Module):
        paths = [f'{attribute}.{name}' for name, _ in container.named_children()]
    else:
        named = container if isinstance(container, list) else []
        paths = [name for name in named if isinstance(getattr(net, str(name), None), nn.Module)]
    return [path for path in paths if any(True for _ in net.get_submodule(path).parameters())]


def blocks_of(net: nn.Module, stages: Iterable[str]) -> list[Unit]:
    """The blocks of a network's stages; other members of a container are blocks themselves.

    Norms, single convolutions and what leads from one stage to the next do not count. In a network of single
    convolutions each is a block with the norm after it, except the first, which is the stem.

    Args:
        net: The network.
        stages: Attribute paths of the stages or blocks, in order.
    """
    paths = [path for stage in stages for path in _open(net, stage)]
    kinds = {path: net.get_submodule(path) for path in paths}
    blocks = [(path,) for path, module in kinds.items() if not _is_simple(module) and not leads_on(module)]
    if blocks:
        return blocks
    units: list[Unit] = []
    for path, module in kinds.items():
        units = [*units[:-1], (*units[-1], path)] if units and isinstance(module, _NORMS) else [*units, (path,)]
    return units[1:]


def _open(net: nn.Module, path: str) -> list[str]:
    """The members of a stage; anything else is returned as it is: a block, or a sequence of bare layers."""
    module = net.get_submodule(path)
    if isinstance(getattr(module, 'blocks', None), _LISTS):
        return members(net, f'{path}.blocks')
    if isinstance(getattr(module, 'layers', None), nn.Sequential):
        return members(net, f'{path}.layers')
    for name in ('block', 'layers', 'layer', 'stage'):
        if isinstance(getattr(module, name, None), nn.ModuleList):
            return members(net, f'{path}.{name}')
    if isinstance(module, _LISTS) and not any(isinstance(child, (*_WEIGHTED, *_NORMS)) for child in module.children()):
        return members(net, path)
    return [path]


def _is_simple(module: nn.Module) -> bool:
    """Whether a module is a norm, or one convolution with norm and activation."""
    if isinstance(module, _NORMS):
        return True
    if type(module).__name__ not in _ONE_CONVOLUTION and not isinstance(module, nn.Sequential):
        return False
    return sum(isinstance(part, _WEIGHTED) for part in module.modules()) == 1


def leads_on(module: nn.Module) -> bool:
    """Whether a module leads from one stage to the next, by the name of its class."""
    return bool(_BETWEEN.search(type(module).__name__))


def linear_layers(net: nn.Module, path: str) -> tuple[list[Unit], list[str]]:
    """The linear layers of a classifier: the hidden ones, if there are several, which count as blocks; the last one.

    A backbone without its last layer has an ``Identity`` there.
    """
    head = getattr(net, path, None)
    parts = list(head.named_modules(prefix=path)) if isinstance(head, nn.Module) else []
    removed = parts[-1][0] if parts and isinstance(parts[-1][1], nn.Identity) else None
    linear = [name for name, part in parts if isinstance(part, nn.Linear) or name == removed]
    hidden = linear[:-1] if len(linear) > 2 else []
    return [(name,) for name in hidden], linear[-1:]
