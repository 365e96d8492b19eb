"""Scale the learning rates of a run once by its first gradients."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS

from ..checkpoint.settings import by_key, by_name, saved_optimizers
from ..layers import unwrap
from ..optim.measured_rates import groups_of, is_unmeasured, measure_lr_mult, measured_lr_mult, scale_rates
from ..utils.errors import UserError


@HOOKS.register_module()
class GradientRatesHook(Hook):
    """Measure the multipliers of ``paramwise_cfg=dict(lr_mult='gradient')`` before the first update.

    The rule, this project's and not the paper's, is :func:`ftsgd_plugin.gradient_lr_mult`. The multipliers are logged,
    in the run's record and, in the optimizer's groups, in every checkpoint: a resumed run takes them from there and
    never measures again. Schedules multiply on top. ``tools/train.py`` registers this hook; it does nothing for other
    runs.

    Args:
        batches (int): Batches in the means. Defaults to 8.

    Raises:
        UserError: ``batches`` is not a positive whole number.

    Examples:
        >>> custom_hooks = [dict(type='GradientRatesHook', batches=32)]
    """

    priority = 'HIGHEST'  # before a checkpoint is compared with the run, and before the record is written

    def __init__(self, batches: int = 8) -> None:
        if not isinstance(batches, int) or isinstance(batches, bool) or batches < 1:
            raise UserError(f'GradientRatesHook: batches={batches!r} is not a positive whole number.')
        self.batches = batches

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the multipliers of a checkpoint that is resumed, before it is compared with the run."""
        if not (runner._resume and isinstance(runner._train_loop, BaseLoop)) or 'optimizer' not in checkpoint:
            return
        saved = saved_optimizers(checkpoint)
        for key, wrapper in by_name(runner.optim_wrapper).items():
            lr_mult = measured_lr_mult(saved[key]['param_groups']) if key in saved else {}
            if lr_mult and is_unmeasured(wrapper):
                scale_rates(wrapper, by_key(runner.param_schedulers).get(key, []), lr_mult)

    def before_train(self, runner: Runner) -> None:
        """Measure, unless it has been done."""
        for key, wrapper in by_name(runner.optim_wrapper).items():
            if not is_unmeasured(wrapper):
                continue
            accumulate = getattr(wrapper, '_accumulative_counts', 1)
            lr_mult = measure_lr_mult(
                unwrap(runner.model), wrapper, runner.train_dataloader, self.batches, accumulate, runner.seed
            )
            scale_rates(wrapper, by_key(runner.param_schedulers).get(key, []), lr_mult)
            text = ', '.join(f'{stage} {factor:.3g}' for stage, factor in measured_lr_mult(groups_of(wrapper)).items())
            print_log(f"lr_mult='gradient' (of this project, not of the paper), measured: {text}", logger='current')
