"""Check a benchmark's data: what is there, what is missing, where it comes from and where it goes.

    python tools/prepare_data.py camelyon data/camelyon17_v1.0
    python tools/prepare_data.py living17 /data/imagenet --scan        # also decode every picture

Nothing is downloaded and nothing is deleted. Exit code 0: complete; 1: something is missing or broken. Sizes that
differ from the published ones are a warning.
"""

# isort: off
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from mmengine.logging import MMLogger
from tqdm import tqdm

from ftsgd_plugin.datasets import Camelyon17, DomainNet, FMoW, Living17, Waterbirds
from ftsgd_plugin.datasets.base import BenchmarkDataset
from ftsgd_plugin.datasets.transforms import why_unreadable
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError

BENCHMARKS = {
    'living17': Living17,
    'waterbirds': Waterbirds,
    'domainnet': DomainNet,
    'fmow': FMoW,
    'camelyon': Camelyon17,
}


@cache
def names_in(folder: str) -> frozenset[str]:
    """File names of a folder, listed once; empty if there is no such folder."""
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def check_split(kind: type[BenchmarkDataset], root: str, split: str) -> tuple[dict, list[str]]:
    """A row of the table, and the paths of the pictures that are there."""
    published = kind.PUBLISHED.get(split)
    row = {'split': split, 'listed': None, 'published': published, 'found': None, 'note': ''}
    try:
        dataset = kind(data_root=root, split=split)
    except UserError as error:
        row['note'] = str(error)
        return row, []
    paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
    present = [path for path in paths if os.path.basename(path) in names_in(os.path.dirname(path))]
    row.update(listed=len(paths), found=len(present))
    if len(present) < len(paths):
        first = next(path for path in paths if os.path.basename(path) not in names_in(os.path.dirname(path)))
        row['note'] = f'{len(paths) - len(present):,} missing, e.g. {first}'
    elif len(paths) != published:
        row['note'] = 'warning: not the published size'
    return row, present


def print_table(rows: list[dict]) -> None:
    """Splits with pictures listed, published and found; long notes below."""
    print(f'{"split":<14}{"listed":>10}{"published":>12}{"found":>10}')
    for row in rows:
        cells = ['-' if row[key] is None else f'{row[key]:,}' for key in ('listed', 'published', 'found')]
        print(f'{row["split"]:<14}{cells[0]:>10}{cells[1]:>12}{cells[2]:>10}  {row["note"]}'.rstrip())


def scan(paths: list[str], workers: int, report: Path) -> int:
    """Decode every picture; write those that fail, with the reason, to ``report``. Returns their number."""
    bad = []
    with ProcessPoolExecutor(workers, get_context('spawn')) as pool:
        reasons = pool.map(why_unreadable, paths, chunksize=64)
        for path, reason in tqdm(zip(paths, reasons), total=len(paths), desc='decoding', unit='img'):
            if reason is not None:
                bad.append(f'{path}\t{reason}')
    if bad:
        unfinished = report.with_name(f'.{report.name}')
        unfinished.write_text('\n'.join(bad) + '\n')
        unfinished.replace(report)
        print(f'{len(bad):,} of {len(paths):,} pictures cannot be used; listed in {report}')
    else:
        print(f'all {len(paths):,} pictures decode')
    return len(bad)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', choices=BENCHMARKS, help='benchmark')
    parser.add_argument('root', help='its data_root: the folder that holds the metadata file')
    parser.add_argument('--scan', action='store_true', help='decode every picture')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help='processes for --scan (default: all cores)')
    parser.add_argument('--bad-list', type=Path, help='file for the bad pictures (default: bad_images_NAME.txt)')
    args = parser.parse_args()

    MMLogger.get_instance('prepare_data', log_level='ERROR')  # the table says what the datasets' warnings would
    kind = BENCHMARKS[args.name]
    print(f'{kind.__name__}\n  source:  {kind.SOURCE}\n  licence: {kind.LICENCE}\n  on disk: {kind.DISK}')
    holds = kind.METADATA or {'living17': 'train/ and val/', 'domainnet': 'the domains and their lists'}[args.name]
    print(f'  place:   {os.path.abspath(os.path.expanduser(args.root))}, holding {holds}\n')
    checked = [check_split(kind, args.root, split) for split in kind.SPLITS]
    rows = [row for row, _ in checked]
    if len({row['note'] for row in rows}) == 1 and rows[0]['listed'] is None:
        raise UserError(rows[0]['note'])  # the same for every split: the root is wrong or empty
    print_table(rows)
    incomplete = any(row['listed'] is None or row['found'] < row['listed'] for row in rows)
    if args.scan:
        report = args.bad_list or Path(f'bad_images_{args.name}.txt')
        paths = list(dict.fromkeys(path for _, present in checked for path in present))
        incomplete = scan(paths, args.workers, report) > 0 or incomplete
    sys.exit(1 if incomplete else 0)


if __name__ == '__main__':
    main()
