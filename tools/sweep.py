"""Run a plan: methods x models x datasets x learning rates x seeds, each run a process with a folder of its own.

    python tools/sweep.py configs/sweeps/paper.py --dry-run                  # what it would run, GPU-hours, disk
    python tools/sweep.py configs/sweeps/paper.py --out work_dirs/paper      # Ray on this machine, no set-up
    python tools/sweep.py PLAN --out SHARED_FOLDER --address 10.0.0.1:6379   # a Ray cluster
    python tools/sweep.py PLAN --out SHARED_FOLDER --slurm DIR               # writes DIR/sweep.sh for sbatch

The same command again goes on: finished runs are kept, failed and killed ones resumed from their checkpoint, runs whose
config has changed are run anew (the old folder moves to OUT/replaced). Each run leaves OUT/runs/NAME/record.json. The
weights of a finished run are deleted unless --keep-checkpoints is given. Exit code 1 if a run has failed.
"""

# isort: off
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
import math
import os
import sys
from pathlib import Path

from ftsgd_plugin.sweep.cost import TFLOPS
from ftsgd_plugin.sweep.driver import describe, failures_text, run_one, run_sweep
from ftsgd_plugin.sweep.plan import claim_folder, read_plan
from ftsgd_plugin.sweep.runs import look_at, survey
from ftsgd_plugin.sweep.slurm import write_script
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.options import add_cfg_options


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive whole number')
    return int(text)


def _gpus(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not between 0 and 1; a run uses at most one GPU')
    return value


def _tflops(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive number')
    return value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('plan', metavar='PLAN', help='plan file, e.g. configs/sweeps/paper.py')
    parser.add_argument('--out', help='folder of the sweep (default: work_dirs/PLAN_NAME)')
    parser.add_argument(
        '--dry-run', action='store_true', help='list the runs with predicted GPU-hours and disk; no run'
    )
    parser.add_argument(
        '--tflops', type=_tflops, default=TFLOPS, help='sustained TFLOP/s to predict with (default: 60)'
    )
    parser.add_argument('--address', help='a Ray cluster (default: start Ray on this machine)')
    parser.add_argument('--gpus-per-run', type=_gpus, help='0 to 1, may be a fraction (default: 1 if there are GPUs)')
    parser.add_argument('--cpus-per-run', type=_whole, help='CPU cores (default: 1, with a GPU up to 5)')
    parser.add_argument('--workers', type=_whole, help='most runs at a time (default: as many as there is room for)')
    parser.add_argument('--keep-checkpoints', action='store_true', help='keep the weights of finished runs')
    parser.add_argument('--slurm', metavar='DIR', help='write a Slurm array script into DIR and run nothing')
    parser.add_argument('--index', type=int, help='run this one run of the plan, here and without Ray')
    add_cfg_options(parser)
    return parser.parse_args()


def _without_slurm(words: list[str]) -> list[str]:
    """The command line that a task of the array gets."""
    kept = [word for word in words if not word.startswith('--slurm=')]
    if '--slurm' in kept:
        at = kept.index('--slurm')
        del kept[at : at + 2]
    return kept


@one_line_errors
def main() -> None:
    args = parse_args()
    plan = read_plan(args.plan)
    out = Path(args.out or os.path.join('work_dirs', Path(args.plan).stem))
    if args.dry_run:
        print(describe(survey(plan, out, args.cfg_options), out, args.tflops))
        return
    runs = plan.runs()
    if args.index is not None and not 0 <= args.index < len(runs):
        raise UserError(f'--index {args.index}: the plan has runs 0 to {len(runs) - 1}.')
    claim_folder(plan, out)
    if args.slurm:
        words = [os.path.abspath(__file__), *_without_slurm(sys.argv[1:])]
        script = write_script(args.slurm, runs, words, args.gpus_per_run, args.cpus_per_run)
        print(f'{len(runs)} runs; start them with: sbatch --partition=NAME --time=HH:MM:SS {script}')
        return
    if args.index is not None:
        task = look_at(plan, runs[args.index], out, args.cfg_options)
        failure = run_one(task, args.keep_checkpoints)
        print(f'{task.run.name}: {failure or "finished"}')
        sys.exit(bool(failure))
    failures = run_sweep(
        plan,
        out,
        args.cfg_options,
        args.address,
        args.gpus_per_run,
        args.cpus_per_run,
        args.workers,
        args.keep_checkpoints,
    )
    if failures:
        print(f'\n{failures_text(failures, out)}', file=sys.stderr)
        sys.exit(1)
    print(f'\nfinished: {out}')


if __name__ == '__main__':
    main()
