"""A loss of NaN on one rank is an update on none."""

import pytest
import torch
from helpers.finite_ranks import CASES, train_with_a_bad_rank
from helpers.ranks import run_two_ranks


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    directory = tmp_path_factory.mktemp('ranks')
    run_two_ranks(train_with_a_bad_rank, directory)
    return [torch.load(directory / f'{rank}.pt', weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize('name', CASES)
def test_all_ranks_skip_alike(ranks, name):
    first, second = (rank[name] for rank in ranks)
    assert first['outcomes'] == second['outcomes']
    # (skipped, weights unchanged): the third and the sixth batch, or the windows that they are in
    expected = [False, False, True, False, False, True] if 'accumulated' not in name else [False, True, True]
    assert [tuple(outcome) for outcome in first['outcomes']] == [(bad, bad) for bad in expected]
    if 'nobody' not in name:
        assert all(map(torch.equal, first['weights'], second['weights']))
