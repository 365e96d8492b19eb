"""A linear probe and fine-tuning from it in one run, as a parameter scheduler."""

from collections.abc import Callable
from dataclasses import dataclass

from mmengine.optim import BaseOptimWrapper
from mmengine.optim.scheduler.param_scheduler import INF
from mmpretrain.registry import PARAM_SCHEDULERS
from torch.optim import Optimizer

from ..utils.errors import UserError
from .gradual_unfreezing import GradualUnfreezingLR
from .places import Place
from .schedule import probe_lr_factor, probe_steps
from .schedules import Schedule


@PARAM_SCHEDULERS.register_module()
class ProbeThenFineTuneLR(GradualUnfreezingLR):
    """Train the head alone, then everything, each under its own cosine.

    Source: LP-FT, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution" (arXiv
    2202.10054). There the probe is a run of its own; here it is the first part of one run, with data augmentation. The
    share and the rate of the probe are this project's choice.

    Everything else is as in :class:`GradualUnfreezingLR`: what trains is a function of the step alone, a change inside
    an accumulation window waits for its update, and the rate is multiplied, so that other schedulers compose.

    Args:
        optimizer (OptimWrapper | Optimizer): Wrapper or optimizer with named groups.
        probe (float): Share of the run in which the head alone trains, above 0 and below 1. Defaults to 0.5.
        probe_factor (float): Learning rate of the probe over that of fine-tuning. Defaults to 10.
        begin, end, last_step, by_epoch, verbose: As in :class:`GradualUnfreezingLR`.

    Raises:
        UserError: ``probe`` or ``probe_factor`` is out of range, or as :class:`GradualUnfreezingLR`.

    Examples:
        >>> param_scheduler = dict(type='ProbeThenFineTuneLR', by_epoch=True)
    """

    def __init__(
        self,
        optimizer: BaseOptimWrapper | Optimizer,
        probe: float = 0.5,
        probe_factor: float = 10.0,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not 0 < probe < 1:
            raise UserError(f'ProbeThenFineTuneLR: probe={probe!r} is not above 0 and below 1.')
        if not 0 < probe_factor < INF:
            raise UserError(f'ProbeThenFineTuneLR: probe_factor={probe_factor!r} is not a finite number above 0.')
        self.probe, self.probe_factor = probe, probe_factor
        super().__init__(optimizer, begin=begin, end=end, last_step=last_step, by_epoch=by_epoch, verbose=verbose)

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs,
    ) -> 'ProbeThenFineTuneLR':
        """Build an iteration-based scheduler from a config in epochs (``convert_to_iter_based``)."""
        if not by_epoch or not epoch_length:
            raise UserError('ProbeThenFineTuneLR: convert_to_iter_based needs by_epoch=True and a known epoch length.')
        begin, end = (value if value >= INF else value * epoch_length for value in (begin, end))
        return cls(*args, begin=begin, end=end, by_epoch=False, **kwargs)

    def _make_plan(self, total: int, by_epoch: bool) -> Schedule:
        return _Probe(len(self._places), self.blocks, total, self.probe, self.probe_factor)


@dataclass(frozen=True)
class _Probe:
    """The two parts as functions of the step."""

    groups: int
    blocks: int
    total: int
    probe: float
    probe_factor: float

    def phase_at(self, step: int) -> int:
        """0 in the probe, 1 after it."""
        return int(step >= probe_steps(self.total, self.probe))

    def stretches(self) -> list[tuple[int, int]]:
        """First step and number of steps of both parts."""
        first = probe_steps(self.total, self.probe)
        return [*([(0, first)] if first else []), (first, self.total - first)]

    def open_blocks(self, step: int) -> int:
        """Number of blocks that train: none or all."""
        return self.blocks * self.phase_at(step)

    def trains(self, step: int) -> Callable[[Place], bool]:
        """Whether the parameters of a place train."""
        everything = self.phase_at(step)
        return lambda place: place.role == 'head' or bool(everything)

    def factor(self, step: int) -> float:
        """By what the learning rate is multiplied."""
        return probe_lr_factor(step, self.total, self.probe, self.probe_factor)

    def factors(self, step: int) -> list[float]:
        """By what that of each group is multiplied (G,)."""
        return [self.factor(step)] * self.groups
