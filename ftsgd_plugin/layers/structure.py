"""From the blocks of a network to its whole layer list: where everything else belongs, by the traced order."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, takewhile

from torch import nn

from ..utils.errors import UserError
from .entry import Entry
from .trace import Trace, trace

# Parts of names by which vision libraries call what has a place and no weights of a layer.
_POSITION = re.compile(r'(^|[._])(pos|position|positional|rope|(cls|class|reg|dist|mask)_?(embed|token)|cr?pe\d*\.)')
_TOKEN = re.compile(r'token')
_AFTER = re.compile(r'downsample|transition')  # leads to the next stage, wherever it is stored


def list_around_blocks(
    net: nn.Module,
    blocks: Iterable[str | Sequence[str]],
    head: Sequence[str] = (),
    shape: Sequence[int] = (3, 224, 224),
) -> Iterator[Entry]:
    """The layer list of a network of which the blocks are known, and by name also the classifier.

    The traced order places the rest. What runs before the first block is the embedding, except tokens and positions.
    In a convnet, and in a hierarchical network with a convolutional stem, the blocks of the first stage are part of
    the embedding. What runs between two blocks belongs to the following one (a downsampling), or to the one before if
    it closes that block's stage. What runs after the last block is the final norm or a projection (attention pooling,
    a last convolution). Blocks that run interleaved, as parallel branches do, are one block.

    Args:
        net: The network.
        blocks: Attribute path of each block, or its paths, in any order.
        head: Attribute paths of the classifier. Defaults to none.
        shape: Channels, height and width of images that the network takes. Defaults to (3, 224, 224).

    Yields:
        Entry: The layers from input to output.

    Raises:
        UserError: The network cannot be traced, or none of the blocks runs.
    """
    found = trace(net, shape)
    names = [name for name, _ in net.named_parameters()]
    units = _in_order(names, [(unit,) if isinstance(unit, str) else tuple(unit) for unit in blocks], found)
    if not units:
        raise UserError('no blocks are found in it')
    # Parameter name -> number of its unit, or a role.
    owner: dict[str, int | str] = {name: i for i, unit in enumerate(units) for name in _under(names, unit)}
    spans = [found.span(_under(names, unit)) for unit in units]
    owner.update(dict.fromkeys(_under(names, head), 'head'))
    for name in names:
        if name not in owner:
            owner[name] = _place(net, name, found, units, spans)
    owner.update(dict.fromkeys(_norms_of_projections(owner), 'projection'))
    members = [[name for name, of in owner.items() if of == i] for i in range(len(units))]
    first = _first_stage(net, units, members, [name for name, of in owner.items() if of == 'embed'], found)
    yield from _entries(net, owner, units, members, first)


def _under(names: Iterable[str], paths: Iterable[str]) -> list[str]:
    """The names of what is at or below these paths."""
    exact, below = set(paths), tuple(f'{path}.' for path in paths)
    return [name for name in names if name in exact or name.startswith(below)]


def _in_order(names: Sequence[str], units: Sequence[tuple[str, ...]], found: Trace) -> list[tuple[str, ...]]:
    """The units in the order in which they run; those that overlap in time are one."""
    spans = {unit: found.span(_under(names, unit)) for unit in units}
    merged: list[tuple[tuple[str, ...], int]] = []
    for unit in sorted((unit for unit in spans if spans[unit]), key=spans.get):
        start, end = spans[unit]
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0] + unit, max(end, merged[-1][1]))
        else:
            merged.append((unit, end))
    return [unit for unit, _ in merged]


def stage_of(unit: Sequence[str]) -> str:
    """The container of a block: ``stages.0.blocks`` of ``stages.0.blocks.1``."""
    return unit[0].rpartition('.')[0]


def _place(
    net: nn.Module, name: str, found: Trace, units: Sequence[tuple[str, ...]], spans: Sequence[tuple[int, int]]
) -> int | str:
    """Where a parameter outside all blocks belongs: the number of a block, or a role."""
    if name not in found.first:
        return 'position' if is_position(name) else _closing_role(net, name)
    start = found.first[name]
    following = next((i for i, span in enumerate(spans) if span[0] > start), None)
    shared = following is not None and found.last[name] > spans[following][0]
    if is_position(name) and (following == 0 or shared or '.' not in name):
        return 'position'
    if following == 0:
        return 'embed'
    before = (len(spans) if following is None else following) - 1
    if start <= spans[before][1]:  # used inside that block
        return before
    stage = stage_of(units[before]).removesuffix('.blocks')
    closes = stage[-1:].isdigit() and name.startswith(f'{stage}.')
    if following is None:
        return before if closes else _closing_role(net, name)
    closes = closes and not _AFTER.search(name[len(stage) :])
    return before if closes and not units[following][0].startswith(f'{stage}.') else following


def is_position(name: str) -> bool:
    """Whether a parameter is a positional embedding or a token, by the names that vision libraries give them."""
    return bool(_POSITION.search(name) or _TOKEN.search(name.rpartition('.')[2]))


def _closing_role(net: nn.Module, name: str) -> str:
    owner = name.rpartition('.')[0]
    kind = type(net.get_submodule(owner)).__name__.lower()
    return 'norm' if 'norm' in kind or 'affine' in kind else 'projection'


def _norms_of_projections(owner: Mapping[str, int | str]) -> Iterator[str]:
    """Parameters of norms inside a projection: attention pooling, or a last convolution with its norm."""
    for name in [name for name, of in owner.items() if of == 'norm']:
        path = name.rpartition('.')[0]
        while path := path.rpartition('.')[0]:
            if {of for other, of in owner.items() if other.startswith(f'{path}.')} == {'norm', 'projection'}:
                yield name
                break


def _first_stage(
    net: nn.Module,
    units: Sequence[tuple[str, ...]],
    members: Sequence[Sequence[str]],
    stem: Sequence[str],
    found: Trace,
) -> int:
    """Number of the blocks of the first stage, if the paper's rule for convnets counts them as embedding, else 0."""
    sizes = [_resolution(unit, found) for unit in members]
    if not sizes or sizes[0] is None:
        return 0
    lower = next((i for i, size in enumerate(sizes) if size is not None and size <= sizes[0] / 2), None)
    again = [units[i][0] for i in range(lower or 0, len(units)) if sizes[i] == sizes[0]]
    if lower is None or any(_top(path) == _top(units[0][0]) for path in again):
        return 0  # one resolution, as in a ViT, or branches of two
    count = 0
    containers = {stage_of(unit) for unit in units}
    while sizes[count] in (sizes[0], None):
        if len(containers) > 1 and stage_of(units[count]) != stage_of(units[0]) and stage_of(units[0]):
            break
        count += 1
    inside = [name for unit in members[:count] for name in unit if not is_position(name)]
    convolutions = _convolutions(net, [*stem, *inside])
    return count if any(max(conv.kernel_size) > max(conv.stride) for conv in convolutions) else 0


def _top(path: str) -> str:
    return path.partition('.')[0]


def resolutions(net: nn.Module, paths: Sequence[str], shape: Sequence[int]) -> list[int | None]:
    """Pixels or tokens that each part of a network works on last; ``None`` where no convolution or norm says it."""
    found, names = trace(net, shape), [name for name, _ in net.named_parameters()]
    return [_resolution(_under(names, [path]), found) for path in paths]


def _resolution(names: Sequence[str], found: Trace) -> int | None:
    used = [name for name in names if found.positions.get(name, 1) > 1]
    return found.positions[max(used, key=found.last.get)] if used else None


def _convolutions(net: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    owners = dict.fromkeys(name.rpartition('.')[0] for name in names)
    return [module for path in owners if isinstance(module := net.get_submodule(path), nn.Conv2d)]


def _entries(
    net: nn.Module,
    owner: dict[str, int | str],
    units: Sequence[tuple[str, ...]],
    members: Sequence[Sequence[str]],
    first: int,
) -> Iterator[Entry]:
    by_role = {
        role: [name for name, of in owner.items() if of == role]
        for role in ('embed', 'position', 'norm', 'projection', 'head')
    }
    yield Entry('stem' if first else 'patch_embed', 'embed', *cover(net, by_role['embed']))
    for path, names in groupby(sorted(by_role['position'], key=_position_of), key=_position_of):
        yield Entry(path, 'position', *cover(net, list(names)))
    containers = list(dict.fromkeys(stage_of(unit) for unit in units))
    for i, (unit, names) in enumerate(zip(units, members)):
        group = stage_of(unit) if len(containers) > 1 else unit[0]
        role, block = ('embed', None) if i < first else ('block', i - first)
        yield Entry(unit[0], role, *cover(net, names), block=block, group=group or unit[0])
    yield Entry('post_norm', 'norm', *cover(net, by_role['norm']))
    yield Entry('proj', 'projection', *cover(net, by_role['projection']))
    yield Entry('head', 'head', *cover(net, by_role['head']))


def _position_of(name: str) -> str:
    """The path of the embedding or token that a parameter is or belongs to."""
    parts = name.split('.')
    return '.'.join(parts[: next((i for i, part in enumerate(parts, 1) if is_position(part)), 1)])


def cover(net: nn.Module, names: Iterable[str]) -> list[str]:
    """The fewest attribute paths (of modules, or else of parameters) that hold exactly these parameters."""
    names = list(names)
    wanted = {id(net.get_parameter(name)) for name in names}
    paths: list[str] = []

    def visit(module: nn.Module, path: str) -> None:
        own = {id(param) for param in module.parameters()}
        if path and own and own <= wanted:
            paths.append(path)
        elif own & wanted:
            prefix = f'{path}.' if path else ''
            paths.extend(prefix + key for key, p in module.named_parameters(recurse=False) if id(p) in wanted)
            for key, child in module.named_children():
                visit(child, prefix + key)

    owners = zip(*(name.split('.')[:-1] for name in names))
    common = '.'.join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, owners))
    visit(net.get_submodule(common), common)
    return paths


def find_blocks(net: nn.Module, paths: Iterable[str] = ('',)) -> list[str]:
    """Paths of the blocks of a network by its structure, for libraries that do not say which modules they are.

    A block is a module with at least two convolutions or linear layers of its own. A sequence is not a block, and
    neither is a module that mainly holds a sequence of blocks (a stage).

    Args:
        net: The network.
        paths: Where to look. Defaults to the whole network.

    Returns:
        list[str]: In the order of definition.
    """
    found: list[str] = []

    def visit(path: str) -> None:
        module = net.get_submodule(path)
        series = _series(module)
        prefix = f'{path}.' if path else ''
        if isinstance(module, _CONTAINERS) or not path:
            inner = [name for name, child in module.named_children() if weights(child) > 1]
            for name in inner:
                visit(prefix + name)
            if not inner and '.' in path:
                found.append(path)  # a sequence of layers inside a sequence
        elif series:
            for name in series:
                visit(prefix + name)
        else:
            found.append(path)

    for path in paths:
        visit(path)
    return found


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _series(module: nn.Module) -> list[str]:
    """The children of a stage that are sequences of blocks, if they hold most of its parameters; else none."""
    total = sum(param.numel() for param in module.parameters())
    names, held = [], 0
    for name, child in module.named_children():
        if isinstance(child, _CONTAINERS):
            inner = [part for part in child.children() if weights(part) > 1]
            if inner:
                names.append(name)
                held += sum(param.numel() for part in inner for param in part.parameters())
    return names if 2 * held > total else []


def weights(module: nn.Module) -> int:
    """Number of weight matrices and kernels."""
    return sum(param.ndim > 1 for param in module.parameters())
