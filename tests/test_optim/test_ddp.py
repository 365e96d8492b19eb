"""Freezing under DistributedDataParallel: two gloo processes against one."""

import pytest
import torch
from helpers.chain import Chain
from helpers.ddp_phases import PHASES, STEPS_PER_PHASE, train, train_every_case
from helpers.ranks import run_two_ranks

pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp('ddp')
    run_two_ranks(train_every_case, directory)
    return directory


@pytest.mark.parametrize('accumulate', [1, 2])
def test_ranks_stay_equal_and_equal_one_process_through_every_change(directory, accumulate):
    ranks = [torch.load(directory / f'{accumulate}_{rank}.pt', weights_only=True) for rank in range(2)]
    alone = train(Chain(), 0, 1, accumulate)
    for step, (first, second, expected) in enumerate(zip(*ranks, alone)):
        assert torch.equal(first, second), f'ranks differ after step {step}'
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-6)


def test_the_phases_change_what_trains():
    history = train(Chain(), 0, 1, 1)
    stem = [weights[:72] for weights in history]
    moved = [not torch.equal(stem[i], stem[i - 1]) for i in range(1, len(stem))]
    assert moved == [False] * 3 + [True] * 4 + [False] * 8


def test_communication_hook_keeps_reducing_exactly_what_trains(directory):
    history, seen = torch.load(directory / 'hooked_0.pt', weights_only=True)
    stem, block, head = 8 * 9, 8 * 9, 3 * 9
    trained = [2 * block + head, stem + 2 * block + head, head, 2 * block + head]
    assert [size for size, _ in seen] == [size for size in trained for _ in range(STEPS_PER_PHASE)]
    for step, (found, expected) in enumerate(zip(history, train(Chain(), 0, 1, 1))):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=f'after step {step}')


def test_buckets_count_as_not_rebuilt_after_every_change(directory):
    """DDP rebuilds them once, in the second forward pass of a reducer; torch's ZeRO hooks wait for that."""
    _, seen = torch.load(directory / 'hooked_0.pt', weights_only=True)
    assert [rebuilt for _, rebuilt in seen] == [False, True, True, True] * len(PHASES)


def test_static_graph_trains_with_what_was_frozen_before_the_first_step(directory):
    ranks = [torch.load(directory / f'static_{rank}.pt', weights_only=True)[0] for rank in range(2)]
    alone = train(Chain(), 0, 1, 1, ['embed'])
    for step, (first, second, expected) in enumerate(zip(*ranks, alone, strict=True)):
        assert torch.equal(first, second), f'ranks differ after step {step}'
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-6)


def test_static_graph_refuses_a_later_change(directory):
    _, refusal = torch.load(directory / 'static_1.pt', weights_only=True)
    assert refusal.startswith('model_wrapper_cfg.static_graph: what trains has changed') and '\n' not in refusal
