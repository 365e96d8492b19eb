"""Gradual unfreezing with the interface of PyTorch's schedulers, and the rules that it shares with MMEngine's kind.

Needs PyTorch alone. The formulas are in :mod:`.schedule`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..freezing import set_trainable
from ..layers import unwrap
from ..utils.errors import UserError
from .model_hooks import ModelHooks
from .phase_ends import EndsPhases, PhaseEnds
from .places import Place, places_of
from .schedule_document import read_document
from .schedules import PAPER, Schedule, make_schedule

_NAME = 'GradualUnfreezing'
_SETTINGS = ('total_steps', 'decay', 'warmup', 'cooldown', *PAPER)


class GradualUnfreezing(EndsPhases, LRScheduler):
    """Open the blocks from the top, one after another, while the learning rate decays exponentially.

    Source: "How to Fine-Tune Vision Models with SGD" (arXiv 2211.09359). It is
    :class:`~ftsgd_plugin.GradualUnfreezingLR` for a loop of one's own, with the interface of
    ``torch.optim.lr_scheduler.LRScheduler``: ``step()`` after each update (or each epoch) and its zeroing of gradients,
    ``state_dict()`` beside the optimizer's, ``get_last_lr()``. The head trains first, at 41.68 times the learning rate
    of the groups; at the end everything trains at that rate.

    What trains is a function of the step alone, so loading a state restores it. Closed layers are in eval mode and
    ``DistributedDataParallel`` follows, by forward hooks that leave the model with the optimizer. Wrap the model first.

    The learning rate is multiplied by a factor, so schedulers that multiply it too compose, in any order: ``LinearLR``,
    ``ConstantLR``, ``StepLR``, ``MultiStepLR``, ``ExponentialLR``, ``PolynomialLR``, and ``CosineAnnealingLR`` with
    ``eta_min=0``. Those that set it (``LambdaLR``, ``OneCycleLR``, ``SequentialLR``, timm's) do not.

    Args:
        optimizer: Over the groups of :func:`ftsgd_plugin.param_groups`.
        model: The model whose parameters it holds, wrapped in ``DistributedDataParallel`` or not.
        total_steps: Calls of ``step`` in the whole training.
        decay: Exponent of the learning rate at the start. Defaults to 3.73.
        warmup: Steps at the start with the head alone, at the first learning rate. Defaults to 0.
        cooldown: Steps at the end with everything open, at the base learning rate. Defaults to 0.
        schedule, per, max_depth, order: As in :class:`~ftsgd_plugin.GradualUnfreezingLR`.
        epoch_length: Calls of ``step`` per epoch, for phases in epochs.

    Raises:
        UserError: The groups have no roles, no block can be opened, the optimizer holds a frozen parameter or leaves
            out one that trains, ``total_steps`` is not a whole number of at least 1, ``warmup`` or ``cooldown`` is not
            a whole number of at least 0, ``decay`` is not finite, or the schedule does not fit the layers or the run.

    Examples:
        >>> optimizer = torch.optim.SGD(param_groups(model, lr=3e-4), momentum=0.9)
        >>> scheduler = GradualUnfreezing(optimizer, model, total_steps=epochs * len(loader))
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        total_steps: int,
        decay: float = 3.73,
        warmup: int = 0,
        cooldown: int = 0,
        schedule: str | Sequence[Mapping] | Mapping = 'paper',
        per: str = 'block',
        max_depth: int | None = None,
        order: str = 'top-down',
        epoch_length: int | None = None,
    ) -> None:
        check_steps(_NAME, 1, total_steps=total_steps)
        check_steps(_NAME, 0, warmup=warmup, cooldown=cooldown)
        check_decay(_NAME, decay)
        inner = unwrap(model)
        first = ModelHooks.of(optimizer) is None  # else another schedule has closed some of its layers
        if first:
            _check_held(optimizer, inner)
        self.blocks = count_blocks(_NAME, optimizer.param_groups, 'build the optimizer from param_groups(model, ...)')
        self.total_steps, self.decay, self.warmup, self.cooldown = total_steps, decay, warmup, cooldown
        self._outer: list[float] = []  # learning rates as the other schedulers set them
        self._applied: list[float] = []  # learning rates as this scheduler set them last
        self._factor: list[float] | None = None  # by which it has multiplied the present ones (G,); None: not yet
        self.schedule = read_document(schedule, f'{_NAME}: schedule')
        self.per, self.max_depth, self.order, self._epoch_length = per, max_depth, order, epoch_length
        self._places = places_of(optimizer.param_groups)
        self._plan, self._ends = self._make_plan(), PhaseEnds()
        if any(ending.restore_best for ending in self.endings):
            raise UserError(
                f'{_NAME}: restore_best is for the Runner; in a loop of your own keep a copy when '
                'observe(...).improved, and load it when .ended.'
            )
        if first:
            ModelHooks(model, inner).belong_to(optimizer)
        super().__init__(optimizer)

    @property
    def open_blocks(self) -> int:
        """Number of blocks, from the top, that train at this step."""
        return self._plan.open_blocks(self.last_epoch)

    @property
    def position(self) -> int:
        """The step of the schedule, from 0."""
        return self.last_epoch

    def get_lr(self) -> list[float]:
        """The learning rates of this step, from those that the other schedulers set."""
        rates = [float(group['lr']) for group in self.optimizer.param_groups]
        self._outer = outer_rates(rates, self._factor, self._outer, self._applied)
        self._factor = self._plan.factors(self.last_epoch)
        self._applied = [outer * factor for outer, factor in zip(self._outer, self._factor)]
        return list(self._applied)

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step: learning rates and what trains.

        Args:
            epoch: As in PyTorch's schedulers: the step to go to. Defaults to the next.
        """
        super().step(epoch)
        self._open(forget=self.last_epoch > 0)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state and let exactly those parameters train that train at its step. Load the optimizer's too.

        Raises:
            UserError: It belongs to a model with another number of blocks, or to a schedule with other settings.
        """
        check_blocks(_NAME, state_dict, self.blocks)
        for name in _SETTINGS:
            own = getattr(self, name)
            before = state_dict.get(name, PAPER.get(name, own))  # version 0.1.0 had the paper's schedule alone
            if before != own:
                raise UserError(
                    f'{_NAME}: the state is of a schedule with {name}={before!r}, this one has {own!r}; resume with '
                    'the settings it was written with.'
                )
        super().load_state_dict(dict(state_dict))
        self._factor = per_group(self._factor, len(self._places))
        self._plan = self._make_plan()
        self._take_ends(state_dict)
        self._open(forget=True)

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer and what follows from the others."""
        derived = ('_places', '_plan', '_ends')
        kept = {key: value for key, value in super().state_dict().items() if key not in derived}
        return {**kept, **self._state_of_ends()}

    def _make_plan(self) -> Schedule:
        return make_schedule(
            _NAME,
            self._places,
            self.total_steps,
            {key: getattr(self, key) for key in PAPER},
            decay=self.decay,
            warmup=self.warmup,
            cooldown=self.cooldown,
            epoch_length=self._epoch_length,
        )

    def _apply_phase(self) -> None:
        rates = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates):
            group['lr'] = rate
        self._last_lr = rates
        self._open(forget=True)

    def _open(self, forget: bool = False) -> None:
        open_groups([self.optimizer], self._places, self._plan.trains(self.last_epoch), forget)


def per_group(factor: float | Sequence[float] | None, groups: int) -> list[float] | None:
    """The factors of a state; earlier versions had one for all groups."""
    return [factor] * groups if isinstance(factor, float) else factor


def check_steps(name: str, least: int, **values: Any) -> None:
    """Refuse a number of steps that is not a whole number of at least ``least``; ``name`` is the scheduler's."""
    for key, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f'{name}: {key}={value!r} is not a whole number >= {least}.')


def check_decay(name: str, decay: float) -> None:
    """Refuse an exponent that is not finite."""
    if not math.isfinite(decay):
        raise UserError(f'{name}: decay={decay!r} is not a finite number; the paper uses 3.73.')


def count_blocks(name: str, groups: Sequence[Mapping[str, Any]], remedy: str) -> int:
    """Number of blocks of the model, from the ``role`` and ``block`` of an optimizer's groups.

    Args:
        name: The scheduler, for messages.
        groups: The groups.
        remedy: What gives groups without roles theirs.

    Raises:
        UserError: A group has no role, or none has a block.
    """
    if not groups or any('role' not in group for group in groups):
        raise UserError(f'{name}: the optimizer groups do not name their layers; {remedy}.')
    indices = [group['block'] for group in groups if group['block'] is not None]
    if not indices:
        raise UserError(f'{name}: no block trains, so there is none to open; freeze fewer layers.')
    return max(indices) + 1


def check_blocks(name: str, state_dict: Mapping[str, Any], blocks: int) -> None:
    """Refuse the state of a scheduler of a model with another number of blocks."""
    if state_dict.get('blocks', blocks) != blocks:
        raise UserError(
            f'{name}: the state is of a model with {state_dict["blocks"]} blocks, this one has {blocks}; resume with '
            'the model it was written for.'
        )


def open_groups(
    optimizers: Iterable[Optimizer],
    places: Sequence[Sequence[Place]],
    wanted: Callable[[Place], bool],
    forget: bool = False,
) -> None:
    """Let exactly those parameters of optimizers train whose place is wanted.

    Args:
        optimizers: The optimizers.
        places: The place of every parameter, by group of all of them.
        wanted: Whether a place trains.
        forget: Whether what is closed loses its state, so that it opens again with a fresh one. Not when a scheduler is
            built, as the optimizer's state may have been loaded before. Defaults to False.
    """
    changed, remaining = False, iter(places)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for param, place in zip(group['params'], next(remaining)):
                trains = wanted(place)
                changed |= set_trainable([param], trains)
                if forget and not trains:  # also where it is closed already: the state may be of within a window
                    optimizer.state.pop(param, None)
    if changed:
        torch._dynamo.reset()  # compiled code keeps the backward pass it was compiled with


def outer_rates(
    rates: Sequence[float], factors: Sequence[float] | None, outer: Sequence[float], applied: Sequence[float]
) -> list[float]:
    """The learning rates as the other schedulers set them.

    If none has changed a rate it is not divided: rounding would add up over thousands of steps.

    Args:
        rates: The present ones (G,).
        factors: By which this scheduler has multiplied them (G,); ``None`` if it has not yet.
        outer: The last result of this function (G,).
        applied: The rates as this scheduler set them last (G,).
    """
    if factors is None:
        return list(rates)
    return [
        before if rate == own else rate / factor for before, rate, own, factor in zip(outer, rates, applied, factors)
    ]


def _check_held(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer over other parameters than those that train."""
    held = {id(param) for group in optimizer.param_groups for param in group['params']}
    remedy = 'build the optimizer from param_groups(model, ...)'
    frozen = [name for name, param in model.named_parameters() if id(param) in held and not param.requires_grad]
    if frozen:
        raise UserError(
            f'{_NAME}: the optimizer holds {len(frozen)} frozen parameters ({frozen[0]}, ...), which the schedule '
            f'would open; {remedy}.'
        )
    missing = [name for name, param in model.named_parameters() if id(param) not in held and param.requires_grad]
    if missing:
        raise UserError(
            f'{_NAME}: {len(missing)} parameters of the model train ({missing[0]}, ...) and are not in the optimizer; '
            f'{remedy}.'
        )
