"""Evaluate a checkpoint: every split and group of the benchmark in one pass.

python tools/test.py CONFIG CHECKPOINT
python tools/test.py CONFIG CHECKPOINT --out metrics.json --out-item metrics
python tools/test.py CONFIG CHECKPOINT --wilds-predictions predictions
bash tools/dist_test.sh CONFIG CHECKPOINT 8
"""

# isort: off
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
import os
from pathlib import Path

import mmengine
from mmengine.evaluator import DumpResults

from ftsgd_plugin.evaluation.wilds import WildsPredictions
from ftsgd_plugin.runner.build import build_runner, load_config
from ftsgd_plugin.runner.process_group import leave_group
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.options import add_common_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file that training wrote')
    parser.add_argument('--out', help='file for predictions (.pkl) or metrics (.json)')
    parser.add_argument('--out-item', choices=['metrics', 'pred'], default='pred', help='what --out receives')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument(
        '--wilds-predictions',
        metavar='DIR',
        help='write the prediction files of the WILDS leaderboard and print the official numbers of the wilds package',
    )
    add_common_options(parser)
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    if args.out and args.out_item == 'pred' and not args.out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {args.out}: predictions are written as .pkl; use that suffix or --out-item metrics.')
    if args.out and args.out_item == 'metrics' and not args.out.endswith(('.json', '.yaml', '.yml', '.pkl')):
        raise UserError(f'--out {args.out}: metrics are written as .json, .yaml or .pkl; use such a suffix.')
    if args.out and not Path(args.out).absolute().parent.is_dir():
        raise UserError(f'--out {args.out}: there is no such folder; make it first.')
    cfg = load_config(
        args.config,
        dict(pin_memory=True, collate_fn=dict(type='default_collate')),
        work_dir=args.work_dir,
        cfg_options=args.cfg_options,
        launcher=args.launcher,
        local_rank=args.local_rank,
        pin_memory=not args.no_pin_memory,
    )
    cfg.load_from = args.checkpoint
    if args.amp:
        cfg.test_cfg.fp16 = True
    runner = build_runner(cfg)
    if args.out and args.out_item == 'pred':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    if args.wilds_predictions:
        dataset = runner.test_dataloader.dataset
        predictions = WildsPredictions(getattr(dataset, 'datasets', [dataset]), args.wilds_predictions, runner.seed)
        runner.test_evaluator.metrics.append(predictions)
    metrics = runner.test()
    if args.out and args.out_item == 'metrics' and runner.rank == 0:
        unfinished = Path(args.out).with_name(f'.{Path(args.out).name}.tmp{Path(args.out).suffix}')
        mmengine.dump(metrics, str(unfinished))
        os.replace(unfinished, args.out)
    leave_group()


if __name__ == '__main__':
    main()
