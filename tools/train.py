"""Fine-tune a classifier.

python tools/train.py configs/vit-tiny_freeze-embed_digits.py
python tools/train.py CONFIG --work-dir runs/a --cfg-options optim_wrapper.optimizer.lr=3e-4 randomness.seed=1
python tools/train.py CONFIG --resume                 # from the last checkpoint of the work dir
bash tools/dist_train.sh CONFIG 8                     # 8 processes on this machine
bash tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR
"""

import argparse

from ftsgd_plugin.checkpoint.io import latest_checkpoint
from ftsgd_plugin.runner.build import build_runner, load_config
from ftsgd_plugin.runner.process_group import leave_group
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.options import add_common_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='resume from PATH, or from the latest checkpoint in the work dir',
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
    defaults = dict(
        pin_memory=True,
        persistent_workers=not args.no_persistent_workers,
        collate_fn=dict(type='default_collate'),
    )
    cfg = load_config(
        args.config,
        defaults,
        work_dir=args.work_dir,
        cfg_options=args.cfg_options,
        launcher=args.launcher,
        local_rank=args.local_rank,
        pin_memory=not args.no_pin_memory,
        persistent_workers=not args.no_persistent_workers,
    )
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.default_hooks.checkpoint.pop('save_best', None)
    if args.amp:
        if cfg.optim_wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UserError(f'--amp cannot be combined with optim_wrapper.type={cfg.optim_wrapper.type!r}; drop one.')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.resume is not None:
        latest = latest_checkpoint(cfg.work_dir) if args.resume == 'auto' else args.resume
        cfg.resume = latest is not None
        cfg.load_from = latest or cfg.get('load_from')  # nothing to resume yet: start as the config says
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise UserError(f'{args.config}: --auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) there.')
        cfg.auto_scale_lr.enable = True
    build_runner(cfg).train()
    leave_group()


if __name__ == '__main__':
    main()
