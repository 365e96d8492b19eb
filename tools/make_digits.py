"""Write the demo's benchmark, handwritten digits on photographs, in the Waterbirds layout.

python tools/make_digits.py                      # data/digits, about 2 seconds
python tools/make_digits.py /data/digits --seed 1
"""

import argparse

from ftsgd_plugin.datasets.digits import write_benchmark
from ftsgd_plugin.utils.cli import one_line_errors


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', nargs='?', default='data/digits', help='folder to write (default: data/digits)')
    parser.add_argument('--seed', type=int, default=0, help='seed of splits, places and compositions (default: 0)')
    args = parser.parse_args()
    print(f'Waterbirds layout: {write_benchmark(args.root, args.seed)}')


if __name__ == '__main__':
    main()
