"""Stop a run whose numbers are no longer finite."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from ..layers import unwrap
from ..optim.finite import FiniteUpdates
from ..optim.sharding.values import is_sharded
from ..optim.values import check_groups
from ..utils.errors import DivergedError, UserError
from ..utils.norms import has_non_finite
from .run_record import RunRecordHook

_REMEDY = (
    'lower the learning rate (optim_wrapper.optimizer.lr, now {lr}), warm it up or clip the gradients '
    '(optim_wrapper.clip_grad)'
)


@dataclass
class _Update:
    """An update whose outcome is not yet read.

    Attributes:
        iteration: Iterations done with it, from 1.
        losses: The losses of its accumulation window, on the device.
        skipped: The outcome; on the host once ``ready`` has happened.
        ready: Event of the copy to the host; ``None`` if nothing has to be waited for.
    """

    iteration: int
    losses: list[torch.Tensor]
    skipped: bool | torch.Tensor
    ready: 'torch.cuda.Event | None' = None

    @classmethod
    def of(cls, iteration: int, losses: list[torch.Tensor], skipped: bool | torch.Tensor) -> '_Update':
        if not isinstance(skipped, torch.Tensor) or not skipped.is_cuda:
            return cls(iteration, losses, bool(skipped))
        host = torch.empty_like(skipped, device='cpu', pin_memory=True).copy_(skipped, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return cls(iteration, losses, host, ready)

    def was_skipped(self) -> bool:
        if self.ready is not None:
            self.ready.synchronize()
        return bool(self.skipped)


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Leave out updates with a loss or gradient of NaN or Inf, and stop a run that makes no others.

    ``tools/train.py`` adds this hook to every run; elsewhere it is one of ``custom_hooks``.
    :class:`ftsgd_plugin.optim.finite.FiniteUpdates` says how the updates are left out, exactly and on all ranks alike.
    The run ends with one line (exit code 2) that names the iteration, the loss and the remedy; its record says
    ``diverged``, and the last checkpoint stays. Where only the device knows the outcome of an update, the line comes
    one iteration later.

    The run also ends, and no checkpoint is written, if weights are NaN or Inf (a finite update may overflow): before a
    checkpoint, an evaluation and the end of the training; if a buffer is, after a skipped update; and if the scores of
    an evaluation are.

    Args:
        max_skipped (int): Updates in a row that are skipped before the run stops; with the default 1 at the first one.
        max_skipped_scaled (int): Likewise with a loss scaler (AMP), which skips to find its scale. Defaults to 20: the
            scale is then a millionth of what it was.

    Raises:
        DivergedError: As above.
        UserError: An option is not a positive whole number; the weights that training starts from, or the settings of
            the optimizer, are not finite.

    Examples:
        >>> custom_hooks = [dict(type='DivergenceHook', max_skipped=3)]
    """

    priority = 'VERY_HIGH'  # before anything is recorded or saved; patches within those of LayerGradNormHook

    def __init__(self, max_skipped: int = 1, max_skipped_scaled: int = 20) -> None:
        for name, value in (('max_skipped', max_skipped), ('max_skipped_scaled', max_skipped_scaled)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f'DivergenceHook: {name}={value!r} is not a positive whole number of updates.')
        self.max_skipped, self.max_skipped_scaled = max_skipped, max_skipped_scaled
        self._guards: list[FiniteUpdates] = []
        self._losses: list[torch.Tensor] = []
        self._pending: deque[_Update] = deque()
        self._in_a_row = 0
        self._finite_from_the_start: set[str] = set()
        self._bad_scores: torch.Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Check what training starts from, and guard the updates."""
        self.after_run(runner)  # of a run that ended with an exception
        bad = _agreed(runner, _non_finite_names(unwrap(runner.model)))
        parameters = dict(unwrap(runner.model).named_parameters())
        if wrong := [name for name in bad if name in parameters]:
            raise UserError(
                f'the weights that training starts from are NaN or Inf in {_listed(wrong)}; start from other weights '
                '(load_from, or the pretrained weights of the model).'
            )
        self._finite_from_the_start = {*unwrap(runner.model).state_dict()} - set(bad)  # masks may hold -Inf
        self._losses, self._in_a_row = [], 0
        self._pending.clear()
        for wrapper in _wrappers(runner.optim_wrapper):
            check_groups(wrapper.optimizer)
            self._guards.append(FiniteUpdates(wrapper, runner.model))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Refuse a learning rate that a scheduler has made NaN or Inf."""
        for wrapper in _wrappers(runner.optim_wrapper):
            for group in wrapper.optimizer.param_groups:
                if isinstance(group['lr'], float) and not math.isfinite(group['lr']):
                    raise UserError(
                        f'iteration {runner.iter + 1}: the schedulers have set the learning rate to {group["lr"]}; '
                        'correct param_scheduler.'
                    )

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Read the outcome of this update, or of the one before it."""
        loss = (outputs or {}).get('loss')
        if isinstance(loss, torch.Tensor):
            self._losses.append(loss.detach())
        outcomes = [outcome for guard in self._guards if (outcome := guard.take()) is not None]
        if not outcomes:
            return
        skipped = outcomes[0]
        for other in outcomes[1:]:
            skipped = skipped | other
        self._pending.append(_Update.of(runner.iter + 1, self._losses, skipped))
        self._losses = []
        self._read(runner, keep=int(self._pending[-1].ready is not None))

    def after_train_epoch(self, runner: Runner) -> None:
        """Read the last outcome, and check the weights before they are saved."""
        self._read(runner)
        self.check_weights(runner)

    def before_val(self, runner: Runner) -> None:
        """Read the last outcome, and check the weights that are to be evaluated."""
        if self._guards:
            self._read(runner)
            self.check_weights(runner)

    def after_train(self, runner: Runner) -> None:
        """Read the last outcome, and check the trained weights."""
        self._read(runner)
        self.check_weights(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write no checkpoint of weights that are NaN or Inf. Only the main process comes here."""
        if self._guards:
            bad = _non_finite_names(unwrap(runner.model))  # whole, also of a sharded model
            self._stop_for(runner, bad, checkpoint.get('meta', {}).get('iter'))

    def after_run(self, runner: Runner) -> None:
        """Restore the optimizer wrappers."""
        while self._guards:
            self._guards.pop().remove()

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget the scores of an evaluation that did not end."""
        self._bad_scores = None

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Note whether all scores are finite, whatever the metric reads."""
        scores = [sample.pred_score for sample in outputs or () if hasattr(sample, 'pred_score')]
        if scores:
            bad = ~torch.cat([torch.as_tensor(score).flatten() for score in scores]).isfinite().all()
            self._bad_scores = bad if self._bad_scores is None else bad | self._bad_scores

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Refuse an evaluation with scores of NaN or Inf."""
        bad, self._bad_scores = self._bad_scores, None
        if any(all_gather_object(bad is not None and bool(bad))):
            self._stop(runner, 'evaluation: scores are NaN or Inf, so there is no result', runner.iter)

    before_test_epoch, after_test_iter, after_test_epoch = before_val_epoch, after_val_iter, after_val_epoch

    def _read(self, runner: Runner, keep: int = 0) -> None:
        """Read all outcomes but the last ``keep``, and stop the run after too many skipped updates."""
        while len(self._pending) > keep:
            update = self._pending.popleft()
            if not update.was_skipped():
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            scaled = any(guard.scales_loss for guard in self._guards)
            limit = self.max_skipped_scaled if scaled else self.max_skipped
            if self._in_a_row < limit:
                if not scaled:
                    what = f'{_reason(update)}; update skipped, {self._in_a_row} in a row of at most {limit - 1}'
                    runner.logger.warning(f'iteration {update.iteration}: {what}')
                self.check_weights(runner)  # the forward pass may have put NaN into running statistics
                continue
            count = '' if limit == 1 else f', {limit} times in a row'
            self._stop(runner, f'{_reason(update)}{count}, so its update was not made', update.iteration)

    def check_weights(self, runner: Runner) -> None:
        """Stop the run if weights are NaN or Inf; of a sharded model on all ranks together."""
        self._stop_for(runner, _agreed(runner, _non_finite_names(unwrap(runner.model))))

    def _stop_for(self, runner: Runner, names: list[str], iteration: int | None = None) -> None:
        if bad := [name for name in names if name in self._finite_from_the_start]:
            self._stop(runner, f'the weights are NaN or Inf in {_listed(bad)}', iteration or runner.iter)

    def _stop(self, runner: Runner, what: str, iteration: int) -> None:
        remedy = 'train with a lower learning rate'
        if self._guards:
            rates = {
                group['lr'] for wrapper in _wrappers(runner.optim_wrapper) for group in wrapper.optimizer.param_groups
            }
            remedy = _REMEDY.format(lr=f'{float(max(rates)):g}')
        line = f'iteration {iteration}: {what}; the run has diverged: {remedy}.'
        record_divergence(runner, line)
        raise DivergedError(line)


def record_divergence(runner: Runner, line: str) -> None:
    """Let the record of the run, if it has one, say ``diverged``."""
    for hook in runner.hooks:
        if isinstance(hook, RunRecordHook):
            hook.diverged(runner, line)


def _wrappers(optim_wrapper: OptimWrapper | OptimWrapperDict) -> list[OptimWrapper]:
    return list(getattr(optim_wrapper, 'optim_wrappers', {'': optim_wrapper}).values())


def _non_finite_names(model: nn.Module) -> list[str]:
    """Names of the parameters and buffers with NaN or Inf; waits for the device once if there are none."""
    tensors = model.state_dict()
    if not has_non_finite(tensor for tensor in tensors.values() if isinstance(tensor, torch.Tensor)):
        return []
    return [name for name, value in tensors.items() if isinstance(value, torch.Tensor) and has_non_finite([value])]


def _agreed(runner: Runner, names: list[str]) -> list[str]:
    """The names of all ranks, where each has a part of the weights."""
    if not is_sharded(unwrap(runner.model)):
        return names
    return list(dict.fromkeys(name for of_rank in all_gather_object(names) for name in of_rank))


def _listed(names: list[str]) -> str:
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _reason(update: _Update) -> str:
    """Whether the loss or a gradient was not finite, of the first rank that had such a loss; all ranks ask."""
    losses = [float(loss) for loss in update.losses]
    of_ranks = all_gather_object(next((loss for loss in losses if not math.isfinite(loss)), (losses or [math.nan])[-1]))
    for rank, loss in enumerate(of_ranks):
        if losses and not math.isfinite(loss):
            return f'the loss is {loss}' + (f' on rank {rank}' if len(of_ranks) > 1 else '')
    return 'a gradient is NaN or Inf' + (f' (the loss is {of_ranks[0]:.4g})' if losses else '')
