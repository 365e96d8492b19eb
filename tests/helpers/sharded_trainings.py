"""The demo's training by the Runner, sharded over the ranks of a group or whole in one process."""

from pathlib import Path

import torch

from ftsgd_plugin.runner.build import build_runner
from helpers.digits import load_digits_config

DIGITS, BATCH = 'digits_root', 32


def train(digits_root: Path, work_dir: Path, rank: int | None, **options):
    """Two epochs of 64 images with AdamW, one evaluation each; returns the runner."""
    world = 1 if rank is None else torch.distributed.get_world_size()
    cfg = load_digits_config(
        digits_root,
        'adamw-freeze-embed',
        64,
        **{
            'work_dir': str(work_dir),
            'train_dataloader.batch_size': BATCH // world,
            'train_dataloader.num_workers': 0,
            'val_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.persistent_workers': False,
            'train_cfg.max_epochs': 2,
            'optim_wrapper.optimizer.lr': 1e-4,
            'optim_wrapper.clip_grad': dict(max_norm=1.0),
            'default_hooks.logger.interval': 1,
            'default_hooks.checkpoint.max_keep_ckpts': -1,
            **options,
        },
    )
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='LayerGradNormHook', interval=1)]
    cfg.launcher = 'none' if rank is None else 'pytorch'
    if rank is not None:
        cfg.model_wrapper_cfg = dict(type='ShardedDataParallel')
    runner = build_runner(cfg)
    runner.train()
    return runner


def train_sharded(rank: int, directory: Path) -> None:
    """Train on the ranks of this group; the directory names the digits and receives the work directory ``run``."""
    digits_root = Path((directory / DIGITS).read_text())
    runner = train(digits_root, directory / 'run', rank)
    held = {name: tuple(param.to_local().shape) for name, param in runner.model.module.named_parameters()}
    torch.save(held, directory / f'{rank}.pt')
