"""Evaluate a checkpoint: every split and group of the benchmark in one pass.

python tools/test.py CONFIG CHECKPOINT
python tools/test.py CONFIG CHECKPOINT --out metrics.json --out-item metrics
python tools/test.py CONFIG CHECKPOINT --wilds-predictions predictions
bash tools/dist_test.sh CONFIG CHECKPOINT 8
"""

import argparse

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside
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
    with imports_set_aside():
        from ftsgd_plugin.runner.process_group import leave_group
        from ftsgd_plugin.runner.run import test

    test(
        args.config,
        args.checkpoint,
        out=args.out,
        out_item=args.out_item,
        amp=args.amp,
        wilds_predictions=args.wilds_predictions,
        work_dir=args.work_dir,
        cfg_options=args.cfg_options,
        launcher=args.launcher,
        local_rank=args.local_rank,
        pin_memory=not args.no_pin_memory,
    )
    leave_group()


if __name__ == '__main__':
    main()
