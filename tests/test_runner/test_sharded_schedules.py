"""Sharded runs whose layers open between evaluations against one process, by the Runner.

Fast twins: ``test_optim/test_sharded.py`` opens the embedding after an evaluation, ``test_sharded_traps.py`` loads.
"""

import pytest
import torch
from helpers.ranks import start_ranks
from helpers.sharded_schedules import DIGITS, RUNS, train, train_every_run

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


@pytest.fixture(scope='module')
def ranks(tmp_path_factory, digits_root, run_forked):
    directory = tmp_path_factory.mktemp('schedules')
    (directory / DIGITS).write_text(str(digits_root))
    start_ranks(train_every_run, directory, 2)
    return [torch.load(directory / f'{rank}.pt', weights_only=True) for rank in range(2)]


@pytest.mark.parametrize('name', RUNS)
def test_what_opens_between_evaluations_trains_as_in_one_process(ranks, digits_root, tmp_path, name):
    found = [rank[name] for rank in ranks]
    first, alone = found[0], train(digits_root, tmp_path, None, **RUNS[name])
    phases = [set(names) for names in alone['phases']]
    assert all(rank['phases'] == alone['phases'] and rank['ended'] == alone['ended'] for rank in found)
    embedding = {key for key in alone['weights'] if 'patch_embed' in key}
    opened = next(step for step, names in enumerate(phases) if embedding <= names)
    assert embedding and 0 < opened < len(phases) - 1 and not any(embedding & names for names in phases[:opened])
    if 'ends' in name:
        assert alone['ended'] == [2, 5] and opened == 10
    losses = torch.tensor([rank['losses'] for rank in found]).mean(0)
    torch.testing.assert_close(losses, torch.tensor(alone['losses']), rtol=1e-4, atol=1e-5)
    for rank in found:
        for key in ('scores', 'half_scores'):  # of a test after the training, and of a checkpoint loaded after that
            assert rank[key] == pytest.approx(alone[key], abs=1e-6)
    for key, expected in alone['weights'].items():
        torch.testing.assert_close(first['weights'][key], expected, rtol=1e-4, atol=2e-6, msg=f'trained {key}')
        half = alone['half'][key]
        torch.testing.assert_close(first['half'][key], half, rtol=1e-4, atol=2e-6, msg=f'loaded {key}')
    for key in embedding:  # closed in the first half
        assert torch.equal(first['half'][key], alone['half'][key])
        assert (first['weights'][key] - alone['half'][key]).abs().max() > 1e-4
