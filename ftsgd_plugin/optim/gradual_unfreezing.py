"""Exponential gradual unfreezing as a parameter scheduler."""

from collections.abc import Callable
from functools import wraps

import torch
from mmengine.optim import BaseOptimWrapper
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler
from mmpretrain.registry import PARAM_SCHEDULERS
from torch.optim import Optimizer

from ..utils.errors import UserError
from .accumulation import at_update_boundary
from .schedule import lr_factor, open_blocks, trains


@PARAM_SCHEDULERS.register_module()
class GradualUnfreezingLR(LRSchedulerMixin, _ParamScheduler):
    """Open the blocks from the top, one after another, while the learning rate decays exponentially.

    Source: "How to Fine-Tune Vision Models with SGD" (arXiv 2211.09359) and its authors' code (``layer-wise-tune``).
    At step e of E, with W steps of warm-up, C of cool-down, L blocks, ``T = max(1, E - W - C)`` and
    ``eff = max(0, e - W)``, ``floor(L * eff / (T - 1))`` blocks train (all if ``e >= E - C`` or ``T = 1``) at
    ``base * exp(decay * (1 - eff / (T - 1)))``: 41.68 times the base at first, the base at the end.

    The scheduler sets ``requires_grad`` itself, of the parameters in the optimizer's groups, by the ``role`` and
    ``block`` that ``FreezeEmbedOptimWrapperConstructor`` stores there. It needs no runner and no hook. What trains is
    a function of the step alone, so that loading a state restores it. Inside an accumulation window a change waits for
    the window's update. Code compiled by ``torch.compile`` is compiled anew at a change.

    The learning rate is applied as a factor to whatever it is, so that other schedulers compose: before ``begin`` it
    is left to them (a linear warm-up), and a rate that another scheduler has brought to zero stays zero.

    Args:
        optimizer (OptimWrapper | Optimizer): Wrapper or optimizer with named groups.
        decay (float): Exponent of the learning rate at the start. Defaults to 3.73.
        warmup (int): Steps at the start with the head alone, at the first learning rate. Defaults to 0.
        cooldown (int): Steps at the end with everything open, at the base learning rate. Defaults to 0.
        begin (int): Step at which it starts; before, only the head trains. Defaults to 0.
        end (int): Step at which it ends; from there on everything trains. The runner fills in the length of the run.
        last_step (int): Must be -1: a state is resumed by ``load_state_dict``.
        by_epoch (bool): Steps are epochs, otherwise iterations. ``convert_to_iter_based=True`` in a config turns
            epochs into iterations. Defaults to True.
        verbose (bool): Print every value. Defaults to False.

    Raises:
        UserError: The groups carry no roles, there is no block to open, ``end`` is missing, or ``warmup`` or
            ``cooldown`` is not a whole number from 0 on.

    Examples:
        >>> param_scheduler = dict(type='GradualUnfreezingLR', by_epoch=True)
    """

    def __init__(
        self,
        optimizer: BaseOptimWrapper | Optimizer,
        decay: float = 3.73,
        warmup: int = 0,
        cooldown: int = 0,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        for name, value in (('warmup', warmup), ('cooldown', cooldown)):
            if not isinstance(value, int) or value < 0:
                raise UserError(f'GradualUnfreezingLR: {name}={value!r} is not a whole number from 0 on.')
        if last_step != -1:
            raise UserError('GradualUnfreezingLR: last_step does not say what trains; resume with load_state_dict.')
        if end >= INF:
            raise UserError("GradualUnfreezingLR: end is not set; give the run's number of epochs or iterations.")
        self.decay, self.warmup, self.cooldown = decay, warmup, cooldown
        groups = _groups(optimizer)
        if not groups or any('role' not in group for group in groups):
            raise UserError(
                'GradualUnfreezingLR: the optimizer groups do not say which layer they belong to; set '
                "optim_wrapper.constructor='FreezeEmbedOptimWrapperConstructor'."
            )
        indices = [group['block'] for group in groups if group['block'] is not None]
        if not indices:
            raise UserError('GradualUnfreezingLR: no block trains, so there is none to open; freeze fewer layers.')
        self.blocks = max(indices) + 1
        self._outer: list[float] = []  # what the other schedulers make of each learning rate
        self._applied: list[float] = []  # what this one left there
        self._waiting = False
        super().__init__(optimizer, begin=begin, end=end, last_step=last_step, by_epoch=by_epoch, verbose=verbose)
        if isinstance(optimizer, BaseOptimWrapper):
            # The end of every window, also of one whose update a loss scaler skips.
            optimizer.zero_grad = _then(optimizer.zero_grad, self._open_what_waits)

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args,
        warmup: int = 0,
        cooldown: int = 0,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs,
    ) -> 'GradualUnfreezingLR':
        """Build an iteration-based scheduler from a config in epochs (``convert_to_iter_based``)."""
        if not by_epoch or not epoch_length:
            raise UserError('GradualUnfreezingLR: convert_to_iter_based needs by_epoch=True and a known epoch length.')
        in_iterations = {
            name: value if value >= INF else value * epoch_length
            for name, value in dict(warmup=warmup, cooldown=cooldown, begin=begin, end=end).items()
        }
        return cls(*args, **in_iterations, by_epoch=False, **kwargs)

    @property
    def open_blocks(self) -> int:
        """Number of blocks, from the top, that train at this step."""
        step = self._global_step - self.begin
        return open_blocks(step, self.blocks, self.end - self.begin, self.warmup, self.cooldown)

    def step(self) -> None:
        """Go on by one step: learning rates and what trains."""
        super().step()
        if at_update_boundary(self.optimizer):
            self._open()
        else:
            self._waiting = True

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state and let train what trains at its step.

        Raises:
            UserError: It belongs to a model with another number of blocks.
        """
        if state_dict.get('blocks', self.blocks) != self.blocks:
            raise UserError(
                f'GradualUnfreezingLR: the state is of a model with {state_dict["blocks"]} blocks, this one has '
                f'{self.blocks}; resume with the model it was written for.'
            )
        super().load_state_dict(state_dict)
        self._open()

    def _get_value(self) -> list[float]:
        """The learning rates of this step, from what the other schedulers make of them."""
        factor = lr_factor(self.last_step, self.end - self.begin, self.warmup, self.cooldown, self.decay)
        rates = [group['lr'] for group in self.optimizer.param_groups]
        if not self._outer:
            self._outer = rates
        else:
            # Where nobody else has changed it, not rate * factor / previous: thousands of steps would add up rounding.
            before = lr_factor(self.last_step - 1, self.end - self.begin, self.warmup, self.cooldown, self.decay)
            self._outer = [
                outer if rate == applied else rate / before
                for outer, rate, applied in zip(self._outer, rates, self._applied)
            ]
        self._applied = [outer * factor for outer in self._outer]
        return list(self._applied)

    def _open_what_waits(self) -> None:
        if self._waiting and at_update_boundary(self.optimizer):
            self._open()

    def _open(self) -> None:
        """Let exactly those parameters train that train at this step."""
        self._waiting, opened, changed = False, self.open_blocks, False
        for group in _groups(self.optimizer):
            wanted = trains(group['role'], group['block'], opened, self.blocks)
            for param in group['params']:
                if param.requires_grad != wanted:
                    changed = True
                    param.requires_grad_(wanted)
                if not wanted:
                    param.grad = None
        if changed:
            torch._dynamo.reset()  # compiled code keeps the backward pass it was compiled with


def _then(method: Callable, callback: Callable[[], None]) -> Callable:
    @wraps(method)
    def both(*args, **kwargs):
        result = method(*args, **kwargs)
        callback()
        return result

    return both


def _optimizers(optimizer: BaseOptimWrapper | Optimizer) -> list[Optimizer]:
    if hasattr(optimizer, 'optim_wrappers'):  # OptimWrapperDict
        return [inner.optimizer for inner in optimizer.optim_wrappers.values()]
    return [getattr(optimizer, 'optimizer', optimizer)]


def _groups(optimizer: BaseOptimWrapper | Optimizer) -> list[dict]:
    """The real groups; MMEngine's wrapper shows one more."""
    return [group for inner in _optimizers(optimizer) for group in inner.param_groups]
