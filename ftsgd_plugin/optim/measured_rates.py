"""Measure the gradients of a run before its first update, and scale the learning rates by them once."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, broadcast_object_list, get_world_size
from mmengine.model import BaseModel
from mmengine.optim import BaseOptimWrapper
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..freezing import set_trainable
from ..layers import list_layers
from ..utils.errors import UserError
from ..utils.norms import stacked_norms
from .rates import GRADIENT, MEASURED, multipliers_of, sizes_of, stages_with_gradient

_LOSS_SCALE = 1024.0  # of half precision, whose small gradients would be zero; the ratios are the same
# What schedulers keep of the rates of an optimizer's groups, in their order.
_KEPT = ('base_values', '_last_value', '_outer', '_applied')


def groups_of(optimizer: BaseOptimWrapper | Optimizer) -> list[dict]:
    """The real groups of an optimizer; ``OptimWrapper.param_groups`` has an additional one."""
    return getattr(optimizer, 'optimizer', optimizer).param_groups


def is_unmeasured(optimizer: BaseOptimWrapper | Optimizer) -> bool:
    """Whether rates of groups wait for their measurement."""
    return any(MEASURED in group and group[MEASURED] is None for group in groups_of(optimizer))


def measured_lr_mult(groups: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Stage -> measured multiplier, from an optimizer's groups or those of its state; empty if none was measured."""
    return {_stage(group): group[MEASURED] for group in groups if group.get(MEASURED) is not None}


def _stage(group: Mapping[str, Any]) -> str:
    return group['role'] if group['block'] is None else f'blocks.{group["block"]}'


def require_measured(optimizer: Optimizer) -> None:
    """Refuse to update with rates that wait for their measurement: they would be those of SGD.

    Raises:
        UserError: Nothing has measured them.
    """
    if is_unmeasured(optimizer):
        raise UserError(
            "optim_wrapper.paramwise_cfg.lr_mult='gradient': nothing has measured the gradients; train by "
            "tools/train.py, or add custom_hooks=[dict(type='GradientRatesHook')] to the config."
        )


def refuse_unmeasured(optimizer: Optimizer) -> None:
    """:func:`require_measured` at every step of an optimizer whose rates are to be measured."""
    if is_unmeasured(optimizer):
        optimizer.register_step_pre_hook(_refuse)


def _refuse(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    require_measured(optimizer)


def scale_rates(
    optimizer: BaseOptimWrapper | Optimizer, schedulers: Iterable[Any], lr_mult: Mapping[str, float]
) -> None:
    """Multiply the learning rates of groups that wait for it, and what schedulers have kept of them.

    The present rate, the ``initial_lr`` and the schedulers' own copies are multiplied: a schedule continues as if
    the groups had had these rates from the start.

    Args:
        optimizer: Built with ``paramwise_cfg=dict(lr_mult='gradient')``.
        schedulers: Its schedulers of the learning rate; others are left alone.
        lr_mult: Stage -> multiplier, of :func:`ftsgd_plugin.optim.rates.gradient_lr_mult`; 1 for those it lacks.
    """
    factors = []
    for group in groups_of(optimizer):
        factor = 1.0
        if MEASURED in group and group[MEASURED] is None:
            factor = group[MEASURED] = float(lr_mult.get(_stage(group), 1.0))
            for key in ('lr', 'initial_lr'):
                if key in group:
                    group[key] *= factor
        factors.append(factor)
    for scheduler in schedulers:
        if getattr(scheduler, 'param_name', '') != 'lr':
            continue
        for name in _KEPT:
            values = getattr(scheduler, name, None)
            if isinstance(values, list):  # its last one may be of MMEngine's additional group
                values[: len(factors)] = [value * factor for value, factor in zip(values, factors)]


def measure_lr_mult(
    model: BaseModel,
    optim_wrapper: BaseOptimWrapper,
    loader: DataLoader,
    batches: int,
    accumulate: int = 1,
    seed: int = 0,
) -> dict[str, float]:
    """Multipliers from the gradients of the first batches of a run; nothing is updated.

    The protocol of the paper's section 3: per batch the norm of the gradient of the mean loss in training mode, then
    the mean over batches. Gradients are averaged over the ranks before their norm is taken, so that it is the norm of
    the run's own batch and all ranks have the same. Layers that a schedule has closed are measured too.
    Randomness, running statistics of norms and what trains are afterwards as before.

    Args:
        model: The model, not wrapped, with the weights of the start.
        optim_wrapper: The run's optimizer wrapper; its autocast is used.
        loader: The training data; read in this process, from the loop's position.
        batches: Number of batches in the means; fewer if the data has fewer.
        accumulate: Batches of the loader that make up one batch of the optimizer. Defaults to 1.
        seed: Of what is random in a step (dropout). Defaults to 0.

    Returns:
        dict: Stage -> multiplier, see :func:`ftsgd_plugin.optim.rates.gradient_lr_mult`.

    Raises:
        UserError: There is not a single complete batch, a gradient is not finite, the weights are sharded, or no block
            trains.
    """
    params = [param for group in groups_of(optim_wrapper) for param in group['params']]
    if any(hasattr(param, 'to_local') for param in params):
        raise UserError(
            "optim_wrapper.paramwise_cfg.lr_mult='gradient': the weights are sharded over the ranks; measure in one "
            'process (the multipliers are in its log) and set lr_mult to them.'
        )
    layers, sums, sizes, count = list_layers(model), {}, {}, 0
    with _undisturbed(model, params, seed):
        source = iter(_batches(loader))
        while count < batches:
            window = list(islice(source, accumulate))
            if len(window) < accumulate:
                break
            model.zero_grad()
            for batch in window:
                _loss(model, optim_wrapper, batch, len(window)).backward()
            stages = stages_with_gradient(layers)
            grads = [[param.grad for param in own] for own in stages.values()]
            if get_world_size() > 1:
                for grad in (grad for own in grads for grad in own):
                    all_reduce(grad, 'mean')
            for stage, norm in zip(stages, stacked_norms(grads).tolist()):
                sums[stage] = sums.get(stage, 0.0) + norm
            sizes.update(sizes_of(stages))
            count += 1
        model.zero_grad()
    if not count:
        raise UserError(f'lr_mult={GRADIENT!r}: the training data has no batch of this size; lower the batch size.')
    found = [multipliers_of({stage: total / count for stage, total in sums.items()}, sizes)]
    broadcast_object_list(found)  # a last bit of a reduction may differ by device
    return found[0]


def _loss(model: BaseModel, optim_wrapper: BaseOptimWrapper, batch: dict, parts: int) -> torch.Tensor:
    with optim_wrapper.optim_context(model):
        data = model.data_preprocessor(batch, True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
    return loss * (_LOSS_SCALE / parts)


def _batches(loader: DataLoader) -> Iterator[dict]:
    """The batches of a loader, read in this process: an iterator of its own would hold its workers."""
    if loader.batch_sampler is None:
        yield from loader
        return
    dataset = loader.dataset
    fetch: Callable[[Sequence[int]], list] = getattr(dataset, '__getitems__', lambda own: [dataset[i] for i in own])
    for indices in loader.batch_sampler:
        yield loader.collate_fn(fetch(indices))


@contextmanager
def _undisturbed(model: nn.Module, params: Sequence[nn.Parameter], seed: int) -> Iterator[None]:
    """Let everything in the optimizer train in training mode, and restore what a forward pass changes."""
    closed = [param for param in params if not param.requires_grad]
    mode, buffers = model.training, [(buffer, buffer.clone()) for buffer in model.buffers()]
    states = random.getstate(), np.random.get_state()
    set_trainable(closed, True)
    model.train()
    devices = list({param.device for param in params if param.is_cuda})
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        set_trainable(closed, False)
        model.train(mode)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
