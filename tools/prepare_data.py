"""Check the data of a benchmark: source, licence, size, and which images are missing.

    python tools/prepare_data.py camelyon data/camelyon17_v1.0
    python tools/prepare_data.py elpv                                  # downloads it with pip (91 MB) into data/elpv
    python tools/prepare_data.py living17 /data/imagenet --scan        # also decode every image

Nothing else is downloaded and nothing is deleted. Exit code 0: complete; 1: an image is missing or broken. Sizes that
differ from the published ones are a warning.
"""

import argparse
import os
import sys
from pathlib import Path

from ftsgd_plugin.paper.names import DATASETS
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.options import positive_int


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', choices=[*DATASETS, 'elpv'], help='benchmark')
    parser.add_argument(
        'root', nargs='?', help='its data_root: the directory that holds the metadata file (elpv: data/elpv)'
    )
    parser.add_argument('--scan', action='store_true', help='decode every image')
    parser.add_argument(
        '--workers', type=positive_int, default=os.cpu_count(), help='processes for --scan (default: all cores)'
    )
    parser.add_argument('--bad-list', type=Path, help='file for the bad images (default: bad_images_NAME.txt)')
    args = parser.parse_args()
    if args.root is None and args.name != 'elpv':
        parser.error('the following arguments are required: root')
    return args


@one_line_errors
def main() -> None:
    args = parse_args()
    if args.name == 'elpv':
        from ftsgd_plugin.datasets.elpv import prepare_elpv

        complete = prepare_elpv(args.root or 'data/elpv', args.scan, args.workers, args.bad_list)
    else:
        from ftsgd_plugin.datasets.prepare import check_benchmark

        complete = check_benchmark(args.name, args.root, args.scan, args.workers, args.bad_list)
    sys.exit(0 if complete else 1)


if __name__ == '__main__':
    main()
