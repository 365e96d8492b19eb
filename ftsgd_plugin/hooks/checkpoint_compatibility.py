"""Refuse a checkpoint that does not fit the run, instead of a warning in the log."""

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner, find_latest_checkpoint
from mmpretrain.registry import HOOKS

from ..checkpoint.compatibility import check_pretrained, misfits, of_backbone, resume_misfits, summarise
from ..checkpoint.io import weights_of
from ..layers import unwrap
from ..utils.errors import UserError


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compare every checkpoint with the run before any of it is loaded.

    MMEngine loads what fits and leaves the rest at random values. Testing and resuming require an exact fit of the
    weights; resuming also requires a fit of the training state (optimizer, groups, schedulers). When training starts
    from ``load_from``, the head may differ (another number of classes), the backbone may not. Weights named by
    ``init_cfg=dict(type='Pretrained')`` must fill their module.

    Raises:
        UserError: The checkpoint does not fit; the message names the file and the first tensors.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Check what ``init_weights`` is about to load."""
        if _trains(runner):
            check_pretrained(unwrap(runner.model))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check a checkpoint before any of it is copied into the model."""
        path = runner._load_from or find_latest_checkpoint(runner.work_dir)
        resuming = _trains(runner) and runner._resume
        if resuming and (reason := resume_misfits(checkpoint, runner.optim_wrapper, _schedulers(runner))):
            raise UserError(
                f'{path}: cannot be resumed: it {reason}; use the config it was trained with, or start from its '
                'weights with load_from and without --resume.'
            )
        found = misfits(unwrap(runner.model), weights_of(checkpoint))
        if _trains(runner) and not resuming:
            found = of_backbone(found)
        if found:
            raise UserError(
                f'{path}: does not fit the model of this config: {summarise(found)}; '
                'use the config the checkpoint was trained with.'
            )


def _trains(runner: Runner) -> bool:
    """Whether the run trains: MMEngine builds the training loop when training starts and keeps its config for tests."""
    return isinstance(runner._train_loop, BaseLoop)


def _schedulers(runner: Runner) -> list:
    found = runner.param_schedulers
    return found if isinstance(found, list) else []
