"""Schedules that open layers between evaluations, by the Runner: sharded over the ranks of a group, or whole."""

from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook

import helpers.scripted_score  # noqa: F401  registers ScriptedScore
from ftsgd_plugin.layers import unwrap
from ftsgd_plugin.optim.sharding.values import full_values
from ftsgd_plugin.runner.build import build_runner
from helpers.digits import load_digits_config
from helpers.small_models import trained

DIGITS, IMAGES, BATCH, EPOCHS = 'digits_root', 16, 8, 8
PHASES = [
    dict(layers=['head', 'blocks.5'], length='2 epochs', lr_mult={'head': 0.5}),
    dict(layers='blocks.4.mlp', close='blocks.5', length='2 epochs', lr=[2, 1]),
    dict(only=['blocks.4', 'blocks.5'], close='head', length='25%'),
    dict(layers='rest'),
]
ENDS = [  # by the scores: after epoch 2, and after epoch 5
    dict(layers='head', length='3 epochs', patience=1),
    dict(layers='blocks.*', length='4 epochs', patience=2),
    dict(layers='rest'),
]
SCORES = [0.6, 0.5, 0.7, 0.6, 0.5, 0.5, 0.4, 0.3]
RUNS: dict[str, dict[str, Any]] = {
    # Right after an evaluation the embedding opens, which torch keeps in the unit that it leaves whole.
    'ends by the metric': dict(schedule=ENDS),
    'one by one': {},
    'one by one, accumulating': dict(accumulate=3),
    'one by one, kept whole': dict(reshard_after_forward=False),
    'one by one, by iterations': dict(by_epoch=False),
    'phases': dict(schedule=PHASES),
    'phases, accumulating': dict(schedule=PHASES, accumulate=2),
    'ends by the metric, accumulating, kept whole': dict(schedule=ENDS, accumulate=2, reshard_after_forward=False),
}


class Witness(Hook):
    """Losses of this rank and what trains, step by step. It asks for no weights, which would divide the model again."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.phases: list[list[str]] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.phases.append(sorted(trained(unwrap(runner.model))))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses.append(float(outputs['loss']))


def train(
    digits_root: Path,
    work_dir: Path,
    rank: int | None,
    schedule: list | str = 'paper',
    accumulate: int = 1,
    by_epoch: bool = True,
    reshard_after_forward: bool = True,
    **options,
) -> dict:
    """Train, evaluate after every epoch, test, load the checkpoint of half the epochs and evaluate it.

    Returns:
        dict: What this rank has seen: losses, what trained, scores, weights at the end and of that checkpoint.
    """
    world = 1 if rank is None else torch.distributed.get_world_size()
    ends = schedule is ENDS
    cfg = load_digits_config(digits_root, 'gradual-unfreezing', IMAGES, work_dir=str(work_dir))
    cfg.train_dataloader.batch_size = BATCH // world
    cfg.train_cfg.max_epochs = EPOCHS
    cfg.optim_wrapper.update(accumulative_counts=accumulate)
    cfg.optim_wrapper.paramwise_cfg['freeze'] = 'none'
    cfg.optim_wrapper.optimizer.lr = 1e-2
    cfg.param_scheduler = dict(type='GradualUnfreezingLR', by_epoch=by_epoch, schedule=schedule)
    if schedule == 'paper':
        cfg.param_scheduler.update(decay=1.0, cooldown=1 if by_epoch else 2)
    if ends:
        cfg.val_evaluator = dict(type='ScriptedScore', scores=SCORES)
    cfg.default_hooks.checkpoint.update(save_best=None, max_keep_ckpts=-1, interval=EPOCHS // 2)
    cfg.merge_from_dict(options)
    cfg.launcher = 'none' if rank is None else 'pytorch'
    if rank is not None:
        cfg.model_wrapper_cfg = dict(type='ShardedDataParallel', reshard_after_forward=reshard_after_forward)
    runner = build_runner(cfg)
    witness = Witness()
    runner.register_hook(witness)
    runner.train()
    scores = runner.test()
    weights = weights_of(runner)
    runner.load_checkpoint(str(work_dir / f'epoch_{EPOCHS // 2}.pth'))
    half = weights_of(runner)
    ended = [row['step'] for row in runner.param_schedulers[0].ended]
    found = dict(losses=witness.losses, phases=witness.phases, weights=weights, scores=scores, ended=ended)
    return {**found, 'half': half, 'half_scores': runner.val()}


def weights_of(runner) -> dict[str, torch.Tensor]:
    """The whole weights, on rank 0."""
    return full_values({name: value.detach().clone() for name, value in unwrap(runner.model).named_parameters()})


def train_every_run(rank: int, directory: Path) -> None:
    """All of ``RUNS`` on the ranks of this group; the directory names the digits."""
    digits_root = Path((directory / DIGITS).read_text())
    found = {name: train(digits_root, directory / name, rank, **options) for name, options in RUNS.items()}
    torch.save(found, directory / f'{rank}.pt')
