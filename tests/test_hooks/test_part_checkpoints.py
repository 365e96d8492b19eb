"""Checkpoints in the background: what replaces one, reads it or ends the process comes after it is complete."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import unique_name
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub

from ftsgd_plugin.hooks import SafeCheckpointHook, ShardingHook
from ftsgd_plugin.hooks.sharding import _check_keepers
from ftsgd_plugin.hooks.stop import StopHook
from ftsgd_plugin.utils.errors import UserError


@pytest.fixture
def run(tmp_path):
    """A runner's attributes; ``waited`` receives an entry for every wait for the background."""
    keeper, sharding, waited = SafeCheckpointHook(), ShardingHook(), []
    keeper.out_dir, sharding._parts = str(tmp_path), SimpleNamespace(finish=waited.append)
    hub = MessageHub.get_instance(unique_name())
    model = SimpleNamespace(checkpoints='parts')
    return SimpleNamespace(
        hooks=[keeper, sharding], keeper=keeper, waited=waited, message_hub=hub, work_dir=str(tmp_path), model=model
    )


def test_a_stop_at_the_iteration_of_a_checkpoint_waits_for_it(run):
    run.keeper.last_ckpt, run.keeper.saved_iteration = 'epoch_1.pth', 5
    assert StopHook(None)._save(run, 5, in_validation=False) == 'epoch_1.pth has all of it'
    assert run.waited == [True]


def test_hooks_after_the_training_find_the_last_checkpoint_complete(run):
    for hook in run.hooks[1:]:
        hook.after_train(run)
    assert run.waited == [True]


def test_the_checkpoint_of_an_interruption_stays_until_the_next_one_is_complete(run):
    leftover, stop = Path(run.work_dir, 'iter_3.pth'), StopHook(None)
    leftover.touch()
    run.message_hub.update_info('ftsgd_interrupted', leftover.name)
    stop._leftover, run.keeper.last_ckpt = leftover.name, 'epoch_1.pth'
    for held in (True, False):
        run.keeper.is_held = lambda held=held: held
        stop._remove_leftover(run)
        assert leftover.exists() == held


def test_previous_has_one_checkpoint_also_where_writing_takes_longer_than_training(run):
    run.keeper.max_keep_ckpts = 1
    for epoch in (1, 2):
        for path in (Path(run.work_dir, f'epoch_{epoch}.pth'), Path(run.work_dir, f'epoch_{epoch}.5.0.parts')):
            path.touch() if path.suffix == '.pth' else path.mkdir()
        run.keeper._keep_as_previous(str(Path(run.work_dir, f'epoch_{epoch}.pth')))
        left = {path.name for path in Path(run.work_dir, 'previous').iterdir()}
        assert left == {f'epoch_{epoch}.pth', f'epoch_{epoch}.5.0.parts'}


@pytest.mark.parametrize('hook', [CheckpointHook(), SafeCheckpointHook(out_dir='s3://bucket/run')])
def test_parts_are_refused_where_nothing_would_remove_them(run, hook):
    _check_keepers(run)
    run.hooks.append(hook)
    with pytest.raises(UserError, match="checkpoints='parts': needs "):
        _check_keepers(run)
