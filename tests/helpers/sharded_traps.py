"""What goes wrong with sharded training elsewhere, each on a tiny chain; two ranks, or one process without sharding."""

import copy
import os
from pathlib import Path

import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy

from ftsgd_plugin.checkpoint.compatibility import misfits
from ftsgd_plugin.freezing import freeze_layers, select_layers
from ftsgd_plugin.layers import list_layers, weight_norms
from ftsgd_plugin.optim import ShardedDataParallel
from ftsgd_plugin.optim.finite import FiniteUpdates
from ftsgd_plugin.optim.layer_grad_norms import GradNormSums
from ftsgd_plugin.optim.sharding.values import full_values, part_of
from ftsgd_plugin.utils.errors import UserError
from helpers.chain import Chain, batch

CLOSED = ['stem', 'blocks.*']


def prepare(rank: int | None, options: dict | None = None, state: dict | None = None, **optim_wrapper):
    """A chain and its optimizer wrapper; sharded on a rank, whole if it is ``None``."""
    inner = Chain()
    model = inner if rank is None else ShardedDataParallel(inner, **(options or {}))
    optimizer = optim_wrapper.pop('optimizer', dict(type='SGD', lr=0.3, momentum=0.9, weight_decay=0.01))
    cfg = dict(
        optimizer=optimizer,
        constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
        paramwise_cfg=dict(freeze='none'),
        **optim_wrapper,
    )
    wrapper = build_optim_wrapper(model, cfg)
    if state is not None:
        wrapper.load_state_dict(state)
    if rank is not None:
        model.shard(wrapper)
    return inner, model, wrapper


def step(model: nn.Module, wrapper: OptimWrapper, number: int, rank: int | None, factor: float = 1.0) -> float:
    """One training step on this rank's half of a batch; returns the loss."""
    inputs, labels = batch(number) if rank is None else (part[rank::2] for part in batch(number))
    with wrapper.optim_context(model):
        loss = cross_entropy(model(inputs), labels) * factor
    wrapper.update_params(loss)
    return loss.item()


def weights(inner: nn.Module) -> dict:
    """The whole weights, on rank 0."""
    return full_values({name: param.detach().clone() for name, param in inner.named_parameters()})


def opens_later(
    rank: int | None, evaluated: bool = False, dtype: str | None = 'bfloat16', with_graph: bool = False
) -> dict:
    """Blocks are frozen in the first forward passes under mixed precision, and train afterwards (pytorch#186998)."""
    inner, model, wrapper = prepare(rank, dict(mixed_precision=dtype))
    freeze_layers(inner, select_layers(list_layers(inner), CLOSED))
    if evaluated:
        model.eval()
        with torch.set_grad_enabled(with_graph):
            model(batch(0)[0])
        model.train()
    losses, dtypes = [], set()
    for number in range(3 if evaluated else 0, 6):
        if number == 3:
            freeze_layers(inner, [])
        inputs, labels = batch(number) if rank is None else (part[rank::2] for part in batch(number))
        loss = cross_entropy(model(inputs), labels)
        losses.append(loss.item())
        wrapper.backward(loss)
        dtypes |= {str(param.grad.dtype) for param in inner.parameters() if param.grad is not None}
        wrapper.step()
        wrapper.zero_grad()
    return dict(losses=losses, dtypes=sorted(dtypes), weights=weights(inner))


def clipped(rank: int | None) -> dict:
    """Gradients are clipped by their norm where parameters lie on the CPU (pytorch#148532)."""
    inner, model, wrapper = prepare(rank, dict(cpu_offload=True), clip_grad=dict(max_norm=0.1))
    wrapper.message_hub, found = MessageHub.get_instance('clipped'), []
    for number in range(4):
        step(model, wrapper, number, rank)
        found.append(float(wrapper.message_hub.get_scalar('train/grad_norm').current()))
    return dict(norms=found, weights=weights(inner))


def clipped_by_value(rank: int | None) -> dict:
    """Gradients are clipped one by one."""
    inner, model, wrapper = prepare(rank, clip_grad=dict(type='value', clip_value=0.01))
    for number in range(4):
        step(model, wrapper, number, rank)
    return dict(weights=weights(inner))


def state_of_what_closes(rank: int | None) -> dict:
    """Layers that trained are closed, then the state is saved and loaded; and the other way round (pytorch#192202)."""
    inner, model, wrapper = prepare(rank)
    freeze_layers(inner, select_layers(list_layers(inner), CLOSED))
    step(model, wrapper, 0, rank)
    head_only = copy.deepcopy(full_values(wrapper.state_dict()))
    freeze_layers(inner, [])
    step(model, wrapper, 1, rank)
    freeze_layers(inner, select_layers(list_layers(inner), CLOSED))
    everything = copy.deepcopy(full_values(wrapper.state_dict()))
    results = dict(head_only=_buffers(head_only), everything=_buffers(everything))
    for name, saved in (('head_only', head_only), ('everything', everything)):
        gathered = [saved] if rank is None else _from_rank_0(saved)
        other, _, loaded = prepare(rank, state=gathered[0])
        if name == 'everything':
            freeze_layers(other, select_layers(list_layers(other), CLOSED))
        results[f'{name} loaded'] = _buffers(full_values(loaded.state_dict()))
    return results


def state_without_momentum(rank: int | None) -> dict:
    """SGD without momentum has no state before and after (pytorch#192225)."""
    sgd = dict(type='SGD', lr=0.1)
    _, model, wrapper = prepare(rank, optimizer=sgd)
    step(model, wrapper, 0, rank)
    saved = full_values(wrapper.state_dict())
    _, _, loaded = prepare(rank, state=saved, optimizer=sgd)
    return dict(saved=dict(saved['state']), loaded=dict(loaded.optimizer.state))


def bad_rank(rank: int | None, kind: str) -> dict:
    """The third loss of rank 1 is NaN; then one part of one gradient is."""
    sgd = dict(type='SGD', lr=0.1, weight_decay=0.01)
    inner, model, wrapper = prepare(rank, optimizer=sgd, type=kind)
    guard, outcomes = FiniteUpdates(wrapper, model), []
    for number in range(4):
        if number == 3 and rank == 1:  # the first row of the head's weight is rank 0's part: rank 1 alone sees no NaN
            inner.head.weight.register_post_accumulate_grad_hook(lambda param: param.grad.to_local().fill_(torch.nan))
        if number == 3 and 'Backward' in kind:
            wrapper.release()  # so that ours comes after the hook above
        step(model, wrapper, number, rank, torch.nan if number == 2 and rank in (1, None) else 1.0)
        outcomes.append(bool(guard.take()))
        if number == 2:
            after_nan = weights(inner)
    return dict(outcomes=outcomes, after_nan=after_nan)


def loads_whole_weights(rank: int | None) -> dict:
    """Weights of a checkpoint, by MMEngine and by torch, into a model that trains; then it trains on."""
    inner, model, wrapper = prepare(rank)
    found = {}
    for name, load in {'mmengine': load_state_dict, 'torch': nn.Module.load_state_dict}.items():
        step(model, wrapper, 0, rank)
        model.eval()
        model(batch(0)[0])
        model.train()
        saved = {key: value + len(name) for key, value in Chain().state_dict().items()}
        assert misfits(inner, saved) == [], 'what is loaded after training is compared with the divided model'
        load(inner if name == 'torch' else model, saved)
        found[name] = weights(inner)
        assert rank == 1 or all(torch.equal(found[name][key], value) for key, value in saved.items())
    step(model, wrapper, 1, rank)
    other = {**Chain().state_dict(), 'head.bias': torch.zeros(4), 'more': torch.zeros(1)}
    del other['stem.bias']
    return {**found, 'trained': weights(inner), 'misfits': list(map(str, misfits(inner, other)))}


def device_of_a_part() -> str:
    """Where a part of a tensor on the CPU is, if the weight is on another device than the mesh of the ranks."""
    inner, _, _ = prepare(0)
    weight = inner.head.weight
    meta = weight.to_local().to('meta')
    like = DTensor.from_local(meta, weight.device_mesh, weight.placements, shape=(3, 8), stride=(8, 1))
    return part_of(torch.ones(3, 8), like).to_local().device.type


def norms(rank: int | None) -> dict:
    """Norms of gradients and weights per layer."""
    _, model, wrapper = prepare(rank)
    layers = list_layers(model)
    inputs, labels = batch(0) if rank is None else (part[rank::2] for part in batch(0))
    wrapper.backward(cross_entropy(model(inputs), labels))
    return dict(weights=weight_norms(layers), gradients=GradNormSums(layers).measure()[1])


class LeavesOut(Chain):
    """The second block is left out."""

    def forward(self, x):
        return self.head(torch.tanh(self.blocks[0](torch.tanh(self.stem(x)))))


class NoBias(nn.Linear):
    """Rank 1 does not use the bias."""

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight, None if torch.distributed.get_rank() == 1 else self.bias)


def what_is_raised(inner: nn.Module) -> str:
    """Type and text of what a step of a sharded model raises."""
    model = ShardedDataParallel(inner)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    model.shard(optimizer)
    inputs, labels = batch(0)
    try:
        cross_entropy(model(inputs), labels).backward()
    except RuntimeError as error:
        return f'RuntimeError: {error}'
    except UserError as error:
        return f'UserError: {error}'
    return 'nothing'


def missing_gradient(block: int) -> str:
    """A parameter of a block has no gradient on rank 1; the other rank loses its peer."""
    inner = Chain()
    other = NoBias(8, 8)
    other.load_state_dict(inner.blocks[block].state_dict())
    inner.blocks[block] = other
    return what_is_raised(inner)


CASES = {
    'opens later': opens_later,
    'opens after an evaluation': lambda rank: opens_later(rank, evaluated=True),
    'opens after an evaluation in float32': lambda rank: opens_later(rank, evaluated=True, dtype=None),
    'opens after an evaluation that keeps its graph': lambda rank: opens_later(rank, True, None, with_graph=True),
    'loads': loads_whole_weights,
    'clipped': clipped,
    'clipped by value': clipped_by_value,
    'closes': state_of_what_closes,
    'no momentum': state_without_momentum,
    'bad rank': lambda rank: bad_rank(rank, 'OptimWrapper'),
    'bad rank, in backward': lambda rank: bad_rank(rank, 'mmpretrain.SGDInBackwardOptimWrapper'),
    'norms': norms,
}


def meet_every_trap(rank: int, directory: Path) -> None:
    """All of ``CASES``, then the one that ends the group."""
    results = {}
    for name, case in CASES.items():
        results[name] = case(rank)
    results['device of a part'] = device_of_a_part()
    results['block left out'] = what_is_raised(LeavesOut())
    torch.save(results, directory / f'{rank}.pt')
    torch.distributed.barrier()
    (directory / f'missing_{rank}.txt').write_text(missing_gradient(1))
    os._exit(0)  # the group is broken: no barrier at its end


def _buffers(state: dict) -> dict:
    return {index: values['momentum_buffer'] for index, values in state['state'].items()}


def _from_rank_0(value):
    held = [value]
    torch.distributed.broadcast_object_list(held, src=0)
    return held
