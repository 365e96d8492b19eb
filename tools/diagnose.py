"""Recommend a method for a model and its data, and predict whether it fits; a few batches, before any training.

    python tools/diagnose.py configs/vit-tiny_freeze-embed_digits.py
    python tools/diagnose.py configs/clip-vit-l14_freeze-embed_fmow.py --memory 16GiB --batches 20 --json answer.json

Measures the gradient of every layer of the pretrained model on the config's own training batches, compares the ratio of
the embedding's to the middle layers' with the paper's models, predicts memory and time of every method for the config's
model and batch size, and recommends one. Prints a summary; --out DIR receives diagnosis.html (self-contained) and its
figures.
"""

import argparse
import shlex
import sys

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside
from ftsgd_plugin.utils.options import add_cfg_options, byte_size, positive_int


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--batches', type=positive_int, default=8, metavar='N', help='batches to measure (default: 8)')
    parser.add_argument('--memory', type=byte_size, metavar='SIZE', help='e.g. 8GiB (default: that of the GPU)')
    parser.add_argument('--json', metavar='PATH', help='write the answer as data')
    parser.add_argument('--out', help='directory of the page (default: work_dirs/diagnose/CONFIG_NAME)')
    parser.add_argument('--device', help='e.g. cuda:1 or cpu (default: the GPU if there is one)')
    parser.add_argument(
        '--points', nargs='+', default=(), metavar='FILE', help='more points of benchmarks/diagnosis_points.py to show'
    )
    parser.add_argument(
        '--include-own-points',
        action='store_true',
        help="count this project's points in the neighbours and the correlation, which are the paper's alone otherwise",
    )
    add_cfg_options(parser)
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    with imports_set_aside():
        from ftsgd_plugin.profiling.diagnosis_page import write_diagnosis

    command = shlex.join(['python', 'tools/diagnose.py', *sys.argv[1:]])
    write_diagnosis(
        args.config,
        args.out,
        args.json,
        args.batches,
        args.memory,
        args.device,
        args.cfg_options,
        command,
        args.points,
        args.include_own_points,
    )


if __name__ == '__main__':
    main()
