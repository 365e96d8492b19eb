"""Exponential gradual unfreezing as a parameter scheduler."""

from collections.abc import Mapping, Sequence
from functools import wraps

from mmengine.optim import BaseOptimWrapper
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler
from mmpretrain.registry import PARAM_SCHEDULERS
from torch.optim import Optimizer

from ..utils.errors import UserError
from ..utils.patching import replaced
from .accumulation import at_update_boundary
from .phase_ends import EndsPhases, PhaseEnds
from .places import places_of
from .schedule_document import read_document
from .schedules import PAPER, Schedule, make_schedule
from .unfreezing import check_blocks, check_decay, check_steps, count_blocks, open_groups, outer_rates, per_group

_DERIVED = frozenset({'_places', '_plan', '_ends', '_zero_grad'})  # not in the state


@PARAM_SCHEDULERS.register_module()
class GradualUnfreezingLR(EndsPhases, LRSchedulerMixin, _ParamScheduler):
    """Open the blocks from the top, one after another, while the learning rate decays exponentially.

    Source: "How to Fine-Tune Vision Models with SGD" (arXiv 2211.09359) and its authors' code (``layer-wise-tune``).
    The formulas, with example values, are in :mod:`ftsgd_plugin.optim.schedule`: the head trains first, at 41.68 times
    the base learning rate; at the end everything trains at the base learning rate.

    The scheduler sets ``requires_grad`` of the parameters in the optimizer's groups, by the ``role`` and ``block`` that
    ``FreezeEmbedOptimWrapperConstructor`` stores there. It needs no runner and no hook. What trains is a function of
    the step alone, so loading a state restores it. Inside an accumulation window a change, of what trains and of the
    rate alike, waits for the update of the window. Code compiled by ``torch.compile`` is recompiled at a change.

    The learning rate is multiplied by a factor, so schedulers that multiply it too compose: ``LinearLR``,
    ``ConstantLR``, ``StepLR``, ``MultiStepLR``, ``ExponentialLR``, and ``CosineAnnealingLR`` and ``PolyLR`` with
    ``eta_min=0``. Before ``begin`` the rate is left to them (a linear warm-up), and a rate that another scheduler has
    set to zero stays zero. Those that set the rate (``OneCycleLR``, ``CosineRestartLR``) would be off by the factor;
    ``tools/train.py`` refuses them (:mod:`ftsgd_plugin.optim.composition`).

    Args:
        optimizer (OptimWrapper | Optimizer): Wrapper or optimizer with named groups.
        decay (float): Exponent of the learning rate at the start. Defaults to 3.73.
        warmup (int): Steps at the start with the head alone, at the first learning rate. Defaults to 0.
        cooldown (int): Steps at the end with everything open, at the base learning rate. Defaults to 0.
        begin (int): Step at which it starts; before it trains what its first step does (the head). Defaults to 0.
        end (int): Step at which it ends; from then everything trains. The runner fills in the length of the run.
        last_step (int): Must be -1: a state is resumed by ``load_state_dict``.
        schedule (str | list | dict): What opens when, and how the rate falls: ``'paper'`` (default), ``'linear'`` or
            ``'cosine'`` (:mod:`ftsgd_plugin.optim.schedule`); or phases of one's own, as a list, a document or a YAML
            file (:mod:`ftsgd_plugin.optim.schedule_document`).
        per (str): What opens at once: a ``'block'`` (default), or a ``'stage'`` of a convnet. Not for phases.
        max_depth (int, optional): The most blocks (or stages) that open; the others stay closed to the end. Not for
            phases. Defaults to all.
        order (str): ``'top-down'`` (default) from the head, ``'bottom-up'`` from the input. Not for phases.
        by_epoch (bool): Steps are epochs, otherwise iterations. ``convert_to_iter_based=True`` in a config turns
            epochs into iterations. A training loop of iterations needs ``by_epoch=False``. Defaults to True.
        verbose (bool): Print every value. Defaults to False.

    Raises:
        UserError: The groups have no roles, no block can be opened, ``end`` is missing, ``warmup`` or ``cooldown``
            is not a whole number >= 0, ``decay`` is not finite, or the schedule does not fit the layers or the run.

    Examples:
        >>> param_scheduler = dict(type='GradualUnfreezingLR', by_epoch=True)
    """

    later_options = PAPER  # that states of version 0.1.0 do not have

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
        schedule: str | Sequence[Mapping] | Mapping = 'paper',
        per: str = 'block',
        max_depth: int | None = None,
        order: str = 'top-down',
        epoch_length: int | None = None,
    ) -> None:
        name = type(self).__name__
        check_steps(name, 0, warmup=warmup, cooldown=cooldown)
        check_decay(name, decay)
        if last_step != -1:
            raise UserError(f'{name}: last_step does not say what trains; resume with load_state_dict.')
        if end >= INF:
            raise UserError(f"{name}: end is not set; give the run's number of epochs or iterations.")
        self.decay, self.warmup, self.cooldown = decay, warmup, cooldown
        remedy = "set optim_wrapper.constructor='FreezeEmbedOptimWrapperConstructor'"
        self.blocks = count_blocks(name, _groups(optimizer), remedy)
        self.schedule = read_document(schedule, f'{name}: schedule')
        self.per, self.max_depth, self.order, self._epoch_length = per, max_depth, order, epoch_length
        self._places = places_of(_groups(optimizer))
        self._plan, self._ends = self._make_plan(end - begin, by_epoch), PhaseEnds()
        self._outer: list[float] = []  # learning rates as the other schedulers set them
        self._applied: list[float] = []  # learning rates as this scheduler set them last
        self._factor: list[float] | None = None  # by which it has multiplied the present ones (G,); None: not yet
        self._waiting = False  # only for the state: version 0.1.0 reads it (a change waits for its window)
        self._zero_grad: replaced | None = None  # the method of the optimizer wrapper, replaced while a change waits
        super().__init__(optimizer, begin=begin, end=end, last_step=last_step, by_epoch=by_epoch, verbose=verbose)

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
            raise UserError(f'{cls.__name__}: convert_to_iter_based needs by_epoch=True and a known epoch length.')
        in_iterations = {
            name: value if value >= INF else value * epoch_length
            for name, value in dict(warmup=warmup, cooldown=cooldown, begin=begin, end=end).items()
        }
        return cls(*args, **in_iterations, by_epoch=False, epoch_length=epoch_length, **kwargs)

    @property
    def open_blocks(self) -> int:
        """Number of blocks, from the top, that train at this step."""
        return self._plan.open_blocks(self.position)

    @property
    def position(self) -> int:
        """The step of the schedule, from 0 at ``begin``; negative before it."""
        return self._global_step - self.begin

    def step(self) -> None:
        """Advance by one step: learning rates and what trains."""
        super().step()
        self._open_at_boundary(forget=self._global_step > 0)

    def state_dict(self) -> dict:
        """All attributes that do not follow from others; the factor only if a change of it waits.

        Options at the paper's values are left out, as version 0.1.0 does not know them.
        """
        left_out = _DERIVED if self._waiting else _DERIVED | {'_factor'}
        left_out |= {key for key, value in PAPER.items() if getattr(self, key) == value}
        left_out |= {'_epoch_length'} if isinstance(self.schedule, str) else set()
        kept = {key: value for key, value in super().state_dict().items() if key not in left_out}
        return {**kept, **self._state_of_ends()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state and let exactly those parameters train that train at its step.

        Raises:
            UserError: It belongs to a model with another number of blocks.
        """
        check_blocks(type(self).__name__, state_dict, self.blocks)
        super().load_state_dict({**PAPER, **state_dict})
        self._plan = self._make_plan(self.end - self.begin, self.by_epoch)
        self._take_ends(state_dict)
        if '_factor' not in state_dict:  # nothing waits, or a state of version 0.1.0, whose rates did not
            self._factor = self._factors_now() if self._outer else None
        self._factor = per_group(self._factor, len(self.optimizer.param_groups))
        if self._waiting:
            self._apply_rates()
        self._open(forget=True)

    def _get_value(self) -> list[float]:
        """The learning rates of this step; inside an accumulation window the present ones."""
        if at_update_boundary(self.optimizer):
            return self._rates()
        return [group['lr'] for group in self.optimizer.param_groups]

    def _make_plan(self, total: int, by_epoch: bool) -> Schedule:
        """The schedule of the options, over ``total`` steps."""
        return make_schedule(
            type(self).__name__,
            self._places,
            total,
            {key: getattr(self, key) for key in PAPER},
            decay=self.decay,
            warmup=self.warmup,
            cooldown=self.cooldown,
            by_epoch=by_epoch,
            epoch_length=self._epoch_length,
        )

    def _factors_now(self) -> list[float]:
        """The factor of every group; the additional one of ``OptimWrapper`` has that of the schedule alone."""
        factors = self._plan.factors(self.last_step)
        return factors + [self._plan.factor(self.last_step)] * (len(self.optimizer.param_groups) - len(factors))

    def _rates(self) -> list[float]:
        """The learning rates of this step, from those that the other schedulers set."""
        rates = [group['lr'] for group in self.optimizer.param_groups]
        self._outer = outer_rates(rates, self._factor, self._outer, self._applied)
        self._factor = self._factors_now()
        self._applied = [outer * factor for outer, factor in zip(self._outer, self._factor)]
        return list(self._applied)

    def _apply_rates(self) -> None:
        """Set the rates of this step outside :meth:`step`."""
        if self.last_step < 0:  # before ``begin``
            return
        for group, rate in zip(self.optimizer.param_groups, self._rates()):
            group['lr'] = rate
        self._last_value = [group['lr'] for group in self.optimizer.param_groups]

    def _open_at_boundary(self, forget: bool) -> None:
        if at_update_boundary(self.optimizer):
            self._open(forget)
        else:
            self._open_after_window()

    def _apply_phase(self) -> None:
        if at_update_boundary(self.optimizer):
            self._apply_rates()
        self._open_at_boundary(forget=True)

    def _open_after_window(self) -> None:
        """Change when the window ends. Its last call is ``zero_grad``, even if a loss scaler skips the update."""
        self._waiting = True
        if self._zero_grad is not None:
            return
        zero_grad = self.optimizer.zero_grad

        @wraps(zero_grad)
        def zero_grad_and_open(*args, **kwargs) -> None:
            zero_grad(*args, **kwargs)
            if at_update_boundary(self.optimizer):
                self._apply_rates()
                self._open(forget=True)

        self._zero_grad = replaced(self.optimizer, 'zero_grad', zero_grad_and_open)

    def _open(self, forget: bool = False) -> None:
        """Let exactly those parameters train that train at this step; ``forget`` the state of what closes."""
        if self._zero_grad is not None:
            self._zero_grad.undo()
            self._zero_grad = None
        self._waiting = False
        open_groups(_optimizers(self.optimizer), self._places, self._plan.trains(self.position), forget)


def _optimizers(optimizer: BaseOptimWrapper | Optimizer) -> list[Optimizer]:
    if hasattr(optimizer, 'optim_wrappers'):  # OptimWrapperDict
        return [inner.optimizer for inner in optimizer.optim_wrappers.values()]
    return [getattr(optimizer, 'optimizer', optimizer)]


def _groups(optimizer: BaseOptimWrapper | Optimizer) -> list[dict]:
    """The real groups; ``OptimWrapper.param_groups`` has an additional one."""
    return [group for inner in _optimizers(optimizer) for group in inner.param_groups]
