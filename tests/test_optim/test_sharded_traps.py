"""Traps of sharded training, each on the installed torch: two ranks against one process, and refusals."""

import pytest
import torch
from helpers.chain import Chain
from helpers.ranks import run_two_ranks
from helpers.sharded_traps import CASES, meet_every_trap, prepare
from torch import nn

from ftsgd_plugin.optim import ShardedDataParallel
from ftsgd_plugin.optim.ddp import follow_trained_parameters
from ftsgd_plugin.optim.sharding.wrapper import _replace_parameters
from ftsgd_plugin.utils.errors import UserError

pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp('traps')
    run_two_ranks(meet_every_trap, directory)
    return directory


@pytest.fixture(scope='module')
def ranks(directory):
    return [torch.load(directory / f'{rank}.pt', weights_only=True) for rank in range(2)]


def close(found: dict, expected: dict, **tolerance) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=lambda text, key=key: f'{key}: {text}', **tolerance)


@pytest.mark.parametrize('case, tolerance', [
    ('opens later', 2e-2), ('opens after an evaluation', 2e-2), ('opens after an evaluation in float32', 1e-6),
    ('opens after an evaluation that keeps its graph', 1e-6),
])  # fmt: skip
def test_what_is_frozen_first_and_opens_later_is_reduced_in_float32(ranks, case, tolerance):
    """pytorch#186998: torch would reduce the gradients of such a unit in bfloat16, and fail.

    After an evaluation it leaves the outermost unit whole, and would not see what opens there.
    """
    first, second = (rank[case] for rank in ranks)
    alone = CASES[case](None)
    assert first['dtypes'] == second['dtypes'] == ['torch.float32']
    mean = (torch.tensor(first['losses']) + torch.tensor(second['losses'])) / 2
    torch.testing.assert_close(mean, torch.tensor(alone['losses']), rtol=tolerance, atol=tolerance)
    close(first['weights'], alone['weights'], rtol=5 * tolerance, atol=tolerance)


@pytest.mark.parametrize('case', ['clipped', 'clipped by value'])
def test_clipping_is_that_of_one_process(ranks, case):
    """pytorch#148532: with parameters on the CPU."""
    first, second, alone = ranks[0][case], ranks[1][case], CASES[case](None)
    close(first['weights'], alone['weights'], rtol=1e-5, atol=1e-6)
    if case == 'clipped':
        assert first['norms'] == second['norms'] == pytest.approx(alone['norms'], rel=1e-5)
        assert min(alone['norms']) > 0.1


def test_state_of_what_opens_and_closes_survives_saving(ranks):
    """pytorch#192202: torch's state dict functions drop it, or ask for state that does not exist."""
    found, alone = ranks[0]['closes'], CASES['closes'](None)
    for key, expected in alone.items():
        assert sorted(found[key]) == sorted(expected)
        close(found[key], expected, rtol=1e-5, atol=1e-6)
    for key in ('head_only', 'everything'):
        close(found[f'{key} loaded'], found[key], rtol=0, atol=0)
    assert len(alone['head_only']) == 2 and len(alone['everything']) == 8


def test_sgd_without_momentum_has_no_state_after_loading(ranks):
    """pytorch#192225: torch's state dict functions make up empty entries."""
    for rank in ranks:
        assert rank['no momentum'] == {'saved': {}, 'loaded': {}}


@pytest.mark.parametrize('case', ['bad rank', 'bad rank, in backward'])
def test_a_bad_value_of_one_rank_is_an_update_on_none(ranks, case):
    """A loss; then the part of one gradient that only rank 1 has."""
    for rank in ranks:
        assert rank[case]['outcomes'] == [False, False, True, True]
    close(ranks[0][case]['after_nan'], CASES[case](None)['after_nan'], rtol=1e-5, atol=1e-6)


def test_whole_weights_load_into_a_divided_model(ranks):
    """As of ``runner.load_checkpoint`` after training: MMEngine would load nothing, with a warning."""
    found, alone = ranks[0]['loads'], CASES['loads'](None)
    for key in ('mmengine', 'torch'):
        close(found[key], alone[key], rtol=0, atol=0)
    close(found['trained'], alone['trained'], rtol=1e-5, atol=1e-6)
    assert found['misfits'] == alone['misfits'] and len(alone['misfits']) == 3


def test_a_part_goes_to_the_device_of_the_weight(ranks):
    """With ``cpu_offload`` that is the CPU, and torch divides on the device of the mesh."""
    assert [rank['device of a part'] for rank in ranks] == ['meta', 'meta']


def test_norms_are_those_of_whole_tensors(ranks):
    for rank in ranks:
        close(rank['norms'], CASES['norms'](None), rtol=1e-5, atol=1e-6)


def test_a_missing_gradient_of_one_rank_is_one_line(directory):
    lost, line = ((directory / f'missing_{rank}.txt').read_text() for rank in range(2))
    assert line.startswith('UserError: blocks.1.bias trains and got no gradient in this step on rank 1; ')
    assert '\n' not in line and lost.startswith('RuntimeError: ')


def test_a_block_that_is_left_out_is_one_line(ranks):
    for number, rank in enumerate(ranks):
        expected = f'UserError: blocks.1 was not computed in this step on rank {number}; '
        assert rank['block left out'].startswith(expected) and '\n' not in rank['block left out']


@pytest.mark.parametrize(
    'options, wrapper, message',
    [
        ({}, dict(optimizer=dict(type='Adagrad', lr=0.1)), "optimizer.type='Adagrad', which may need whole tensors"),
        ({}, dict(clip_grad=dict(max_norm=1, norm_type=1)), 'clip_grad.norm_type=1: torch takes the norm'),
        (
            dict(cpu_offload=True),
            dict(type='mmpretrain.SGDInBackwardOptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
            'cpu_offload=True cannot be combined with SGDInBackwardOptimWrapper',
        ),
        (dict(mixed_precision='half'), {}, "mixed_precision='half': param_dtype='half' is not"),
        (dict(mixed_precision=dict(dtype='bfloat16')), {}, "dtype='bfloat16' is not param_dtype or reduce_dtype"),
        (dict(mixed_precision='float16'), {}, "param_dtype='float16' is not"),  # nothing scales the loss
        (dict(mixed_precision=True), {}, 'param_dtype=True is not'),
        (dict(cpu_offload='no'), {}, "cpu_offload='no' is neither True nor False"),
    ],
)
def test_what_does_not_work_on_parts_is_refused_before_the_model_is_divided(options, wrapper, message):
    with pytest.raises(UserError) as refused:
        prepare(0, options, **wrapper)
    assert message in str(refused.value) and '\n' not in str(refused.value)


def test_a_parameter_shared_between_units_is_refused():
    model = Chain()
    model.blocks[1].weight = model.blocks[0].weight
    with pytest.raises(UserError, match=r'blocks\.1\.weight and blocks\.0\.weight are one parameter in two parts'):
        ShardedDataParallel(model).shard()


@pytest.mark.parametrize('divided', [False, True])
def test_an_optimizer_of_other_parameters_is_refused(monkeypatch, divided):
    """As one is that was built before an evaluation divided the model: it would train nothing without a word."""
    monkeypatch.setattr(ShardedDataParallel, 'is_sharded', divided)
    with pytest.raises(UserError, match='the optimizer trains parameters that the model does not have'):
        ShardedDataParallel(Chain()).shard(torch.optim.SGD(Chain().parameters(), lr=0.1))


def test_batch_norms_are_refused_where_they_would_count_twice():
    model = Chain()
    model.blocks[1] = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    with pytest.raises(UserError, match=r'the batch norms in blocks\.1 would count every batch twice'):
        ShardedDataParallel(model, activation_checkpointing=True).shard()


def test_the_step_counts_of_a_fused_optimizer_go_to_the_device_of_the_weights():
    whole, part = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, device='meta'))
    optimizer = torch.optim.AdamW([whole], fused=True)
    part.to_local = lambda: part
    optimizer.state[whole] = {'step': torch.tensor(3.0)}
    _replace_parameters(optimizer, {whole: part})
    assert optimizer.state[part]['step'].device == part.device


def test_a_step_of_a_model_that_nothing_has_divided_is_refused():
    with pytest.raises(UserError, match=r"add custom_hooks=\[dict\(type='ShardingHook'\)\]"):
        ShardedDataParallel(Chain()).train_step({}, None)


def test_deepspeed_and_fsdp1_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    for kind in ('DeepSpeedEngine', 'MMDeepSpeedEngineWrapper', 'MMFullyShardedDataParallel'):
        wrapped = type(kind, (nn.Sequential,), {})()
        wrapped.module = Chain()
        with pytest.raises(UserError) as refused:
            follow_trained_parameters(wrapped, wrapped.module)
        assert f'under {kind} is not supported' in str(refused.value) and 'ShardedDataParallel' in str(refused.value)
