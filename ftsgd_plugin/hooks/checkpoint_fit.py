"""A checkpoint that does not fit the model is an error, not a warning in the log."""

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner, find_latest_checkpoint
from mmpretrain.registry import HOOKS

from ..checkpoints import misfits
from ..errors import UserError
from ..layers import unwrap


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compare every loaded checkpoint with the model, tensor by tensor.

    MMEngine loads what fits and leaves the rest at random values. For testing and resuming this hook asks for an exact
    fit. When training starts from ``load_from``, the head may differ (another number of classes), the backbone not.

    Raises:
        UserError: The checkpoint does not fit; the message names the file and the first tensors.
    """

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint before any of it is copied into the model."""
        weights = checkpoint.get('state_dict', checkpoint)
        found = misfits(unwrap(runner.model), {key.removeprefix('module.'): value for key, value in weights.items()})
        training = isinstance(runner._train_loop, BaseLoop)  # MMEngine builds it when training starts
        if training and not runner._resume:
            found = [phrase for phrase in found if phrase.startswith('backbone.')]
        if found:
            path = runner._load_from or find_latest_checkpoint(runner.work_dir)
            more = f' and {len(found) - 2} more' if len(found) > 2 else ''
            raise UserError(
                f'{path}: does not fit the model of this config: {"; ".join(found[:2])}{more}; '
                'use the config the checkpoint was trained with.'
            )
