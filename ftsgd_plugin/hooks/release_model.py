"""Take this package's hooks off the model when training has ended."""

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..layers import unwrap
from ..optim.model_hooks import ModelHooks


@HOOKS.register_module()
class ReleaseModelHook(Hook):
    """Leave a trained model without hooks of this package, so that it can be exported (``torch.export``) or pickled.

    Drop rates that MMPretrain's ViTs keep as NumPy numbers become Python's: ``torch.export`` cannot trace the others.
    ``tools/train.py`` registers this hook. Without it the hooks leave the model when its optimizer is deleted, and do
    nothing while it is in eval mode. If the runner trains again they are put back first.
    """

    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        """Put the hooks back if an earlier training took them off."""
        hooks = ModelHooks.of(runner.optim_wrapper)
        if hooks is not None:
            hooks.attach()

    def after_train(self, runner: Runner) -> None:
        """Take the hooks off."""
        hooks = ModelHooks.of(runner.optim_wrapper)
        if hooks is not None:
            hooks.detach()
        if getattr(runner.optim_wrapper, 'updates_in_backward', False):
            runner.optim_wrapper.release()
        for module in unwrap(runner.model).modules():
            if isinstance(getattr(module, 'drop_prob', None), np.floating):
                module.drop_prob = float(module.drop_prob)
