"""The demo's training by the Runner, sharded over the ranks of a group or whole in one process."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ftsgd_plugin.checkpoint.parts import read_parts, writer
from ftsgd_plugin.optim import ShardedDataParallel
from ftsgd_plugin.optim.sharding.values import full_values
from ftsgd_plugin.runner.build import build_runner
from helpers.chain import Chain
from helpers.digits import load_digits_config

DIGITS, BATCH = 'digits_root', 32


def train(digits_root: Path, work_dir: Path, rank: int | None, wrapper: Mapping | None = None, **options):
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
        cfg.model_wrapper_cfg = dict(type='ShardedDataParallel', **(wrapper or {}))
    runner = build_runner(cfg)
    runner.train()
    return runner


PARTS = ('parts', 'parts-in-background')


def train_sharded(rank: int, directory: Path) -> None:
    """Train on the ranks of this group; the directory names the digits and receives the work directory ``run``."""
    digits_root = Path((directory / DIGITS).read_text())
    runner = train(digits_root, directory / 'run', rank)
    held = {name: tuple(param.to_local().shape) for name, param in runner.model.module.named_parameters()}
    torch.save(held, directory / f'{rank}.pt')
    for kind in PARTS:
        keep = {'default_hooks.checkpoint.max_keep_ckpts': 1, 'experiment_name': kind}
        train(digits_root, directory / kind, rank, dict(checkpoints=kind), **keep)
    torch.save(copies_are_taken_at_once(directory / 'copied'), directory / f'copied_{rank}.pt')


def copies_are_taken_at_once(directory: Path) -> bool:
    """Whether what is written in the background is what the weights were when it began."""
    from torch.distributed.checkpoint import async_save

    model = ShardedDataParallel(Chain())
    model.shard()
    before = full_values(dict(model.module.named_parameters()))
    values = {name: param.detach() for name, param in model.module.named_parameters()}
    group = torch.distributed.new_group(backend='gloo')
    future = async_save(values, storage_writer=writer(directory), process_group=group)
    with torch.no_grad():
        for param in model.module.parameters():
            param.fill_(7.0)
    future.result()
    if torch.distributed.get_rank() != 0:
        return True
    read = read_parts(directory)
    return all(torch.equal(read[name], value) for name, value in before.items())
