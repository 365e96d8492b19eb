"""Fine-tune one pretrained ViT with the paper's six methods and compare them in and out of distribution.

    bash tools/demo.sh                               # with set-up
    python tools/demo.py --seeds 0 1 2 3 4           # in an environment that has the package

Writes the digits and runs the sweep of configs/sweeps/demo.py as tools/sweep.py does: the same command again continues.
The learning rate and the epoch are chosen by in-distribution accuracy only. Writes summary.json, records.json (every
epoch of every run) and demo.png into --out, with a directory for every run that holds its log and record. Then writes
the diagnosis of the model, the cost of each method, and the report of the runs, as tools/diagnose.py, resources.py and
report.py do.
"""

import argparse
import shlex
import sys

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.options import positive_int, seed_number


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='work_dirs/demo', help='directory for results (default: work_dirs/demo)')
    parser.add_argument('--data', default='data/digits', help='directory of the digits, written if it is missing')
    parser.add_argument('--methods', nargs='+', metavar='NAME', help='methods of the plan (default: all six)')
    parser.add_argument('--seeds', nargs='+', type=seed_number, help='seeds (default: 0 1 2)')
    parser.add_argument('--epochs', type=positive_int, help='epochs of each run (default: 6)')
    parser.add_argument('--workers', type=positive_int, help='parallel runs (default: one per core, up to 8)')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    from ftsgd_plugin.sweep.demo import run_demo

    command = shlex.join(['python', 'tools/demo.py', *sys.argv[1:]])
    run_demo(args.out, args.data, args.methods, args.seeds, args.epochs, args.workers, command)


if __name__ == '__main__':
    main()
