"""When a phase ends before its length: the ID metric has not improved for so many evaluations. Plain values only.

The decision is a function of the recorded evaluations, and what trains afterwards of the recorded decisions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..utils.errors import UserError
from ..utils.metrics import ID_METRIC, better_rule
from ..utils.names import did_you_mean

ENDING_KEYS = ('patience', 'metric', 'rule', 'min_delta', 'restore_best')  # of a phase in a document
_OOD = ('ood', 'group')  # where a metric's key says that it is of OOD data


@dataclass(frozen=True)
class Ending:
    """How a phase of a schedule may end.

    Attributes:
        patience: Evaluations without an improvement after which it ends; ``None``: it has its length.
        metric: The metric, of the ID data.
        rule: ``'greater'`` or ``'less'``: which values are better.
        min_delta: What a value must be better by.
        restore_best: Whether the next phase starts with the weights of the best evaluation of this one.
    """

    patience: int | None = None
    metric: str = ID_METRIC
    rule: str = 'greater'
    min_delta: float = 0.0
    restore_best: bool = False

    @property
    def watches(self) -> bool:
        """Whether evaluations count."""
        return self.patience is not None or self.restore_best

    @classmethod
    def of(cls, phase: Mapping[str, Any]) -> 'Ending':
        """From the keys of a phase."""
        given = {key: phase[key] for key in ENDING_KEYS if phase.get(key) is not None}
        metric = given.get('metric', ID_METRIC)
        return cls(**{'rule': better_rule(metric) or 'greater', **given})

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best so far; NaN never is."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value > best + self.min_delta if self.rule == 'greater' else value < best - self.min_delta

    def value_in(self, metrics: Mapping[str, float]) -> float:
        """The metric's value.

        Raises:
            UserError: The evaluation does not report it.
        """
        if self.metric not in metrics:
            raise UserError(
                f'schedule: metric={self.metric!r}: the evaluation reports no such metric; '
                f'{did_you_mean(self.metric, metrics)}'
            )
        return float(metrics[self.metric])


def check_ending(phase: Mapping[str, Any], label: str, last: bool) -> None:
    """Refuse keys of a phase by which it cannot end.

    Args:
        phase: The phase.
        label: What messages begin with.
        last: Whether it is the last one.

    Raises:
        UserError: A value is not what it has to be, the metric is of OOD data, or nothing comes after the phase.
    """
    given = [key for key in ENDING_KEYS if key in phase]
    if not given:
        return
    if last:
        raise UserError(
            f'{label}: {given[0]} ends a phase before the next, and this is the last; to stop the run use '
            "custom_hooks=[dict(type='EarlyStoppingHook', monitor='id/accuracy', rule='greater')]."
        )
    patience, delta, metric = phase.get('patience'), phase.get('min_delta', 0.0), phase.get('metric', ID_METRIC)
    if patience is not None and (not isinstance(patience, int) or isinstance(patience, bool) or patience < 1):
        raise UserError(f'{label}: patience={patience!r} is not a whole number of evaluations >= 1; correct it.')
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 <= delta < math.inf:
        raise UserError(f'{label}: min_delta={delta!r} is not a finite number >= 0; correct it.')
    if not isinstance(phase.get('restore_best', False), bool):
        raise UserError(f'{label}: restore_best={phase["restore_best"]!r} is neither true nor false; correct it.')
    if not isinstance(metric, str):
        raise UserError(f'{label}: metric={metric!r} is not the key of a metric; write {ID_METRIC!r}.')
    if metric.partition('/')[0] in _OOD:
        raise UserError(f'{label}: metric={metric!r} is of the OOD data, which must not select; use {ID_METRIC!r}.')
    rule, better = phase.get('rule'), better_rule(metric)
    if rule not in (None, 'greater', 'less') or (None not in (rule, better) and rule != better):
        raise UserError(f'{label}: rule={rule!r} is not that of {metric!r}; write {better or "greater"!r}.')
    if patience is None and not phase.get('restore_best'):
        raise UserError(f'{label}: {given[0]} without patience or restore_best does nothing; add one of them.')


@dataclass(frozen=True)
class Observed:
    """What an evaluation means for a schedule.

    Attributes:
        phase: Index of the phase that was evaluated.
        value: The metric's value.
        improved: Whether it is the best of the phase.
        ended: Whether the phase ends here, before its length.
        best: The best value of the phase.
        best_step: The step after which it was.
        evaluations: Number of evaluations of the phase.
    """

    phase: int
    value: float
    improved: bool
    ended: bool
    best: float | None
    best_step: int | None
    evaluations: int


class PhaseEnds:
    """The evaluations of the present phase, and the decisions so far.

    Args:
        state: What :attr:`state` was; ``None`` at the start of a run.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.ended: list[dict[str, float]] = [dict(row) for row in state.get('ended', [])]
        self._watch: dict[str, Any] = dict(state.get('watch', {}))

    @property
    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {'ended': [dict(row) for row in self.ended], 'watch': dict(self._watch)}

    @property
    def steps(self) -> dict[int, int]:
        """Index of each phase that has ended before its length -> the step at which the next one started."""
        return {int(row['phase']): int(row['step']) for row in self.ended}

    def compare(self, before: Sequence[Ending], now: Sequence[Ending]) -> None:
        """Forget the evaluations of the present phase if it watches another metric now; the decisions stay.

        Args:
            before: How each phase might end when they were made (P,).
            now: How each may end now (P,).
        """
        phase = self._watch.get('phase')
        if phase is not None and (before[phase].metric, before[phase].rule) != (now[phase].metric, now[phase].rule):
            self._watch = {}

    def observe(
        self, metrics: Mapping[str, float], step: int, phase: int, endings: Sequence[Ending], end: int
    ) -> Observed | None:
        """Take note of an evaluation.

        Args:
            metrics: Its values.
            step: Steps of the schedule before it.
            phase: Index of the phase that trained in the last of them.
            endings: How each phase may end (P,).
            end: The step at which the phase ends by its length.

        Returns:
            Observed | None: ``None`` if the phase does not watch, or this step has been evaluated before.
        """
        ending = endings[phase]
        if not ending.watches or self._watch.get('step') == step:
            return None
        value = ending.value_in(metrics)
        if self._watch.get('phase') != phase:
            self._watch = {'phase': phase, 'best': None, 'best_step': None, 'since': 0, 'evaluations': 0}
        watch = self._watch
        improved = ending.improves(value, watch['best'])
        watch.update(step=step, evaluations=watch['evaluations'] + 1, since=0 if improved else watch['since'] + 1)
        if improved:
            watch.update(best=value, best_step=step)
        ended = ending.patience is not None and watch['since'] >= ending.patience and step < end
        if ended:
            row = {'phase': phase, 'step': step, 'evaluations': watch['evaluations']}
            row |= {key: watch[key] for key in ('best', 'best_step') if watch[key] is not None}
            self.ended.append(row)
        return Observed(
            phase, value, improved, ended, watch['best'], watch['best_step'], evaluations=watch['evaluations']
        )


class EndsPhases:
    """What schedulers share whose phases may end by an evaluation; they have ``_plan``, ``_ends`` and ``position``."""

    @property
    def plan(self) -> Any:
        """The schedule as functions of the position, :class:`ftsgd_plugin.optim.schedules.Schedule`."""
        return self._plan

    @property
    def endings(self) -> tuple[Ending, ...]:
        """How each phase may end (P,); empty for a schedule without phases."""
        return getattr(self._plan, 'endings', ())

    @property
    def watches(self) -> bool:
        """Whether evaluations count."""
        return any(ending.watches for ending in self.endings)

    @property
    def ended(self) -> list[dict[str, float]]:
        """The phases that have ended before their length: ``phase`` (from 0), ``step``, ``best``, ``best_step``."""
        return self._ends.state['ended']

    def observe(self, metrics: Mapping[str, float]) -> Observed | None:
        """Take note of an evaluation; if the phase ends by it, the next one starts here.

        Args:
            metrics: Its values by key, the same on all ranks.

        Returns:
            Observed | None: ``None`` if the phase does not wait for evaluations.

        Raises:
            UserError: The metric of the phase is not among them.
        """
        if not self.watches or self.position < 1:
            return None
        phase = self._plan.phase_at(self.position - 1)
        observed = self._ends.observe(metrics, self.position, phase, self.endings, self._plan.end_of(phase))
        if observed is not None and observed.ended:
            self._plan = self._plan.ending(self._ends.steps)
            self._apply_phase()
        return observed

    def adopt_ends(self, state: Mapping[str, Any]) -> None:
        """Keep the decisions of another state before its steps are taken again, if the phases are as many."""
        schedule = state.get('schedule')
        if isinstance(schedule, Mapping) and len(schedule.get('phases', ())) == len(self.endings):
            self._take_ends(state)
            self._ends.compare(list(map(Ending.of, schedule['phases'])), self.endings)

    def _take_ends(self, state: Mapping[str, Any]) -> None:
        """Continue with the evaluations and decisions of a state."""
        self._ends = PhaseEnds(state.get('_ends'))
        if self._ends.ended:
            self._plan = self._plan.ending(self._ends.steps)

    def _state_of_ends(self) -> dict[str, Any]:
        return {'_ends': self._ends.state} if self.watches or self.ended else {}

    def _apply_phase(self) -> None:
        """Set what trains, and the rates, of the present position."""
        raise NotImplementedError
