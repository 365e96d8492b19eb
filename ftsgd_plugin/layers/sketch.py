"""A layer list to start from, as a line of Python, for a network that has none."""

import re
from collections.abc import Iterator, Sequence

from torch import nn

from .entry import Entry
from .structure import cover, find_blocks, is_position


def sketch(net: nn.Module) -> list[Entry]:
    """A complete list by the structure and the names alone: what to read and correct, never used as it is.

    Args:
        net: Any network with parameters.

    Returns:
        list[Entry]: Every parameter in exactly one entry; blocks in the order of definition.
    """
    parts = [name for name, child in net.named_children() if any(True for _ in child.parameters())]
    blocks = [path for path in find_blocks(net) if '.' in path or len(parts) < 4] or parts[1:-1]
    names = [name for name, _ in net.named_parameters()]
    owners = [next((path for path in blocks if name.startswith(f'{path}.')), None) for name in names]
    inside = [i for i, owner in enumerate(owners) if owner]
    entries, rest, closing = [], [], []
    for i, name in enumerate(names):
        if not owners[i]:
            before = (not inside or i < inside[-1]) and ('.' in name or is_position(name))
            (rest if before else closing).append(name)
    bare = [name for name in rest if '.' not in name]
    entries += [Entry('stem', 'embed', *cover(net, [name for name in rest if '.' in name]))]
    entries += [Entry(name, 'position', name) for name in bare]
    used = list(dict.fromkeys(owner for owner in owners if owner))
    entries += [Entry(path, 'block', path, block=i) for i, path in enumerate(used)]
    entries += [Entry(path, _role(net, path), path) for path in cover(net, closing)]
    return [entry for entry in entries if entry.members]


def _role(net: nn.Module, path: str) -> str:
    part = net.get_submodule(path) if path not in dict(net.named_parameters()) else None
    if re.search('norm', type(part).__name__, re.IGNORECASE):
        return 'norm'
    return 'head' if path.partition('.')[0] in ('head', 'fc', 'classifier', 'heads') else 'projection'


def source(net: nn.Module, entries: Sequence[Entry]) -> str:
    """The list as one line of Python that registers it for the class of ``net``; numbered runs become loops."""
    cls = type(net)
    return (
        'from ftsgd_plugin.layers import Entry, register_layer_list; '
        f"register_layer_list('{cls.__module__}.{cls.__qualname__}')(lambda net: [{', '.join(_terms(entries))}])"
    )


def _terms(entries: Sequence[Entry]) -> Iterator[str]:
    i = 0
    while i < len(entries):
        run = 1
        while i + run < len(entries) and _follows(entries[i], entries[i + run], run):
            run += 1
        entry = entries[i]
        if run > 1:
            stem, start = entry.name.rpartition('.')[0], int(entry.name.rpartition('.')[2])
            block = f'k + {entry.block - start}' if entry.block != start else 'k'
            loop = f'for k in range({start}, {start + run})'
            yield f"*[Entry(f'{stem}.{{k}}', 'block', f'{stem}.{{k}}', block={block}) {loop}]"
        else:
            members = ''.join(f', {member!r}' for member in entry.members)
            block = '' if entry.block is None else f', block={entry.block}'
            yield f'Entry({entry.name!r}, {entry.role!r}{members}{block})'
        i += run


def _follows(first: Entry, other: Entry, steps: int) -> bool:
    """Whether ``other`` is ``first`` with the number at its end and its block index raised by ``steps``."""
    stem, _, number = first.name.rpartition('.')
    return (
        number.isdigit()
        and first.role == other.role == 'block'
        and first.members == (first.name,)
        and other.members == (f'{stem}.{int(number) + steps}',)
        and other.block == first.block + steps
    )
