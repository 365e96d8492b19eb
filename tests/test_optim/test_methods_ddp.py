"""Every method in 2 and 4 gloo processes against one with the same global batch, through three phase boundaries."""

import pytest
import torch
from helpers.method_runs import IN_BACKWARD, PER_EPOCH, RUNS, dtype_of, train, train_every_method
from helpers.ranks import start_ranks
from helpers.small_models import expected_names, small_classifier

from ftsgd_plugin.layers import list_layers

pytestmark = pytest.mark.multiprocess
BLOCK_1, BLOCK_2 = ([f'blocks.{i}.{part}' for part in ('norm1', 'attn', 'norm2', 'mlp')] for i in (1, 2))


@pytest.fixture(scope='module', params=[2, pytest.param(4, marks=pytest.mark.slow)], ids=lambda count: f'{count} ranks')
def ranks(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp('methods')
    start_ranks(train_every_method, directory, request.param)
    return [torch.load(directory / f'{rank}.pt', weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize('run', RUNS, ids=lambda run: f'{run[0]}-{run[1]}')
def test_processes_equal_one_and_each_other_after_every_step(ranks, run):
    first, *others = (rank[run] for rank in ranks)
    alone = train(*run)
    assert all(rank['phases'] == alone['phases'] for rank in (first, *others))
    tolerance = dict(rtol=1e-9, atol=1e-10) if dtype_of(run[0]) == torch.float64 else dict(rtol=2e-5, atol=2e-6)
    for step, (one, expected) in enumerate(zip(first['weights'], alone['weights'])):
        assert all(torch.equal(one, rank['weights'][step]) for rank in others), f'ranks differ after step {step}'
        torch.testing.assert_close(one, expected, **tolerance, msg=lambda text, step=step: f'step {step}: {text}')
    moved = (alone['weights'][-1] - alone['weights'][0]).abs().max()
    assert moved > 100 * tolerance['atol']


@pytest.mark.parametrize('run', [run for run in RUNS if 'gradual' in run[0]], ids=lambda run: f'{run[0]}-{run[1]}')
def test_the_gradual_runs_cross_three_boundaries_at_updates_only(ranks, run):
    model = small_classifier('vit-b16')
    accumulate = run[1]
    for iteration, names in enumerate(ranks[0][run]['phases']):
        window_start = iteration - iteration % accumulate
        assert set(names) == expected_names(model, window_start // PER_EPOCH)
    assert len({tuple(names) for names in ranks[0][run]['phases']}) == 4


@pytest.mark.parametrize('run', [run for run in RUNS if 'phases' in run[0]], ids=lambda run: f'{run[0]}-{run[1]}')
def test_phases_open_close_and_open_again_at_updates_only(ranks, run):
    names = {layer.name: layer for layer in list_layers(small_classifier('vit-b16'))}
    wanted = [['head', *BLOCK_2], ['head', 'blocks.1.mlp'], [*BLOCK_1, *BLOCK_2]]
    wanted.append(names.keys() - {'patch_embed'})
    for iteration, found in enumerate(ranks[0][run]['phases']):
        phase = (iteration - iteration % run[1]) // PER_EPOCH
        assert set(found) == {param for name in wanted[phase] for param in names[name].params}


def test_ranks_that_were_told_different_scores_end_a_phase_by_those_of_rank_0(ranks):
    row = {'phase': 0, 'step': 3, 'evaluations': 3, 'best': 0.5, 'best_step': 1}
    assert ranks[0]['ends'] == ranks[1]['ends'] == [row, {'open': 3, 'saved': 1}]


def test_in_backward_equals_ddp_with_sgd(ranks):
    for rank in ranks:
        ours, ddp = rank['sgd-in-backward', 1], rank['freeze-embed-no-momentum', 1]
        torch.testing.assert_close(ours['weights'], ddp['weights'], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('name', IN_BACKWARD)
def test_in_backward_keeps_one_layers_gradient_in_several_processes_too(ranks, name):
    for rank in ranks:
        assert 0 < rank[name, 1]['alive'] <= rank[name, 1]['largest']
