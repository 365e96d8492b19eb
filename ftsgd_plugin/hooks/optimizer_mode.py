"""Evaluate and save with the weights that count, of an optimizer that takes its gradients at others."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..optim.library_optimizers import has_modes, use_mode
from ..utils.patching import replaced


@HOOKS.register_module()
class OptimizerModeHook(Hook):
    """Put a schedule-free optimizer into its eval mode for evaluation, saving and the end, and back for training.

    Without it the evaluated and the saved weights are those at which the next gradient is taken
    (huggingface/accelerate#4159). ``tools/train.py`` registers it; it does nothing for other optimizers.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._patch: replaced | None = None

    def before_train(self, runner: Runner) -> None:
        """Let every checkpoint be written in eval mode, whoever writes it; all ranks change, as one writes."""
        wrappers = getattr(runner.optim_wrapper, 'optim_wrappers', {'': runner.optim_wrapper}).values()
        if not any(has_modes(inner.optimizer) for inner in wrappers if hasattr(inner, 'optimizer')):
            return
        save = runner.save_checkpoint

        def save_in_eval_mode(*args, **kwargs) -> None:
            use_mode(runner.optim_wrapper, training=False)
            save(*args, **kwargs)

        self._patch = replaced(runner, 'save_checkpoint', save_in_eval_mode)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Back to the weights at which gradients are taken."""
        if self._patch is not None:
            use_mode(runner.optim_wrapper, training=True)

    def before_val_epoch(self, runner: Runner) -> None:
        """Evaluate the weights that count."""
        if self._patch is not None:
            use_mode(runner.optim_wrapper, training=False)

    def after_train(self, runner: Runner) -> None:
        """Leave the weights that count in the model."""
        if self._patch is not None:
            use_mode(runner.optim_wrapper, training=False)
            self._patch.undo()
            self._patch = None
