"""How many networks of each library have a layer list, whether it equals the one by hand, and how wide features are.

    python benchmarks/backbones.py --library timm open_clip --out /tmp/backbones.jsonl
    python benchmarks/backbones.py --library timm --names 'resnet*' --out /tmp/resnets.jsonl
    python benchmarks/backbones.py --library torchvision mmpretrain transformers --out /tmp/others.jsonl

Every network is built on the meta device (no memory, no computation) inside a short-lived process, so that memory stays
flat. Rows are appended to --out, one network each; the same command continues where it stopped. At the end the table
and the networks that are refused, with the reason, are printed; --record FILE writes them.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))  # also where another program runs this file

import other_libraries


@dataclass(frozen=True)
class Library:
    """Where the networks of a library come from.

    Attributes:
        names: Its architectures.
        build: Architecture -> backbone, on the meta device if the library allows that.
    """

    names: Callable[[], Sequence[str]]
    build: Callable[[str], object]


def _timm_names() -> Sequence[str]:
    import timm

    return timm.list_models()


def _timm(name: str) -> object:
    from ftsgd_plugin.models import TimmPooledBackbone

    return TimmPooledBackbone(name)


def _open_clip_names() -> Sequence[str]:
    import open_clip

    return open_clip.list_models()


def _open_clip(name: str) -> object:
    from ftsgd_plugin.models import OpenCLIPVisionTower

    return OpenCLIPVisionTower(name)


LIBRARIES = {
    'timm': Library(_timm_names, _timm),
    'open_clip': Library(_open_clip_names, _open_clip),
    'torchvision': Library(other_libraries.torchvision_names, other_libraries.torchvision),
    'mmpretrain': Library(other_libraries.mmpretrain_names, other_libraries.mmpretrain),
    'transformers': Library(other_libraries.transformers_names, other_libraries.transformers),
}


def examine(library: str, name: str) -> dict:
    """Build one network and list its layers.

    Returns:
        dict: ``library``, ``name``, ``kind`` (class of the network), ``blocks``, ``shares`` of the parameters by role,
        ``by_hand`` (whether the list is written by hand; then ``equal``, whether the verified one has the same parts),
        ``features`` (their width) and ``declared`` (by the library), ``seconds``, and ``reason`` if it is refused.
    """
    import torch

    from ftsgd_plugin.layers import list_layers
    from ftsgd_plugin.utils.errors import UserError, one_line

    row, start = dict(library=library, name=name), time.perf_counter()
    try:
        with torch.device('meta'), _without_initialisation():
            backbone = LIBRARIES[library].build(name)
    except Exception as error:
        return dict(**row, stage='build', reason=f'{type(error).__name__}: {one_line(error, first=True, limit=200)}')
    net = getattr(backbone, 'net', backbone)
    row.update(kind=f'{type(net).__module__}.{type(net).__qualname__}', built=round(time.perf_counter() - start, 2))
    start = time.perf_counter()
    try:
        layers = list_layers(backbone)
    except UserError as error:
        reason = str(error).partition('; paste this list')[0]
        return dict(**row, stage='list', reason=reason)
    row['seconds'] = round(time.perf_counter() - start, 2)
    total = sum(layer.num_params for layer in layers)
    shares = Counter()
    for layer in layers:
        shares[layer.role] += layer.num_params
    row.update(blocks=len({layer.block for layer in layers if layer.role == 'block'}))
    row.update(shares={role: round(count / total, 4) for role, count in shares.items()})
    row.update(**_by_hand(net), **_features(backbone))
    return row


def _by_hand(net: object) -> dict:
    """Whether a network's list is written by hand, and whether the verified one has the same parts and order."""
    from ftsgd_plugin.layers.generic import library_of
    from ftsgd_plugin.layers.register import written_list
    from ftsgd_plugin.layers.trace import owners_of
    from ftsgd_plugin.utils.errors import UserError

    written = written_list(net)
    if written is None or library_of(net) is None:
        return dict(by_hand=False)
    ours = owners_of(net, written(net))
    if len(ours) < sum(1 for _ in net.parameters()):
        return dict(by_hand=False)
    try:
        found = owners_of(net, library_of(net).propose(net))
    except UserError as error:
        return dict(by_hand=True, equal=False, difference=str(error).partition('; paste')[0])
    differing = [name for name in ours if _part(ours[name]) != _part(found[name])]
    if not differing:
        return dict(by_hand=True, equal=True)
    first = differing[0]
    return dict(by_hand=True, equal=False, difference=f'{first}: {_part(ours[first])}, {_part(found[first])}')


def _part(entry: object) -> tuple:
    return entry.role, entry.block


def _features(backbone: object) -> dict:
    """Width of the features, or why there is none, and what the library's network declares."""
    from ftsgd_plugin.utils.errors import UserError

    net = getattr(backbone, 'net', backbone)
    declared = getattr(net, 'num_features', getattr(net, 'output_dim', None))
    try:
        return dict(features=getattr(backbone, 'num_features', None), declared=declared)
    except UserError as error:
        return dict(features=str(error), declared=declared)


def _without_initialisation() -> AbstractContextManager:
    """Let tensors ignore what writes random weights: on the meta device it takes most of a network's building."""
    import torch

    names = ('uniform_', 'normal_', 'erfinv_', 'mul_', 'add_', 'sub_', 'div_', 'clamp_', 'fill_', 'zero_')
    return mock.patch.multiple(torch.Tensor, **{name: lambda tensor, *args, **options: tensor for name in names})


def rows_of(path: Path) -> list[dict]:
    """The rows of the networks that have been examined; a line that was cut off by an interruption does not count."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def count(library: str, pattern: str, path: Path, per_process: int) -> None:
    """Examine the networks of a library that have no row yet, some in each of several processes, one after another."""
    done = {row['name'] for row in rows_of(path) if row['library'] == library}
    names = [name for name in LIBRARIES[library].names() if fnmatch(name, pattern)]
    todo = [name for name in names if name not in done]
    start = time.perf_counter()
    for i in range(0, len(todo), per_process):
        chunk = todo[i : i + per_process]
        subprocess.run([sys.executable, __file__, '--worker', library, *chunk, '--out', str(path)], check=True)
        spent, finished = time.perf_counter() - start, i + len(chunk)
        rest = spent / finished * (len(todo) - finished)
        print(f'{library}: {len(done) + finished} of {len(names)}, {spent:.0f} s, about {rest:.0f} s left', flush=True)


def _right(listed: Sequence[dict]) -> str:
    """Of how many networks the library declares the right width; a dash if it declares none."""
    declared = [row for row in listed if row['declared'] is not None]
    return f'{sum(row["features"] == row["declared"] for row in declared)} of {len(declared)}' if declared else '-'


def summary(rows: Sequence[dict]) -> Iterator[str]:
    """The table and the networks that are refused, in Markdown."""
    columns = 'library', 'networks', 'layer list', 'whole classes', 'by hand', 'equal to verified', 'features'
    yield f'| {" | ".join(columns)} | declared right | median s |'
    yield '|---|---|---|---|---|---|---|---|---|'
    for library in dict.fromkeys(row['library'] for row in rows):
        own = [row for row in rows if row['library'] == library and row.get('stage') != 'build']
        listed = [row for row in own if 'reason' not in row]
        hand = [row for row in listed if row.get('by_hand')]
        classes, refused = {row['kind'] for row in own}, {row['kind'] for row in own if 'reason' in row}
        seconds = sorted(row['seconds'] for row in listed)
        yield (
            f'| {library} | {len(own)} | {len(listed)} | {len(classes - refused)} of {len(classes)} | '
            f'{len(hand)} | {sum(row["equal"] for row in hand)} | '
            f'{sum(isinstance(row["features"], int) for row in listed)} | '
            f'{_right(listed)} | '
            f'{seconds[len(seconds) // 2] if seconds else 0} |'
        )
    yield ''
    for title, chosen, text in (
        ('Not built', [row for row in rows if row.get('stage') == 'build'], lambda row: row['reason']),
        ('Refused', [row for row in rows if row.get('stage') == 'list'], lambda row: row['reason']),
        ('Other than by hand', [row for row in rows if row.get('equal') is False], lambda row: row['difference']),
        (
            'Features',
            [row for row in rows if 'reason' not in row and not isinstance(row['features'], int | None)],
            lambda row: row['features'],
        ),
    ):
        if chosen:
            yield from (f'{title}:', '', *(f'- `{row["library"]}/{row["name"]}`: {text(row)}' for row in chosen), '')


def _releases() -> str:
    packages = {'timm': 'timm', 'open_clip_torch': 'open_clip'}
    return ', '.join(f'{name} {importlib.metadata.version(package)}' for package, name in packages.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--library', nargs='+', choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument('--names', default='*', help='glob of architectures (default: all)')
    parser.add_argument('--out', type=Path, required=True, help='rows, one network each; an existing file is continued')
    parser.add_argument('--per-process', type=int, default=50, help='networks that one process examines')
    parser.add_argument('--record', type=Path, help='write the table to this file as well')
    parser.add_argument('--worker', nargs='+', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        warnings.simplefilter('ignore')
        library, *names = args.worker
        with args.out.open('a') as file:
            for name in names:
                print(json.dumps(examine(library, name)), file=file, flush=True)
        return
    for library in args.library:
        count(library, args.names, args.out, args.per_process)
    rows = [row for row in rows_of(args.out) if row['library'] in args.library and fnmatch(row['name'], args.names)]
    from ftsgd_plugin.records import environment
    from ftsgd_plugin.utils.files import write_text

    lines = list(summary(rows))
    print('\n'.join(lines))
    if args.record:
        versions = environment()
        header = f'`python benchmarks/backbones.py`, torch {versions["torch"]}, {_releases()}.'
        write_text(args.record, '\n'.join(['# Layer lists per library', '', header, '', *lines]).rstrip() + '\n')


if __name__ == '__main__':
    main()
