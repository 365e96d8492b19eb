"""Training a tiny ViT by every method part of the configs, alone or on several ranks."""

import logging
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import PARAM_SCHEDULERS

from ftsgd_plugin.hooks import PhaseEndHook
from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim import GradualUnfreezingLR, InBackwardDataParallel
from helpers import ROOT
from helpers.small_models import batch, loss_of, small_classifier, trained

EPOCHS, PER_EPOCH, GLOBAL_BATCH = 4, 3, 8
LR = {'adamw': 1e-3, 'adamw-freeze-embed': 1e-3, 'gradual-unfreezing': 3e-4}
METHODS = ['sgd', 'adamw', 'freeze-embed', 'adamw-freeze-embed', 'freeze-embed-no-momentum', 'gradual-unfreezing']
IN_BACKWARD = ['sgd-in-backward', 'sgd-in-backward gradually']
PHASES = [  # opens, closes and opens again
    dict(layers=['head', 'blocks.2'], length='1 epoch', lr_mult={'head': 0.5}),
    dict(layers='blocks.1.mlp', close='blocks.2', length='1 epoch', lr=[2, 1]),
    dict(only=['blocks.1', 'blocks.2'], close='head', length='25%'),
    dict(layers='rest'),
]
RUNS = [(method, accumulate) for method in METHODS for accumulate in (1, 2)] + [(name, 1) for name in IN_BACKWARD]
RUNS += [('freeze-embed in phases', 2)]


def dtype_of(method: str) -> torch.dtype:
    """Adam divides by the size of the gradient: rounding noise becomes a full step where the exact gradient is zero."""
    return torch.float64 if method.startswith('adamw') else torch.float32


def train(method: str, accumulate: int, rank: int = 0, world: int = 1) -> dict:
    """Train with the method's config part; return the weights after every step, and what the ranks must agree on."""
    init_default_scope('mmpretrain')
    part = Config.fromfile(ROOT / f'configs/_base_/methods/{method.split()[0]}.py')
    inner = small_classifier('vit-b16').to(dtype_of(method))
    model = inner
    if world > 1:
        in_backward = part.optim_wrapper.type == 'SGDInBackwardOptimWrapper'
        model = InBackwardDataParallel(inner) if in_backward else MMDistributedDataParallel(inner, device_ids=None)
    cfg = part.optim_wrapper
    cfg.optimizer.lr = LR.get(method, 1e-2)
    if accumulate > 1:
        cfg.accumulative_counts = accumulate
    optim_wrapper = build_optim_wrapper(model, cfg)
    scheduler_cfg = dict(part.param_scheduler, end=EPOCHS)
    if method.endswith('gradually'):
        scheduler_cfg = dict(type='GradualUnfreezingLR', end=EPOCHS)
    if method.endswith('in phases'):
        scheduler_cfg = dict(type='GradualUnfreezingLR', end=EPOCHS, schedule=PHASES)
    scheduler = PARAM_SCHEDULERS.build(scheduler_cfg, default_args=dict(optimizer=optim_wrapper))
    optim_wrapper.initialize_count_status(model, 0, EPOCHS * PER_EPOCH)
    alive = [0]
    if hasattr(optim_wrapper, 'observe_gradients'):
        optim_wrapper.observe_gradients(lambda *_: alive.append(_gradient_bytes(inner)))
    weights, phases = [], []
    model.train()
    for iteration in range(EPOCHS * PER_EPOCH):
        images, labels = (part[rank::world] for part in batch('vit-b16', iteration, GLOBAL_BATCH))
        phases.append(sorted(trained(inner)))
        with optim_wrapper.optim_context(model):
            loss = loss_of(model, images.to(dtype_of(method)), labels)
        optim_wrapper.update_params(loss)
        weights.append(torch.cat([param.detach().flatten() for param in inner.parameters()]))
        if iteration % PER_EPOCH == PER_EPOCH - 1:
            evaluate(model, 'vit-b16', iteration, dtype_of(method))
            scheduler.step()
    largest = max(layer.num_bytes for layer in list_layers(inner))
    return {'weights': torch.stack(weights), 'phases': phases, 'alive': max(alive), 'largest': largest}


@torch.no_grad()
def evaluate(model: torch.nn.Module, name: str, step: int, dtype: torch.dtype) -> float:
    """The loss of a model in eval mode on the whole batch of a step."""
    model.eval()
    images, labels = batch(name, step, GLOBAL_BATCH)
    loss = float(loss_of(model, images.to(dtype), labels))
    model.train()
    return loss


def _gradient_bytes(model) -> int:
    return sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)


def train_every_method(rank: int, directory: Path) -> None:
    """All of ``RUNS``; saves what :func:`train` returns."""
    world = torch.distributed.get_world_size()
    found = {run: train(*run, rank, world) for run in RUNS}
    torch.save({**found, 'ends': end_a_phase(rank)}, directory / f'{rank}.pt')


def end_a_phase(rank: int) -> list[dict]:
    """The decision of ranks that were told different scores; rank 0's end the phase after the third."""
    schedule = [dict(layers='head', length='5 steps', patience=2, restore_best=True), dict(layers='rest')]
    wrapper = build_optim_wrapper(
        small_classifier('vit-b16'),
        dict(optimizer=dict(type='SGD', lr=0.1), constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor'),
    )
    scheduler = GradualUnfreezingLR(wrapper, end=8, by_epoch=False, schedule=schedule)
    runner = SimpleNamespace(
        _train_loop=object.__new__(EpochBasedTrainLoop),
        param_schedulers=[scheduler],
        optim_wrapper=wrapper,
        model=small_classifier('vit-b16'),
        logger=logging.getLogger(),
    )
    hook = PhaseEndHook()
    for step in range(4):
        scheduler.step()
        hook.after_val_epoch(runner, {'id/accuracy': [0.5, 0.4, 0.3, 0.2][step] if rank == 0 else 0.1 * step})
    return [*scheduler.ended, {'open': scheduler.open_blocks, 'saved': hook._best['step']}]
