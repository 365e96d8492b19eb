"""What trains and how fast, as functions of the step: the named schedules, and one for either kind of option.

Needs PyTorch alone. :mod:`.phase_schedule` has the schedules that a user writes.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

from ..utils.errors import UserError
from .phase_schedule import PhaseSchedule
from .places import Place, flat, short_names, units_of
from .schedule import lr_factor, open_blocks, trains

UNITS = ('block', 'stage')
ORDERS = ('top-down', 'bottom-up')
PAPER_DECAY = 3.73
PAPER = {'schedule': 'paper', 'per': 'block', 'max_depth': None, 'order': 'top-down'}  # the default of every option


class Schedule(Protocol):
    """What a scheduler asks; a step is counted from the beginning of the schedule and may be before or after it."""

    def phase_at(self, step: int) -> int:
        """A number that changes when what trains does, or when a phase ends."""

    def stretches(self) -> list[tuple[int, int]]:
        """First step and number of steps of every phase (P, 2)."""

    def open_blocks(self, step: int) -> int:
        """Number of blocks that train."""

    def trains(self, step: int) -> Callable[[Place], bool]:
        """Whether the parameters of a place train."""

    def factor(self, step: int) -> float:
        """By what the learning rate is multiplied."""

    def factors(self, step: int) -> list[float]:
        """By what that of each group is multiplied (G,)."""


class NamedSchedule:
    """Units (blocks or stages) open one after another by a formula of :mod:`.schedule`.

    Args:
        curve: One of :data:`ftsgd_plugin.optim.schedule.CURVES`.
        places: The place of every parameter, by group.
        total: Steps of the schedule.
        decay, warmup, cooldown: As in :func:`ftsgd_plugin.optim.schedule.lr_factor`.
        per: ``'block'`` or ``'stage'``.
        max_depth: The most units that open; ``None`` for all.
        order: ``'top-down'`` or ``'bottom-up'``.
    """

    def __init__(
        self,
        curve: str,
        places: Sequence[Sequence[Place]],
        total: int,
        decay: float,
        warmup: int,
        cooldown: int,
        per: str = 'block',
        max_depth: int | None = None,
        order: str = 'top-down',
    ) -> None:
        self._curve, self._total, self._decay = curve, total, decay
        self._held, self._bottom_up = {'warmup': warmup, 'cooldown': cooldown}, order == 'bottom-up'
        self._groups, self._places = len(places), flat(places)
        self._units = units_of(self._places, per)
        self._count = max(self._units.values(), default=-1) + 1
        self._most = self._count if max_depth is None else min(max_depth, self._count)

    def phase_at(self, step: int) -> int:
        """Number of units that train."""
        return open_blocks(step, self._most, self._total, **self._held, curve=self._curve)

    def stretches(self) -> list[tuple[int, int]]:
        """First step and number of steps of every depth (P, 2)."""
        starts = [step for step in range(self._total) if step == 0 or self.phase_at(step) != self.phase_at(step - 1)]
        return [(start, end - start) for start, end in pairwise([*starts, self._total])]

    def open_blocks(self, step: int) -> int:
        """Number of blocks that train."""
        opened = self.phase_at(step)
        return sum(trains('block', unit, opened, self._count, self._bottom_up) for unit in self._units.values())

    def trains(self, step: int) -> Callable[[Place], bool]:
        """Whether the parameters of a place train."""
        opened = self.phase_at(step)
        return lambda place: trains(place.role, self._units.get(place.block), opened, self._count, self._bottom_up)

    def factor(self, step: int) -> float:
        """By what the learning rate is multiplied."""
        return lr_factor(step, self._total, **self._held, decay=self._decay, curve=self._curve)

    def factors(self, step: int) -> list[float]:
        """By what that of each group is multiplied (G,)."""
        return [self.factor(step)] * self._groups

    def document(self, unit: str) -> dict[str, Any]:
        """This schedule in phases, to be edited: exactly the same, for this model and this length of the run.

        Args:
            unit: ``'epochs'`` or ``'steps'``, what a step is.
        """
        rate = {'curve': self._curve, 'decay': self._decay}
        rate |= {key: f'{value} {unit}' for key, value in self._held.items() if value}
        phases, opened = [], set()
        for start, steps in self.stretches():
            layers = {place.layer for place in filter(self.trains(start), self._places)}
            names = short_names(layers - opened, self._places)
            phases.append({'layers': names[::-1], 'length': f'{steps} {unit if steps > 1 else unit[:-1]}'})
            opened = layers
        del phases[-1]['length']
        return {'lr': rate, 'phases': phases}


def make_schedule(
    name: str,
    places: Sequence[Sequence[Place]],
    total: int,
    options: Mapping[str, Any],
    *,
    decay: float = PAPER_DECAY,
    warmup: int = 0,
    cooldown: int = 0,
    by_epoch: bool = False,
    epoch_length: int | None = None,
) -> NamedSchedule | PhaseSchedule:
    """The schedule of a scheduler's options.

    Args:
        name: The scheduler, for messages.
        places: The place of every parameter, by group.
        total: Steps of the schedule.
        options: ``schedule`` (a name or a document, see :func:`.schedule_document.read_document`), ``per``,
            ``max_depth`` and ``order``; the paper's by default.
        decay, warmup, cooldown: As in :func:`ftsgd_plugin.optim.schedule.lr_factor`.
        by_epoch: Whether steps are epochs.
        epoch_length: Iterations per epoch, if steps are iterations and it is known.

    Raises:
        UserError: An option is not what it has to be, options cannot be combined, or phases do not fit the layers or
            the run.
    """
    options = {**PAPER, **options}
    _check_options(name, options)
    if isinstance(options['schedule'], str):
        rest = {key: options[key] for key in ('per', 'max_depth', 'order')}
        return NamedSchedule(options['schedule'], places, total, decay, warmup, cooldown, **rest)
    given = [key for key in ('per', 'max_depth', 'order') if options[key] != PAPER[key]]
    given += [key for key, value in (('warmup', warmup), ('cooldown', cooldown)) if value]
    rate = options['schedule'].get('lr')
    if decay not in (PAPER_DECAY, rate.get('decay') if isinstance(rate, Mapping) else None):
        given.append('decay')
    if given:
        raise UserError(
            f'{name}: {given[0]} belongs to the named schedules, and this one has phases; remove it, and say in the '
            'phases what opens and how fast (lr: {curve: paper, decay: ...}).'
        )
    return PhaseSchedule(
        options['schedule'], places, total, f'{name}: schedule', by_epoch=by_epoch, epoch_length=epoch_length
    )


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    for key, known in (('per', UNITS), ('order', ORDERS)):
        if options[key] not in known:
            raise UserError(f'{name}: {key}={options[key]!r} is none of {", ".join(map(repr, known))}; correct it.')
    depth = options['max_depth']
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 0):
        raise UserError(f'{name}: max_depth={depth!r} is not a whole number >= 0; leave it out to open everything.')
