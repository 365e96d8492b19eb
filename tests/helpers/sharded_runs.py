"""Training a tiny ViT by every method part of the configs, sharded over several ranks or whole in one process."""

from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import PARAM_SCHEDULERS

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim import ShardedDataParallel
from ftsgd_plugin.optim.sharding.values import full_values
from ftsgd_plugin.optim.state import optimizer_state_bytes, tensor_bytes
from ftsgd_plugin.utils.local import local_value
from helpers import ROOT
from helpers.method_runs import GLOBAL_BATCH, LR, PHASES, evaluate
from helpers.method_runs import dtype_of as dtype_of_papers
from helpers.small_models import batch, loss_of, small_classifier, trained

STEPS, PER_EPOCH = 20, 5
METHODS = (
    *('sgd', 'adamw', 'freeze-embed', 'adamw-freeze-embed', 'freeze-embed-no-momentum', 'gradual-unfreezing'),
    *('sgd-in-backward', 'sgd-in-backward gradually', 'linear-probe', 'bitfit-norm'),
)


def dtype_of(method: str, name: str = 'vit-b16') -> torch.dtype:
    """As there, for all methods that divide by the size of the gradient, and for networks that amplify rounding."""
    return torch.float64 if method == 'bitfit-norm' or name.startswith('bit') else dtype_of_papers(method)


def build(
    method: str, model: torch.nn.Module, accumulate: int = 1, freeze: str | None = None, **options
) -> tuple[OptimWrapper, object]:
    """Optimizer wrapper and scheduler of a method's config part; ``options`` go to the optimizer wrapper."""
    init_default_scope('mmpretrain')
    part = Config.fromfile(ROOT / f'configs/_base_/methods/{method.split()[0]}.py')
    cfg = part.optim_wrapper
    cfg.optimizer.lr = LR.get(method, 1e-2)
    cfg.update(options)
    if accumulate > 1:
        cfg.accumulative_counts = accumulate
    if freeze is not None:
        cfg.paramwise_cfg['freeze'] = freeze
    optim_wrapper = build_optim_wrapper(model, cfg)
    scheduler_cfg = dict(part.param_scheduler, end=STEPS // PER_EPOCH)
    if method.endswith('gradually'):
        scheduler_cfg = dict(type='GradualUnfreezingLR', end=STEPS // PER_EPOCH)
    if method.endswith('in phases'):
        scheduler_cfg = dict(type='GradualUnfreezingLR', end=STEPS // PER_EPOCH, schedule=PHASES)
    scheduler = PARAM_SCHEDULERS.build(scheduler_cfg, default_args=dict(optimizer=optim_wrapper))
    optim_wrapper.initialize_count_status(model, 0, STEPS)
    return optim_wrapper, scheduler


def train(
    method: str, rank: int = 0, world: int = 1, wrapper: Mapping | None = None, name='vit-b16', steps=STEPS, **options
) -> dict:
    """Train; return losses (of this rank), the whole weights at the start and the end, and what this rank keeps.

    An evaluation comes before every step of the schedule: torch leaves its last unit whole, and what opens then must
    train all the same. Its losses are of the whole batch.

    Args:
        method: A method part, sharded if there are several ranks or ``wrapper`` is given.
        rank: This process.
        world: Number of processes.
        wrapper: Options of ``ShardedDataParallel``.
        name: One of the small models.
        steps: Number of iterations.
        **options: Of the optimizer wrapper, ``accumulate`` and ``freeze``.
    """
    inner = small_classifier(name).to(dtype_of(method, name))
    sharded = world > 1 or wrapper is not None
    model = ShardedDataParallel(inner, **(wrapper or {})) if sharded else inner
    optim_wrapper, scheduler = build(method, model, **options)
    start = {key: value.detach().clone() for key, value in inner.named_parameters()}
    if sharded:
        model.shard(optim_wrapper)
    losses, evaluated, phases, steps_kept = [], [], [], []
    model.train()
    for iteration in range(steps):
        images, labels = (part[rank::world] for part in batch(name, iteration, GLOBAL_BATCH))
        phases.append(sorted(trained(inner)))
        with optim_wrapper.optim_context(model):
            loss = loss_of(model, images.to(dtype_of(method, name)), labels)
        losses.append(float(loss))
        optim_wrapper.backward(optim_wrapper.scale_loss(loss))
        with_gradient = sorted(key for key, param in inner.named_parameters() if param.grad is not None)
        gradients = tensor_bytes(param.grad for param in inner.parameters() if param.grad is not None)
        if optim_wrapper.should_update():
            optim_wrapper.step()
            optim_wrapper.zero_grad()
        names = {param: key for key, param in inner.named_parameters()}
        steps_kept.append(
            dict(gradients=with_gradient, state=sorted(names[p] for p, s in optim_wrapper.optimizer.state.items() if s))
        )
        if iteration % PER_EPOCH == PER_EPOCH - 1:
            evaluated.append(evaluate(model, name, iteration, dtype_of(method, name)))
            scheduler.step()
    params = dict(inner.named_parameters())
    return dict(
        losses=losses,
        evaluated=evaluated,
        phases=phases,
        kept=steps_kept,
        start=start,
        weights=full_values(params) if sharded else {key: value.detach() for key, value in params.items()},
        bytes=dict(
            weights=tensor_bytes(params.values()),
            gradients=gradients,
            state=optimizer_state_bytes(optim_wrapper.optimizer),
        ),
        layers=[layer.name for layer in list_layers(model)],
        devices={str(local_value(param).device) for param in params.values()},
    )


def name_of(run: tuple) -> str:
    """A run of :func:`train_runs` in the ids of tests and the keys of results."""
    method, options = run
    return ' '.join([method, *(f'{key}={value}' for key, value in options.items())])


FAST = [
    ('gradual-unfreezing', dict(accumulate=2, wrapper=dict(activation_checkpointing=True, cpu_offload=True))),
    ('sgd-in-backward gradually', dict(freeze='none')),  # the embedding opens last, right after an evaluation
]
SLOW = [
    *[(method, {}) for method in METHODS],
    *[(method, dict(accumulate=2)) for method in METHODS if 'backward' not in method],
    *[('gradual-unfreezing in phases', options) for options in ({}, dict(accumulate=2))],
    *[('gradual-unfreezing', dict(freeze='none', accumulate=accumulate)) for accumulate in (1, 2)],
    *[
        (method, dict(wrapper=dict(reshard_after_forward=False), freeze='none'))
        for method in ('gradual-unfreezing', 'gradual-unfreezing in phases', 'sgd-in-backward gradually')
    ],
    *[('freeze-embed', dict(name=name, steps=4)) for name in ('clip-vit-b16', 'dino-vit-b16', 'convnext-b', 'bit-r50')],
    *[('freeze-embed', dict(wrapper=dict(reshard_after_forward=False))), ('adamw', dict(clip_grad=dict(max_norm=0.5)))],
]


def train_fast_runs(rank: int, directory: Path) -> None:
    """``FAST`` on the ranks of this group; saves what :func:`train` returns."""
    _train_runs(FAST, rank, directory)


def train_slow_runs(rank: int, directory: Path) -> None:
    """``SLOW`` likewise."""
    _train_runs(SLOW, rank, directory)


def _train_runs(runs: list[tuple], rank: int, directory: Path) -> None:
    world = torch.distributed.get_world_size()
    torch.save({name_of(run): train(run[0], rank, world, **run[1]) for run in runs}, directory / f'{rank}.pt')
