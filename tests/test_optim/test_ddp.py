"""Freezing under DistributedDataParallel: two gloo processes against one."""

import pytest
import torch
import torch.multiprocessing as mp
from helpers.chain import Chain
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import cross_entropy

from ftsgd_plugin.freezing import freeze_layers, select_layers
from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.utils.errors import UserError

STEPS_PER_PHASE = 4
PHASES = ['embed', 'none', ['stem', 'blocks.*'], 'embed']  # frozen, everything trains, almost all frozen, frozen


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 8, generator=generator), torch.randint(3, (8,), generator=generator)


def train(model, rank: int, world: int, accumulate: int, phases=PHASES) -> list[torch.Tensor]:
    """Phases of freezing, one after the other; returns the weights after every step."""
    cfg = dict(
        optimizer=dict(type='SGD', lr=0.3, momentum=0.9, weight_decay=0.01),
        constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
        paramwise_cfg=dict(freeze='none'),
        accumulative_counts=accumulate,
    )
    inner = getattr(model, 'module', model)
    layers = list_layers(model)
    optim_wrapper = build_optim_wrapper(model, cfg)
    optim_wrapper.initialize_count_status(inner, 0, STEPS_PER_PHASE * len(phases))
    history = []
    for step in range(STEPS_PER_PHASE * len(phases)):
        if step % STEPS_PER_PHASE == 0:
            freeze_layers(model, select_layers(layers, phases[step // STEPS_PER_PHASE]))
        inputs, labels = (part[rank::world] for part in batch(step))
        with optim_wrapper.optim_context(model):
            loss = cross_entropy(model(inputs), labels)
        optim_wrapper.update_params(loss)
        history.append(torch.cat([param.detach().flatten() for param in inner.parameters()]))
    return history


def _worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    for accumulate in (1, 2):
        model = MMDistributedDataParallel(Chain(), device_ids=None, broadcast_buffers=False)
        torch.save(train(model, rank, 2, accumulate), f'{folder}/{accumulate}_{rank}.pt')
    hooked = MMDistributedDataParallel(Chain(), device_ids=None, broadcast_buffers=False)
    seen = []
    hooked.register_comm_hook((hooked, seen), _noting_allreduce)
    torch.save((train(hooked, rank, 2, 1), seen), f'{folder}/hooked_{rank}.pt')
    static = MMDistributedDataParallel(Chain(), device_ids=None, broadcast_buffers=False, static_graph=True)
    history, refusal = train(static, rank, 2, 1, ['embed']), None
    freeze_layers(static, [])
    try:
        static(batch(0)[0])
    except UserError as error:
        refusal = str(error)
    torch.save((history, refusal), f'{folder}/static_{rank}.pt')
    torch.distributed.destroy_process_group()


def _noting_allreduce(state, bucket):
    """torch's own reduction, noting how much was reduced and what DDP says about its buckets."""
    wrapper, seen = state
    seen.append((bucket.buffer().numel(), wrapper._has_rebuilt_buckets))
    return allreduce_hook(None, bucket)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ddp')
    mp.spawn(_worker, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize('accumulate', [1, 2])
def test_ranks_stay_equal_and_equal_one_process_through_every_change(folder, accumulate):
    ranks = [torch.load(folder / f'{accumulate}_{rank}.pt', weights_only=True) for rank in range(2)]
    alone = train(Chain(), 0, 1, accumulate)
    for step, (first, second, expected) in enumerate(zip(*ranks, alone)):
        assert torch.equal(first, second), f'ranks differ after step {step}'
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-6)


def test_the_phases_really_change_what_trains():
    history = train(Chain(), 0, 1, 1)
    stem = [weights[:72] for weights in history]
    moved = [not torch.equal(stem[i], stem[i - 1]) for i in range(1, len(stem))]
    assert moved == [False] * 3 + [True] * 4 + [False] * 8


def test_communication_hook_goes_on_reducing_exactly_what_trains(folder):
    history, seen = torch.load(folder / 'hooked_0.pt', weights_only=True)
    stem, block, head = 8 * 9, 8 * 9, 3 * 9
    trained = [2 * block + head, stem + 2 * block + head, head, 2 * block + head]
    assert [size for size, _ in seen] == [size for size in trained for _ in range(STEPS_PER_PHASE)]
    for step, (found, expected) in enumerate(zip(history, train(Chain(), 0, 1, 1))):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=f'after step {step}')


def test_buckets_count_as_not_rebuilt_after_every_change(folder):
    """DDP rebuilds them once, in the second forward pass of a reducer; torch's ZeRO hooks wait for that."""
    _, seen = torch.load(folder / 'hooked_0.pt', weights_only=True)
    assert [rebuilt for _, rebuilt in seen] == [False, True, True, True] * len(PHASES)


def test_static_graph_trains_with_what_was_frozen_before_the_first_step(folder):
    ranks = [torch.load(folder / f'static_{rank}.pt', weights_only=True)[0] for rank in range(2)]
    alone = train(Chain(), 0, 1, 1, ['embed'])
    for step, (first, second, expected) in enumerate(zip(*ranks, alone, strict=True)):
        assert torch.equal(first, second), f'ranks differ after step {step}'
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-6)


def test_static_graph_refuses_a_later_change(folder):
    _, refusal = torch.load(folder / 'static_1.pt', weights_only=True)
    assert refusal.startswith('model_wrapper_cfg.static_graph: what trains has changed') and '\n' not in refusal
