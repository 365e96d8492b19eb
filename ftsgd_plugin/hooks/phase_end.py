"""End the phases of a schedule by the ID metric, and return to the best weights of a phase."""

from collections.abc import Iterator
from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS
from torch.optim import Optimizer

from ..checkpoint.settings import by_key, saved_schedulers
from ..layers import unwrap
from ..optim.accumulation import at_update_boundary
from ..optim.gradual_unfreezing import GradualUnfreezingLR
from ..optim.phase_ends import Observed
from ..optim.snapshots import refuse_snapshots, restore_snapshot, take_snapshot
from ..utils.errors import UserError

_BEST = 'ftsgd_phase_best'  # of a checkpoint: weights and state of the best evaluation of the present phase


@HOOKS.register_module()
class PhaseEndHook(Hook):
    """Show every evaluation to ``GradualUnfreezingLR``, whose phases may end by it (``patience``, ``restore_best``).

    A phase that ends is in the log, in the state of the scheduler and so in every checkpoint, and in the record. All
    ranks decide by the metric of rank 0. With ``restore_best`` the copy of the best weights is in every checkpoint too,
    and what the phase has trained is put back before the first step of the next phase: weights, optimizer state and
    buffers; position, data order and schedules continue. ``tools/train.py`` registers it; it does nothing for other
    schedules.

    Raises:
        UserError: The run has no evaluation, or ``restore_best`` cannot be combined with the run's optimizer, its EMA
            or its sharding.
    """

    priority = 'BELOW_NORMAL'  # before the record and the checkpoint of the evaluation

    def __init__(self) -> None:
        self._best: dict[str, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Check that the run has what its phases need."""
        endings = [ending for one in _watching(runner) for ending in one.endings if ending.watches]
        if not endings:
            return
        if not isinstance(runner._val_loop, BaseLoop):
            raise UserError(
                'schedule: its phases wait for evaluations and the run has none; leave out patience, or set val_cfg.'
            )
        if any(ending.restore_best for ending in endings):
            if any(isinstance(hook, EMAHook) for hook in runner.hooks):
                raise UserError('schedule: restore_best cannot be combined with EMAHook, whose weights are evaluated.')
            refuse_snapshots(unwrap(runner.model), _optimizers(runner.optim_wrapper))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the best weights of the phase with the training state."""
        best = checkpoint.get(_BEST) if runner._resume else None
        self._best = best if best is not None and _is_wanted(best, runner, checkpoint) else None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Give them to every checkpoint that can be resumed."""
        if self._best is not None and 'optimizer' in checkpoint:
            checkpoint[_BEST] = self._best

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Decide whether the phase ends here."""
        if not isinstance(runner._train_loop, BaseLoop) or metrics is None:
            return
        for scheduler in _watching(runner):
            values = [{key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}]
            broadcast_object_list(values, src=0)
            observed = scheduler.observe(values[0])
            if observed is None:
                continue
            if observed.improved and scheduler.endings[observed.phase].restore_best:
                copied = take_snapshot(unwrap(runner.model), _optimizers(runner.optim_wrapper))
                self._best = {'phase': observed.phase, 'step': observed.best_step, **copied}
            if observed.ended:
                runner.logger.info(_line(scheduler, observed))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Before the first step of the next phase, return to the best weights of the last one."""
        if self._best is None or not at_update_boundary(runner.optim_wrapper):
            return
        for scheduler in _watching(runner):
            if scheduler.plan.phase_at(scheduler.position) > self._best['phase']:
                restore_snapshot(unwrap(runner.model), _optimizers(runner.optim_wrapper), self._best)
                step, unit = self._best['step'], 'epoch' if scheduler.by_epoch else 'step'
                runner.logger.info(
                    f'phase {self._best["phase"] + 1}: its weights after {unit} {step}, the best, are restored'
                )
                self._best = None
                return


def _watching(runner: Runner) -> Iterator[GradualUnfreezingLR]:
    schedulers = runner.param_schedulers or []
    for several in schedulers.values() if isinstance(schedulers, dict) else [schedulers]:
        yield from (one for one in several if isinstance(one, GradualUnfreezingLR) and one.watches)


def _is_wanted(best: dict[str, Any], runner: Runner, checkpoint: dict) -> bool:
    """Whether a schedule still returns to it: ``--resume-settings config`` may have changed phases or metric."""
    for key, states in saved_schedulers(checkpoint).items():
        for state, scheduler in zip(states, by_key(runner.param_schedulers).get(key, [])):
            watch = state.get('_ends', {}).get('watch', {})
            if (watch.get('phase'), watch.get('best_step')) == (best['phase'], best['step']):
                return scheduler.endings[best['phase']].restore_best
    return False


def _optimizers(wrapper: OptimWrapper) -> list[Optimizer]:
    return [inner.optimizer for inner in getattr(wrapper, 'optim_wrappers', {'': wrapper}).values()]


def _line(scheduler: GradualUnfreezingLR, observed: Observed) -> str:
    ending, unit = scheduler.endings[observed.phase], 'epoch' if scheduler.by_epoch else 'step'
    best = 'no value was a number'
    if observed.best is not None:
        best = f'best {observed.best:.4g} after {unit} {observed.best_step}'
    return (
        f'phase {observed.phase + 1} of {len(scheduler.endings)} ends after {unit} {scheduler.position}: '
        f'{ending.metric} has not improved for {ending.patience} evaluations ({best})'
    )
