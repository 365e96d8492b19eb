"""A schedule in phases, as a user writes it, for the layers of a model and the length of a run. Needs PyTorch alone."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from ..utils.errors import UserError
from ..utils.names import did_you_mean
from .phase_ends import Ending
from .places import Place, flat, matching, short_names
from .schedule import cosine, lr_factor
from .schedule_document import REST, names_in, parse_length


@dataclass(frozen=True)
class TrainPhase:
    """A phase of a run.

    Attributes:
        layers: Names of the layers that train in it.
        steps: Its length; that of the last phase is what the run leaves.
        rates: First and last factor of the base rate; ``None``: the run's own.
        curve: How the factor goes from the first to the last.
        multipliers: Further factor of each group (G,).
        warmup: Steps at its start in which the rate rises from near zero.
    """

    layers: frozenset[str]
    steps: int
    rates: tuple[float, float] | None
    curve: str
    multipliers: tuple[float, ...]
    warmup: int


class PhaseSchedule:
    """Phases one after another; each says which layers open and what becomes of the learning rate.

    In phase p, at its step i of n, the rate of a group is the base rate times

    - the run's factor, or the phase's: from a to b along linear a + (b - a) i / n, cosine, or a (b / a)^(i / n);
    - (i + 1) / (w + 1) in the first w steps of its ``lr_warmup``;
    - its ``lr_mult``.

    These are the rates of ``torch.optim.lr_scheduler``'s ``LinearLR``, ``CosineAnnealingLR`` and ``ExponentialLR`` of n
    steps.

    Args:
        document: A checked document, see :func:`.schedule_document.read_document`.
        places: The place of every parameter, by group.
        total: Steps of the schedule.
        label: What messages begin with.
        by_epoch: Whether steps are epochs.
        epoch_length: Iterations per epoch, if steps are iterations and it is known.

    Raises:
        UserError: A phase names an unknown layer, opens one that is open, closes one without saying so or one that is
            closed; multiplies the rate of a part of a group, or a rate twice; is shorter than a step; or the phases are
            longer or shorter than the run.
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        places: Sequence[Sequence[Place]],
        total: int,
        label: str,
        *,
        by_epoch: bool = False,
        epoch_length: int | None = None,
    ) -> None:
        self._places, self._total = flat(places), total
        self._units = dict(total=total, by_epoch=by_epoch, epoch_length=epoch_length)
        self._run = _run_curve(document.get('lr', 'constant'), label, self._units)
        steps = self._lengths(document['phases'], label)
        phases, opened = [], _Opened(self._places)
        for i, (phase, length) in enumerate(zip(document['phases'], steps), start=1):
            where = f'{label}: phase {i}'
            layers = opened.after(phase, i, where)
            rate = phase.get('lr')
            rates = None if rate is None else tuple(rate) if isinstance(rate, list) else (rate, rate)
            multipliers = tuple(_multipliers(phase.get('lr_mult', {}), layers, places, where))
            warmup = _in_steps('lr_warmup', phase, where, self._units) if 'lr_warmup' in phase else 0
            if warmup > length:
                raise UserError(
                    f'{where}: lr_warmup of {warmup} steps is longer than the phase of {length}; shorten it.'
                )
            phases.append(TrainPhase(layers, length, rates, phase.get('curve', 'linear'), multipliers, warmup))
        self.phases = tuple(phases)
        self.endings = tuple(map(Ending.of, document['phases']))
        self.starts = tuple(accumulate([0, *steps[:-1]]))  # the step at which each phase starts (P,)

    def ending(self, ended: Mapping[int, int]) -> 'PhaseSchedule':
        """This schedule with phases that end before their length, which is the most they last.

        Args:
            ended: Index of such a phase -> the step at which the next one starts.
        """
        other, starts = copy(self), [0]
        for i, phase in enumerate(self.phases[:-1]):
            end = starts[-1] + phase.steps
            starts.append(min(ended.get(i, end), end))
        other.starts = tuple(starts)
        return other

    def end_of(self, phase: int) -> int:
        """The step at which a phase ends."""
        return [*self.starts[1:], self._total][phase]

    def phase_at(self, step: int) -> int:
        """Index of the phase of a step; before the schedule the first, after it the last."""
        return max(bisect_right(self.starts, step) - 1, 0)

    def stretches(self) -> list[tuple[int, int]]:
        """First step and number of steps of every phase (P, 2)."""
        return [(start, end - start) for start, end in pairwise([*self.starts, self._total])]

    def open_blocks(self, step: int) -> int:
        """Number of blocks of which a layer trains."""
        layers = self.phases[self.phase_at(step)].layers
        return len({place.block for place in self._places if place.block is not None and place.layer in layers})

    def trains(self, step: int) -> Callable[[Place], bool]:
        """Whether the parameters of a place train."""
        layers = self.phases[self.phase_at(step)].layers
        return lambda place: place.layer in layers

    def factor(self, step: int) -> float:
        """By what the learning rate is multiplied, without the multipliers."""
        index = self.phase_at(step)
        phase, start = self.phases[index], self.starts[index]
        done = max(step - start, 0)
        steps = phase.steps if index + 1 < len(self.phases) else max(self._total - start, 1)
        share = min(done / steps, 1.0)  # a plain loop may step on after the end; a line would go below zero
        factor = self._run_factor(step) if phase.rates is None else _between(*phase.rates, phase.curve, share)
        if done < phase.warmup:
            factor *= (done + 1) / (phase.warmup + 1)
        return factor

    def factors(self, step: int) -> list[float]:
        """By what that of each group is multiplied (G,)."""
        factor = self.factor(step)
        return [factor * multiplier for multiplier in self.phases[self.phase_at(step)].multipliers]

    def _run_factor(self, step: int) -> float:
        return 1.0 if self._run is None else lr_factor(step, self._total, **self._run)

    def _lengths(self, phases: Sequence[Mapping], label: str) -> list[int]:
        """Steps of every phase; ends are rounded, not lengths, so that three thirds are the whole."""
        ends, reached = [], 0.0
        for i, phase in enumerate(phases, start=1):
            if 'length' in phase:
                where = f'{label}: phase {i}: length={phase["length"]!r}'
                reached += parse_length(phase['length'], where).in_steps(label=where, **self._units)
            else:
                reached = max(self._total, reached)
            ends.append(int(reached + 0.5))
        unit = 'epochs' if self._units['by_epoch'] else 'steps'
        for i, (before, end) in enumerate(pairwise([0, *ends]), start=1):
            last = i == len(ends)
            if end > self._total or (last and before >= self._total):
                what = 'ends' if end > self._total else 'starts'
                raise UserError(
                    f'{label}: phase {i} {what} after {max(before, end):g} {unit}, '
                    f'and the run has {self._total}; shorten the phases or lengthen the run.'
                )
            if end == before:
                raise UserError(f'{label}: phase {i} is shorter than one of the {self._total} {unit}; lengthen it.')
        if ends[-1] < self._total:
            raise UserError(
                f'{label}: the phases end after {ends[-1]} of {self._total} {unit}; leave out the length of the last '
                'phase, which then lasts to the end of the run.'
            )
        return [end - before for before, end in pairwise([0, *ends])]


class _Opened:
    """Which layers are open, phase after phase."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._all = {place.layer for place in places}
        self._known = sorted(self._all | {place.block_name for place in places})
        self._since: dict[str, int] = {}  # layer -> phase that opened it

    def after(self, phase: Mapping[str, Any], number: int, label: str) -> frozenset[str]:
        """The layers that train in the next phase."""
        closed = self._named(phase.get('close', []), label, 'close')
        self._refuse(closed - self._since.keys(), f'{label}: closes', ', which is not open; remove it from close.')
        if 'only' in phase:
            wanted = self._named(phase['only'], label, 'only')
            lost = self._since.keys() - wanted - closed
            self._refuse(lost, f'{label}: closes', ' again without saying so; add it to only, or to close.')
            self._refuse(wanted & closed, f'{label}: only and close both name', '; remove it from one of them.')
            new = wanted - self._since.keys()
        else:
            new = self._named(phase.get('layers', []), label, 'layers')
            self._refuse(new & closed, f'{label}: layers and close both name', '; remove it from one of them.')
            twice = new & self._since.keys()
            since = f', which phase {max((self._since[name] for name in twice), default=0)} has opened'
            self._refuse(twice, f'{label}: opens', f"{since}; remove it, or write 'rest' for what is still closed.")
        for name in closed:
            del self._since[name]
        self._since.update(dict.fromkeys(new, number))
        if not self._since:
            raise UserError(f'{label}: nothing trains; name its layers.')
        return frozenset(self._since)

    def _named(self, names: Any, label: str, key: str) -> set[str]:
        found: set[str] = set()
        for pattern in names_in(names):
            if pattern == REST:
                found |= {*self._since} if key == 'close' else self._all - self._since.keys()
                continue
            layers = matching(pattern, self._places)
            if not layers:
                raise UserError(
                    f'{label}: {key}: {pattern!r} matches no layer of the optimizer (what freeze names is in none); '
                    f'{did_you_mean(pattern, self._known)}'
                )
            found |= layers
        return found

    def _refuse(self, names: set[str], before: str, after: str) -> None:
        if names:
            shown = short_names(names, self._places)
            raise UserError(f'{before} {shown[0]!r}{f" and {len(shown) - 1} more" if len(shown) > 1 else ""}{after}')


def _run_curve(value: Any, label: str, units: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of :func:`lr_factor`; ``None``: the factor is 1."""
    options = dict(value) if isinstance(value, Mapping) else {'curve': value}
    if options['curve'] == 'constant':
        return None
    for key in ('warmup', 'cooldown'):
        if key in options:
            options[key] = _in_steps(key, options, f'{label}: lr', units)
    return options


def _in_steps(key: str, options: Mapping[str, Any], label: str, units: Mapping[str, Any]) -> int:
    """A length in whole steps; one that is rounded to none would do nothing without a word."""
    where = f'{label}: {key}={options[key]!r}'
    steps = int(parse_length(options[key], where).in_steps(label=where, **units) + 0.5)
    if not steps:
        raise UserError(f'{where} is shorter than half a step of the schedule; lengthen it, or leave it out.')
    return steps


def _multipliers(
    wanted: Mapping[str, float], layers: frozenset[str], groups: Sequence[Sequence[Place]], label: str
) -> list[float]:
    """The factor of every group; of a group, all that trains must have the same."""
    found: dict[str, tuple[str, float]] = {}  # layer -> pattern, factor
    known = flat(groups)
    for pattern, factor in wanted.items():
        names = matching(pattern, known) & layers
        if not names:
            raise UserError(f'{label}: lr_mult[{pattern!r}] names no layer that trains in this phase; remove it.')
        for name in sorted(names & found.keys()):
            raise UserError(
                f'{label}: lr_mult[{found[name][0]!r}] and [{pattern!r}] both name {name!r}; make them disjoint.'
            )
        found.update(dict.fromkeys(names, (pattern, factor)))
    factors = []
    for group in groups:
        open_places = [place for place in group if place.layer in layers]
        values = {found.get(place.layer, ('', 1.0))[1] for place in open_places}
        if len(values) > 1:
            part = next(place.layer for place in open_places if place.layer in found)
            raise UserError(
                f'{label}: lr_mult[{found[part][0]!r}] is for a part of {open_places[0].block_name!r}, whose '
                'parameters share a learning rate; name all of it, or give the part its own by '
                'paramwise_cfg.custom_keys.'
            )
        factors.append(values.pop() if values else 1.0)
    return factors


def _between(first: float, last: float, curve: str, share: float) -> float:
    if first == last:
        return first
    if curve == 'exponential':
        return first * (last / first) ** share
    return first + (last - first) * (cosine(share) if curve == 'cosine' else share)
