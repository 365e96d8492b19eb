"""Check the data of a benchmark, or your own: which images are missing or broken, what the splits hold.

    python tools/prepare_data.py camelyon data/camelyon17_v1.0
    python tools/prepare_data.py elpv                                  # downloads it with pip (91 MB) into data/elpv
    python tools/prepare_data.py living17 /data/imagenet --scan        # also decode every image
    python tools/prepare_data.py own data/animals                      # a table or directories of your own
    python tools/prepare_data.py own data/pacs --hold-out sketch --page pacs.html

Nothing else is downloaded and nothing is deleted. Of your own data, every image is decoded: counts per split, class and
group, unreadable files, duplicates across splits, label errors, and a page with sample images. Exit code 0: complete;
1: an image is missing or broken, or the data has an error. Sizes that differ from the published ones are a warning.
"""

import argparse
import os
import sys
from pathlib import Path

from ftsgd_plugin.paper.names import DATASETS
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.options import positive_int, seed_number

COLUMNS = ('path', 'label', 'split', 'group', 'metadata')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', choices=[*DATASETS, 'elpv', 'own'], help='benchmark, or own')
    parser.add_argument(
        'root',
        nargs='?',
        help='its data_root: the directory that holds the metadata file (elpv: data/elpv); of own also a table',
    )
    parser.add_argument('--scan', action='store_true', help='decode every image (own: always)')
    parser.add_argument(
        '--workers', type=positive_int, default=os.cpu_count(), help='processes that decode (default: all cores)'
    )
    parser.add_argument('--bad-list', type=Path, help='file for the bad images (default: bad_images_NAME.txt)')
    own = parser.add_argument_group('own data', 'what is not given is recognised')
    own.add_argument('--hold-out', nargs='+', metavar='GROUP', help='groups or domains kept for split ood')
    own.add_argument('--column', nargs='+', metavar='FIELD=NAME', help=f'columns: {", ".join(COLUMNS)} (several: a,b)')
    own.add_argument('--split-name', nargs='+', metavar='DATA=NAME', help='names of splits in the data and here')
    own.add_argument('--tree', help="order of the directories, such as 'domain/class'")
    own.add_argument('--val', type=float, help='fraction drawn for val (default: 0.1 if the data has none)')
    own.add_argument('--test', type=float, help='fraction drawn for test (default: 0.1 if it has neither)')
    own.add_argument('--seed', type=seed_number, help='of the draw (default: 0)')
    own.add_argument('--whole', metavar='FIELD', help='field whose values stay together, such as group; none: no field')
    own.add_argument('--page', type=Path, help='the page with sample images (default: own_images.html)')
    args = parser.parse_args()
    if args.root is None and args.name != 'elpv':
        parser.error('the following arguments are required: root')
    given = [action for action in own._group_actions if getattr(args, action.dest) is not None]
    if args.name != 'own' and given:
        parser.error(f'{given[0].option_strings[0]} is of own data')
    for option in ('column', 'split_name'):
        for word in getattr(args, option) or ():
            if '=' not in word:
                parser.error(f'--{option.replace("_", "-")}: {word!r} is not NAME=VALUE')
    return args


def own_options(args: argparse.Namespace) -> dict:
    """The options of own data as ``recognise`` takes them."""
    columns = dict(word.split('=', 1) for word in args.column or ())
    if 'metadata' in columns:
        columns['metadata'] = columns['metadata'].split(',')
    names = dict(word.split('=', 1) for word in args.split_name or ())
    found = dict(columns=columns, split_names=names, tree=args.tree, val=args.val, test=args.test, seed=args.seed)
    if args.whole is not None:
        found['whole'] = '' if args.whole == 'none' else args.whole
    return {key: value for key, value in found.items() if value is not None}


@one_line_errors
def main() -> None:
    args = parse_args()
    if args.name == 'elpv':
        from ftsgd_plugin.datasets.elpv import prepare_elpv

        complete = prepare_elpv(args.root or 'data/elpv', args.scan, args.workers, args.bad_list)
    elif args.name == 'own':
        from ftsgd_plugin.datasets.own_check import check_own

        complete = check_own(
            args.root,
            args.hold_out or (),
            page=args.page or 'own_images.html',
            bad_list=args.bad_list or 'bad_images_own.txt',
            workers=args.workers,
            **own_options(args),
        )
    else:
        from ftsgd_plugin.datasets.prepare import check_benchmark

        complete = check_benchmark(args.name, args.root, args.scan, args.workers, args.bad_list)
    sys.exit(0 if complete else 1)


if __name__ == '__main__':
    main()
