"""A run's schedule step by step, from its config alone: what trains, every rate, and the cost of each phase."""

import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import PARAM_SCHEDULERS

from ..layers import list_layers
from ..optim.composition import check_composition
from ..optim.gradual_unfreezing import GradualUnfreezingLR
from ..optim.places import Place, flat, places_of, short_names
from ..runner.config_check import check_counting
from ..utils.errors import UserError
from ..utils.names import type_name
from ..utils.patching import replaced
from .layer_table import build_model
from .phases import Phase, method_of
from .predict import PhasePrediction, Predictor
from .setup import autocast_of
from .split_sizes import iterations_per_epoch

_GROUPS = ('optimizer', 'constructor', 'paramwise_cfg')  # of optim_wrapper: what the groups depend on


@dataclass(frozen=True)
class TracedPhase:
    """A stretch of a run in which the same parameters train, or a phase of a schedule in phases.

    Attributes:
        start: Its first step.
        steps: Number of its steps.
        opens, closes: Layers that begin and cease to train, a block by its name.
        trained: Blocks and layers outside them of which something trains.
        layers: Names of all layers that train.
        frozen: Names of all others.
        open_blocks: Number of blocks of which a layer trains.
        parameters: Number of scalars that train.
        cost: Memory and FLOPs of a step; ``None`` if the model cannot be traced.
    """

    start: int
    steps: int
    opens: tuple[str, ...]
    closes: tuple[str, ...]
    trained: frozenset[str]
    layers: tuple[str, ...]
    frozen: tuple[str, ...]
    open_blocks: int
    parameters: int
    cost: PhasePrediction | None = None


@dataclass(frozen=True)
class ScheduleTrace:
    """The schedule of a run.

    Attributes:
        unit: What a step is: ``'epoch'`` or ``'iteration'``.
        phases: In order of time.
        rates: Group (or groups with the same rates all the time, by the first name) -> learning rate at each step (S,);
            NaN while it does not train.
        names: Blocks and layers outside them, from input to output, that the optimizer holds.
        epoch_length: Iterations per epoch, if known.
        scheduler: The scheduler of the run, at its end.
        model: The model, without weights.
    """

    unit: str
    phases: tuple[TracedPhase, ...]
    rates: dict[str, list[float]]
    names: tuple[str, ...]
    epoch_length: int | None
    scheduler: GradualUnfreezingLR = field(repr=False)
    model: torch.nn.Module = field(repr=False)

    @property
    def steps(self) -> int:
        """Number of steps of the run."""
        return sum(phase.steps for phase in self.phases)

    @property
    def shares_of_time(self) -> list[float] | None:
        """Share of the run's operations of each phase (P,); ``None`` without costs."""
        if any(phase.cost is None for phase in self.phases):
            return None
        flops = [phase.cost.flops * phase.steps for phase in self.phases]
        return [value / sum(flops) for value in flops]

    def flops(self, phase: TracedPhase) -> float | None:
        """FLOPs of a phase in one process; ``None`` if they or the number of its iterations are not known."""
        iterations = phase.steps if self.unit == 'iteration' else self.epoch_length and phase.steps * self.epoch_length
        return None if phase.cost is None or not iterations else phase.cost.flops * iterations


def trace_schedule(cfg: Config, epoch_length: int | None = None, costs: bool = True) -> ScheduleTrace:
    """Follow the schedule of a config through its run, on a model without weights.

    The optimizer and all schedulers are those of the config, so that the rates are those that training will have.

    Args:
        cfg: A full config with a ``GradualUnfreezingLR``.
        epoch_length: Iterations per epoch. Default: from the training data and the batch size, if they are known.
        costs: Whether to predict memory and FLOPs of every phase.

    Raises:
        UserError: The config has no such schedule or does not fit it, a schedule by iterations needs the number of
            iterations per epoch, or it does not fit the layers or the length of the run.
    """
    schedulers = cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else list(schedulers)
    loop = cfg.get('train_cfg') or {}
    if not any(type_name(one) == 'GradualUnfreezingLR' for one in schedulers) or 'optim_wrapper' not in cfg:
        raise UserError(
            f'{cfg.filename or "the config"}: has no GradualUnfreezingLR, so there is no schedule to print; add it to '
            'param_scheduler (docs/schedules.md).'
        )
    if epoch_length is None:
        with suppress(UserError, AttributeError, KeyError):
            epoch_length = iterations_per_epoch(cfg)
    epochs, iterations = loop.get('max_epochs'), loop.get('max_iters')
    if not epochs and not iterations:
        raise UserError(f'{cfg.filename or "the config"}: train_cfg has neither max_epochs nor max_iters; set one.')
    check_counting(cfg)
    by_iteration = not epochs or any(not s.get('by_epoch', True) or s.get('convert_to_iter_based') for s in schedulers)
    if epochs and by_iteration:
        if epoch_length is None:
            raise UserError(
                f'{cfg.filename}: its schedule counts iterations and the size of its training data is not known; give '
                '--epoch-length (iterations per epoch).'
            )
        iterations = epochs * epoch_length
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = build_model(cfg, adapters=True)
    with replaced(MMLogger.get_current_instance(), 'disabled', True):  # what trains is what the table says
        wrapper = build_optim_wrapper(
            model, {key: cfg.optim_wrapper[key] for key in _GROUPS if key in cfg.optim_wrapper}
        )
    built = []
    for one in schedulers:
        end = epochs if one.get('by_epoch', True) else iterations
        arguments = dict(optimizer=wrapper, epoch_length=epoch_length)
        built.append(PARAM_SCHEDULERS.build({'end': end, **one.to_dict()}, default_args=arguments))
    check_composition(built)
    places = flat(places_of(wrapper.optimizer.param_groups))
    follower = _Follower(model, next(one for one in built if isinstance(one, GradualUnfreezingLR)))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # no optimizer step comes before theirs
        for step in range(iterations if by_iteration else epochs):
            follower.look(step, wrapper.optimizer.param_groups)
            for one in built:
                if not (one.by_epoch and by_iteration) or (epochs and (step + 1) % epoch_length == 0):
                    one.step()
    names = dict.fromkeys(place.block_name for place in places)
    phases = follower.phases(iterations if by_iteration else epochs, places)
    if costs:
        phases = _with_costs(cfg, phases)
    rates = follower.rates([str(group['name']) for group in wrapper.optimizer.param_groups])
    unit = 'iteration' if by_iteration else 'epoch'
    return ScheduleTrace(unit, tuple(phases), rates, tuple(names), epoch_length, follower.scheduler, model)


class _Follower:
    """Notes what trains, and every rate, while the schedulers step."""

    def __init__(self, model: torch.nn.Module, scheduler: GradualUnfreezingLR) -> None:
        self._layers, self.scheduler = list_layers(model), scheduler
        self._found: list[tuple[int, int, int, list[str], int]] = []  # step, phase, blocks, layers, parameters
        self._rates: list[list[float]] = []
        self._trained: list[list[bool]] = []

    def look(self, step: int, groups: Sequence[dict]) -> None:
        self._rates.append([group['lr'] for group in groups])
        self._trained.append([any(param.requires_grad for param in group['params']) for group in groups])
        phase = self.scheduler.plan.phase_at(self.scheduler.position)
        if self._found and self._found[-1][1] == phase:
            return
        layers = [x.name for x in self._layers if any(param.requires_grad for param in x.params.values())]
        count = sum(param.numel() for x in self._layers for param in x.params.values() if param.requires_grad)
        self._found.append((step, phase, self.scheduler.open_blocks, layers, count))

    def phases(self, steps: int, places: Sequence[Place]) -> list[TracedPhase]:
        ends, before, found = [*(one[0] for one in self._found[1:]), steps], set(), []
        for (start, _, blocks, layers, count), end in zip(self._found, ends):
            opens, closes = (short_names(names, places) for names in ({*layers} - before, before - {*layers}))
            frozen = tuple(x.name for x in self._layers if x.name not in layers)
            trained = frozenset(place.block_name for place in places if place.layer in layers)
            found.append(
                TracedPhase(
                    start, end - start, tuple(opens), tuple(closes), trained, tuple(layers), frozen, blocks, count
                )
            )
            before = {*layers}
        return found

    def rates(self, names: Sequence[str]) -> dict[str, list[float]]:
        merged: dict[tuple[str, ...], str] = {}
        found: dict[str, list[float]] = {}
        for name, values, trained in zip(names, zip(*self._rates), zip(*self._trained)):
            first = merged.setdefault(tuple(f'{value:.9g}' for value in values), name)  # they are rounded differently
            own = found.setdefault(first, [math.nan] * len(values))
            found[first] = [value if train else kept for value, train, kept in zip(values, trained, own)]
        return {name: values for name, values in found.items() if not all(map(math.isnan, values))}


def _with_costs(cfg: Config, phases: Sequence[TracedPhase]) -> list[TracedPhase]:
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    batch_size = (cfg.get('train_dataloader') or {}).get('batch_size', 32)
    predictor, method = Predictor(cfg, device, batch_size, autocast_of(cfg)), method_of(cfg, 'gradual-unfreezing')
    layers, steps = {x.name: x for x in predictor.layers_of(method)}, sum(phase.steps for phase in phases)
    wanted = [
        Phase(phase.open_blocks, phase.steps / steps, tuple(layers[name] for name in phase.frozen), method.train)
        for phase in phases
    ]
    costs = predictor.predict_phases(method, wanted).phases
    return [TracedPhase(**{**vars(phase), 'cost': cost}) for phase, cost in zip(phases, costs)]
