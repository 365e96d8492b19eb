"""Bytes of every method on one of several ranks of sharded training (``ShardedDataParallel``).

A rank keeps its part of every tensor, rounded up to whole rows of the first dimension; these are the bytes that a run
counts (``weights``, ``gradients`` and ``state`` of ``resources.json``). What a step needs beside them is an upper
estimate::

    peak = weights + buffers + state + max(forward, backward, update)
    forward  = the most that is live in the forward pass + gathered
    backward = the same of the backward pass + gathered + a whole gradient + gradients
    update   = batch + gradients + temporaries of the optimizer

where ``gathered`` is what is outside the blocks and the two largest blocks (one computes while the next is fetched).
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from mmengine.config import Config
from mmpretrain.registry import OPTIMIZERS
from torch import nn

from ..freezing import freeze_layers
from ..layers import Layer, list_layers
from ..optim.fused import fused_by_default
from ..optim.sharding.units import block_modules
from ..optim.sharding.wrapper import SHARDED_OPTIMIZERS
from ..optim.state import tensor_bytes
from ..utils.errors import UserError
from ..utils.format import format_bytes
from .fake_step import trace_update
from .phases import COMPARED_METHODS, Method, Phase, list_phases, load_method, run_length
from .predict import Predictor


@dataclass(frozen=True)
class ShardedPhase:
    """One phase of a method on one rank; sizes in bytes.

    Attributes:
        open_blocks: Blocks that train, from the top.
        fraction_of_steps: Share of the run's steps, 0 to 1.
        weights, gradients, state: What the rank keeps; with SGD in backward the gradients of the largest unit.
        gathered: The most of other ranks' weights at once.
        peak: The most at once, an upper estimate.
    """

    open_blocks: int
    fraction_of_steps: float
    weights: int
    gradients: int
    state: int
    gathered: int
    peak: int


@dataclass(frozen=True)
class ShardedPlan:
    """A method on one of several ranks.

    Attributes:
        name: The method.
        ranks: Number of ranks.
        batch_size: Images per step of this rank.
        phases: In order of time.
    """

    name: str
    ranks: int
    batch_size: int
    phases: tuple[ShardedPhase, ...]

    @property
    def peak(self) -> int:
        """The most bytes at once over the whole run."""
        return max(phase.peak for phase in self.phases)

    def to_dict(self) -> dict:
        """For JSON."""
        return {**asdict(self), 'peak': self.peak}


def plan_sharded(
    cfg: Config,
    ranks: int,
    methods: Iterable[str] = COMPARED_METHODS,
    batch_size: int | None = None,
    autocast: str | None = None,
    device: str | None = None,
    left_out: dict[str, str] | None = None,
) -> list[ShardedPlan]:
    """Plan the bytes of every method on the first of several ranks, which has the largest parts.

    Args:
        cfg: A config, or a model part; its own method is ignored.
        ranks: Number of ranks.
        methods: Names of `configs/_base_/methods/`.
        batch_size: Images per step of all ranks. Default: the config's, else 32.
        autocast: ``None`` (float32, default), ``'bfloat16'`` or ``'float16'``, for activations.
        device: ``'cpu'`` or ``'cuda'``. Default: CUDA if the machine has it.
        left_out: Receives method -> reason for those that cannot be sharded. Without it the first is an error.

    Raises:
        UserError: ``ranks`` is below 1, or as :func:`ftsgd_plugin.profiling.predict.predict_methods`.
    """
    if ranks < 1:
        raise UserError(f'--ranks {ranks}: is not a positive number of ranks.')
    if batch_size is None:
        batch_size = (cfg.get('train_dataloader') or {}).get('batch_size', 32)
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    predictor = Predictor(cfg, device, math.ceil(batch_size / ranks), autocast)
    plans = []
    for method in [load_method(name) for name in methods]:
        try:
            plans.append(_plan(predictor, method, run_length(cfg), ranks))
        except UserError as error:
            if left_out is None:
                raise
            left_out[method.name] = str(error)
    return plans


def _plan(predictor: Predictor, method: Method, length: int, ranks: int) -> ShardedPlan:
    settings = method.optim_wrapper['optimizer']
    if method.adapters or OPTIMIZERS.get(settings.get('type')) not in SHARDED_OPTIMIZERS:
        raise UserError(f'{method.name}: does not work with ShardedDataParallel (docs/sharded.md).')
    model = predictor.fake.model
    layers = list_layers(model)
    phases = tuple(_phase(predictor, method, layers, phase, ranks) for phase in list_phases(method, layers, length))
    return ShardedPlan(method.name, ranks, predictor.batch_size, phases)


def _phase(predictor: Predictor, method: Method, layers: list[Layer], phase: Phase, ranks: int) -> ShardedPhase:
    model = predictor.fake.model
    freeze_layers(model, phase.frozen, phase.train)
    trace = predictor.fake.trace(predictor.batch_size, predictor.autocast, in_backward=True)  # gradients counted below
    units = [list(unit.parameters()) for unit in block_modules(model, layers).values()]
    inside = {id(param) for unit in units for param in unit}
    outside = [param for param in model.parameters() if id(param) not in inside]
    sizes = sorted((tensor_bytes(unit) for unit in units), reverse=True)
    gathered = tensor_bytes(outside) + sum(sizes[:2])
    trained = [[param for param in unit if param.requires_grad] for unit in (*units, outside)]
    per_unit = [sum(_part_bytes(param, ranks) for param in unit) for unit in trained]
    gradients = max(per_unit) if method.in_backward else sum(per_unit)
    settings = {k: v for k, v in method.optim_wrapper['optimizer'].items() if k not in ('fused', 'capturable')}
    state, temporaries = trace_update(
        lambda params: OPTIMIZERS.build({**settings, 'params': params}),
        [_part(param, ranks) for unit in trained for param in unit],
        foreach=predictor.device == 'cuda' and not fused_by_default(method.optim_wrapper),
    )
    weights, buffers = sum(_part_bytes(param, ranks) for param in model.parameters()), tensor_bytes(model.buffers())
    moments = (
        trace.forward_peak + gathered,
        trace.backward_peak + gathered + max(map(tensor_bytes, trained)) + gradients,
        trace.inputs + gradients + (0 if method.in_backward else temporaries),
    )
    return ShardedPhase(
        open_blocks=phase.open_blocks,
        fraction_of_steps=phase.fraction_of_steps,
        weights=weights,
        gradients=gradients,
        state=state,
        gathered=gathered,
        peak=weights + buffers + state + max(moments),
    )


def _rows(param: torch.Tensor, ranks: int) -> int:
    """Rows of the first rank's part; torch cuts along the first dimension."""
    return math.ceil(param.shape[0] / ranks)


def _part_bytes(param: torch.Tensor, ranks: int) -> int:
    return _rows(param, ranks) * param[:1].numel() * param.element_size()


def _part(param: torch.Tensor, ranks: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(_rows(param, ranks), *param.shape[1:], dtype=param.dtype, device='meta'))


def sharded_table(plans: Iterable[ShardedPlan]) -> str:
    """The plans as a Markdown table, a line for each phase; bytes of one rank."""
    header = ('method', 'open blocks', 'share of steps', 'weights', 'gradients', 'state', 'gathered', 'peak, at most')
    lines = [header, ['---', *['--:'] * (len(header) - 1)]]
    for plan in plans:
        for phase in plan.phases:
            sizes = (phase.weights, phase.gradients, phase.state, phase.gathered, phase.peak)
            share = f'{phase.fraction_of_steps:.0%}'
            lines.append([plan.name, str(phase.open_blocks), share, *map(format_bytes, sizes)])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
