"""Fine-tune a classifier.

python tools/train.py configs/vit-tiny_freeze-embed_digits.py
python tools/train.py CONFIG --work-dir runs/a --cfg-options optim_wrapper.optimizer.lr=3e-4 randomness.seed=1
python tools/train.py CONFIG --resume                 # from the last checkpoint of the work directory
bash tools/dist_train.sh CONFIG 8                     # 8 processes on this machine
bash tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR
"""

import argparse

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside
from ftsgd_plugin.utils.options import add_common_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const=True,
        default=False,
        metavar='PATH',
        help='resume from PATH; without PATH or with "auto" from the latest checkpoint in the work directory',
    )
    parser.add_argument(
        '--resume-settings',
        choices=['same', 'config'],
        help="if the config's optimizer settings or schedules (a longer run) differ from the checkpoint's: refuse "
        "(same, the default), or continue with the config's from the checkpoint's position on (config)",
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision (needs a GPU)')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size (auto_scale_lr)'
    )
    parser.add_argument('--no-persistent-workers', action='store_true', help='restart data workers every epoch')
    add_common_options(parser)
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    with imports_set_aside():
        from ftsgd_plugin.runner.process_group import leave_group
        from ftsgd_plugin.runner.run import train

    train(
        args.config,
        resume=args.resume,
        resume_settings=args.resume_settings,
        amp=args.amp,
        validate=not args.no_validate,
        auto_scale_lr=args.auto_scale_lr,
        persistent_workers=not args.no_persistent_workers,
        work_dir=args.work_dir,
        cfg_options=args.cfg_options,
        launcher=args.launcher,
        local_rank=args.local_rank,
        pin_memory=not args.no_pin_memory,
    )
    leave_group()


if __name__ == '__main__':
    main()
