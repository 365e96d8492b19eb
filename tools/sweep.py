"""Run a plan: methods x models x datasets x learning rates x seeds, each run in its own process and directory.

    python tools/sweep.py configs/sweeps/paper.py --dry-run                 # its runs, GPU-hours and disk space
    python tools/sweep.py configs/sweeps/paper.py --out work_dirs/paper     # Ray on this machine, no set-up
    python tools/sweep.py PLAN --halving                                    # stops learning rates that are behind
    python tools/sweep.py PLAN --forked --workers 4                         # forked processes instead of Ray
    python tools/sweep.py PLAN --out SHARED_DIR --address 10.0.0.1:6379     # a Ray cluster
    python tools/sweep.py PLAN --out SHARED_DIR --slurm DIR                 # writes DIR/sweep.sh for sbatch
    python tools/sweep.py PLAN --out SHARED_DIR --slurm DIR --ray-nodes 4   # writes DIR/ray.sh: Ray on one Slurm job
    python tools/sweep.py configs/sweeps/paper.py --smoke                   # two iterations of every config, or what
                                                                            # is missing, in work_dirs/paper_smoke

The same command again continues: finished runs are kept, failed and killed ones resumed from their checkpoint, runs
whose config has changed are run again (the old directory moves to OUT/replaced). Each run leaves
OUT/runs/NAME/record.json. The weights of a finished run are deleted unless --keep-checkpoints is given. Exit code 1 if
a run has failed; of --smoke 3 if none has but data or weights are missing.
"""

import argparse
import math
import sys
from collections.abc import Callable

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside
from ftsgd_plugin.utils.options import TFLOPS, add_cfg_options, positive_int


def _gpus(text: str) -> float:
    if not 0 <= (value := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not between 0 and 1; a run uses at most one GPU')
    return value


def _above(least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not least < (value := _number(text)) < math.inf:
            raise argparse.ArgumentTypeError(f'{text!r} is not a number above {least}')
        return value

    return parse


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('plan', metavar='PLAN', help='plan file, e.g. configs/sweeps/paper.py')
    parser.add_argument('--out', help='directory of the sweep (default: work_dirs/PLAN_NAME)')
    parser.add_argument(
        '--dry-run', action='store_true', help='list the runs with predicted GPU-hours and disk space; no run'
    )
    parser.add_argument(
        '--tflops', type=_above(0), default=TFLOPS, help='sustained TFLOP/s of a GPU (default: %(default)g)'
    )
    parser.add_argument('--address', help='a Ray cluster (default: start Ray on this machine)')
    parser.add_argument('--gpus-per-run', type=_gpus, help='0 to 1, may be a fraction (default: 1 if there are GPUs)')
    parser.add_argument('--cpus-per-run', type=positive_int, help='CPU cores (default: 1, with a GPU up to 5)')
    parser.add_argument('--workers', type=positive_int, help='most runs at a time (default: as many as fit)')
    parser.add_argument(
        '--forked',
        action='store_true',
        help='run in forked processes of this machine, without Ray: imports are paid once, and runs share the GPU',
    )
    parser.add_argument(
        '--smoke',
        action='store_true',
        help="try every config of the plan's models and data sets, all methods, for two iterations, the cheapest first",
    )
    parser.add_argument(
        '--random-weights', action='store_true', help='with --smoke: random weights instead of the pretrained ones'
    )
    parser.add_argument('--keep-checkpoints', action='store_true', help='keep the weights of finished runs')
    parser.add_argument('--slurm', metavar='DIR', help='write a Slurm array script into DIR and run nothing')
    parser.add_argument(
        '--ray-nodes',
        type=positive_int,
        metavar='N',
        help='with --slurm: instead of an array a job of N machines on which Ray runs the sweep',
    )
    parser.add_argument(
        '--halving',
        type=_above(1),
        nargs='?',
        const=3.0,
        metavar='FACTOR',
        help='stop learning rates early by ID accuracy: one of FACTOR (default: 3) continues at every decision',
    )
    parser.add_argument('--index', type=int, help='run this one run of the plan, here and without Ray')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.random_weights and not args.smoke:
        parser.error('--random-weights is of --smoke')
    if args.ray_nodes and (args.smoke or not args.slurm):
        parser.error('--ray-nodes is of --slurm, without --smoke')
    if args.smoke and args.halving:
        parser.error('--halving is not of --smoke')
    if args.smoke and args.keep_checkpoints:
        parser.error('--keep-checkpoints: --smoke writes no weights')
    return args


@one_line_errors
def main() -> None:
    args = parse_args()
    options = dict(
        out=args.out,
        cfg_options=args.cfg_options,
        dry_run=args.dry_run,
        tflops=args.tflops,
        address=args.address,
        gpus=args.gpus_per_run,
        cpus=args.cpus_per_run,
        workers=args.workers,
        slurm=args.slurm,
        index=args.index,
        forked=args.forked,
    )
    if args.smoke:
        with imports_set_aside():
            from ftsgd_plugin.sweep.smoke import smoke

        sys.exit(smoke(args.plan, random_weights=args.random_weights, **options))
    with imports_set_aside():
        from ftsgd_plugin.sweep.driver import sweep

    options |= dict(keep_checkpoints=args.keep_checkpoints, ray_nodes=args.ray_nodes, halving=args.halving)
    failures = sweep(args.plan, **options)
    if failures:
        sys.exit(1)


if __name__ == '__main__':
    main()
