"""Cost of each method on a config's model: predicted before training, measured on this machine, and the paper's ratio.

    python tools/resources.py configs/vit-tiny_freeze-embed_digits.py
    python tools/resources.py --models clip-vit-b16 clip-vit-l14 --batch-size 32 --autocast bfloat16 --out resources
    python tools/resources.py --models clip-vit-l14 --batch-size 1 128 --plan-only
    python tools/resources.py --models clip-vit-l14 --ranks 4 --shard    # bytes of one rank of sharded training

Prints a Markdown table for each model; --out DIR receives resources.json, resources.md and resources.png.
No weights are loaded: sizes and times do not depend on them.
"""

import argparse
import shlex
import sys

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='*', help='config files; their own method is ignored')
    parser.add_argument('--models', nargs='+', default=[], metavar='NAME', help='model parts, e.g. clip-vit-b16')
    parser.add_argument(
        '--methods', nargs='+', metavar='NAME', help="method parts, or 'all' (default: the paper's seven)"
    )
    parser.add_argument('--batch-size', nargs='+', type=int, default=[32], metavar='N', help='default: 32')
    parser.add_argument('--autocast', choices=['none', 'bfloat16', 'float16'], default='none', help='default: none')
    parser.add_argument('--steps', type=int, default=20, help='timed steps of each phase (default: 20)')
    parser.add_argument('--rounds', type=int, default=2, help='turns that the methods take (default: 2)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda if the machine has it')
    parser.add_argument('--plan-only', action='store_true', help='predict only, measure nothing')
    parser.add_argument(
        '--ranks', type=int, metavar='N', help='with --shard: plan for one of N ranks; --batch-size is of all'
    )
    parser.add_argument('--shard', action='store_true', help='plan sharded training (ShardedDataParallel)')
    parser.add_argument('--out', metavar='DIR', help='directory for resources.json, .md and .png')
    args = parser.parse_args()
    if min(args.batch_size) < 1 or args.steps < 1 or not 1 <= args.rounds <= args.steps:
        parser.error('--batch-size and --steps are positive, and --rounds at most --steps')
    if (args.ranks is not None) != args.shard or (args.ranks or 1) < 1:
        parser.error('--ranks N and --shard belong together, with N of at least 1')
    return args


@one_line_errors
def main() -> None:
    args = parse_args()
    with imports_set_aside():
        from ftsgd_plugin.profiling.comparison import compare_resources
        from ftsgd_plugin.profiling.phases import ALL_METHODS, COMPARED_METHODS

    compare_resources(
        args.config,
        args.models,
        ALL_METHODS if args.methods == ['all'] else args.methods or COMPARED_METHODS,
        args.batch_size,
        None if args.autocast == 'none' else args.autocast,
        args.steps,
        args.rounds,
        args.device,
        args.plan_only,
        args.out,
        shlex.join(['python', 'tools/resources.py', *sys.argv[1:]]),
        args.ranks,
    )


if __name__ == '__main__':
    main()
