"""Updates with a loss or a gradient of NaN or Inf are not made."""

import functools
import math
from contextlib import ExitStack

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..utils.errors import UserError
from ..utils.norms import has_non_finite, non_finite
from ..utils.patching import replaced
from .fused import reads_found_inf, start_momentum, starts_right
from .sgd_in_backward import InBackwardDataParallel


class FiniteUpdates:
    """Let an optimizer wrapper skip every update whose loss or gradient is not finite, on all ranks alike.

    The weights and the whole optimizer state (momentum, moments, step counts) keep their bits. An update is the whole
    accumulation window. How it is known in time, and what it costs:

    - A loss that is not finite turns the gradients into NaN (its backward pass starts from NaN instead of 1), so one
      check of the gradients is enough, and the reduction over the ranks tells every rank.
    - Without a GPU the gradients are read once before the update.
    - With a loss scaler (AMP) the scaler makes the same check and skips; nothing is added.
    - A fused optimizer (``fused=True``; SGD, Adam, AdamW; on CUDA the constructor's default) reads the answer on the
      device, as under a loss scaler: nobody waits.
    - ``SGDInBackwardOptimWrapper`` masks the update on the device, gradient by gradient: nobody waits. Layers that
      were updated in the same backward pass before the first gradient of NaN or Inf keep that update.
    - Any other optimizer on a GPU is started after the host has read the answer, one wait per update. MMEngine itself
      waits twice per iteration, for the loss and the copy of the batch, unless :mod:`ftsgd_plugin.runner.unwaited` is
      in use, as in every run of ``tools/train.py``.

    Args:
        optim_wrapper: The wrapper of one optimizer.
        model: The model as the runner holds it: gradients that its wrapper does not reduce (FSDP) need a reduction of
            the answer.

    Raises:
        UserError: A fused SGD with momentum and ``dampening`` under a loss scaler, whose skipped first update would
            leave its momentum undefined.
    """

    def __init__(self, optim_wrapper: OptimWrapper, model: nn.Module) -> None:
        self._wrapper = optim_wrapper
        if self.scales_loss and not starts_right(optim_wrapper.optimizer):
            raise UserError(
                'optim_wrapper.optimizer: a fused SGD with dampening keeps an undefined momentum if the loss scaler '
                'skips its first update; set fused=False or dampening=0.'
            )
        self._reduces = isinstance(model, DistributedDataParallel | InBackwardDataParallel)
        self._skipped: bool | torch.Tensor | None = None
        self._stepped: bool | torch.Tensor = False
        self._undo = ExitStack()
        backward, step = optim_wrapper.backward, self._guarded(optim_wrapper)

        @functools.wraps(backward)
        @torch._dynamo.disable
        def finite_backward(loss: torch.Tensor, **kwargs) -> None:
            backward(loss * torch.where(loss.detach().isfinite(), 1.0, math.nan).to(loss.dtype), **kwargs)

        self._undo.callback(optim_wrapper.optimizer.register_step_pre_hook(start_momentum).remove)
        self._undo.enter_context(replaced(optim_wrapper, 'backward', finite_backward))
        self._undo.enter_context(replaced(optim_wrapper, 'step', step))

    @property
    def scales_loss(self) -> bool:
        """Whether a loss scaler skips updates to find its scale."""
        scaler = getattr(self._wrapper, 'loss_scaler', None)
        return scaler is not None and scaler.is_enabled()

    def take(self) -> bool | torch.Tensor | None:
        """Whether the update since the last call was skipped: a scalar tensor if only the device has the answer.

        ``None`` if no update was due.
        """
        skipped, self._skipped = self._skipped, None
        return skipped

    def remove(self) -> None:
        """Restore the wrapper."""
        self._undo.close()

    def _guarded(self, optim_wrapper: OptimWrapper):
        """The wrapper's ``step`` that notes, and where nobody else does, prevents an update with bad gradients."""
        step = optim_wrapper.step
        if getattr(optim_wrapper, 'updates_in_backward', False):
            optim_wrapper.skip_non_finite = True
            self._undo.callback(setattr, optim_wrapper, 'skip_non_finite', False)
            guarded = self._after_backward
        elif self.scales_loss:
            self._undo.callback(optim_wrapper.optimizer.register_step_post_hook(self._note_step).remove)
            guarded = self._scaled
        else:
            guarded = self._checked

        @functools.wraps(step)  # keeps the mark by which MMEngine's schedulers know that they count its calls
        @torch._dynamo.disable
        def finite_step(**kwargs) -> None:
            guarded(functools.partial(step, **kwargs))

        return finite_step

    def _after_backward(self, step) -> None:
        step()
        self._skipped = self._wrapper.take_non_finite()

    def _scaled(self, step) -> None:
        self._stepped = False
        step()
        self._skipped = ~self._stepped if isinstance(self._stepped, torch.Tensor) else not self._stepped

    def _note_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        """The loss scaler has called the optimizer; a fused one reads on the device whether to skip."""
        found_inf = getattr(optimizer, 'found_inf', None)
        self._stepped = True if found_inf is None else found_inf == 0

    def _checked(self, step) -> None:
        optimizer = self._wrapper.optimizer
        grads = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        if not grads:
            step()
            self._skipped = False
        elif reads_found_inf(optimizer):
            bad = self._on_all_ranks(non_finite(grads))
            optimizer.grad_scale, optimizer.found_inf = None, bad.float()
            try:
                step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf
            self._skipped = bad
        else:
            self._skipped = has_non_finite(grads)
            if torch.distributed.is_initialized() and not self._reduces:
                self._skipped = bool(self._on_all_ranks(torch.tensor(self._skipped, device=grads[0].device)))
            if not self._skipped:
                step()

    def _on_all_ranks(self, bad: torch.Tensor) -> torch.Tensor:
        """Whether any rank has found a bad gradient; reduced gradients are the same on all ranks."""
        if self._reduces or not torch.distributed.is_initialized():
            return bad
        bad = bad.int()
        torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
        return bad.bool()
