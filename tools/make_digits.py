"""Write the demo's benchmark, handwritten digits on photographs, in the Waterbirds layout.

python tools/make_digits.py                      # data/digits, about 2 seconds
python tools/make_digits.py /data/digits --seed 1
"""

import argparse

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.options import seed_number


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', nargs='?', default='data/digits', help='directory to write (default: data/digits)')
    parser.add_argument(
        '--seed', type=seed_number, default=0, help='seed of splits, places and compositions (default: 0)'
    )
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    from ftsgd_plugin.datasets.digits import write_benchmark

    print(f'Waterbirds layout: {write_benchmark(args.root, args.seed)}')


if __name__ == '__main__':
    main()
