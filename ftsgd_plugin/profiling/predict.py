"""What each method will cost on a config's model, computed before training: bytes by kind and phase, and FLOPs.

One step of each phase is traced with fake tensors (:mod:`ftsgd_plugin.profiling.fake_step`): no weight is loaded, and
none of the memory is needed. The most bytes that tensors hold at once are::

    peak = weights + buffers + state + max(forward, backward, update)
    forward  = batch + the most that is live in the forward pass
    backward = batch + the most that is live in the backward pass (activations left, gradients so far, temporaries)
    update   = batch + gradients + what the optimizer needs for a moment

``forward`` and ``backward`` come from the life of every storage in the traced step, so frozen layers, SGD in backward
and the order in which activations go are accounted for, not assumed. ``update`` holds a copy of what trains for AdamW
on CUDA (``foreach``) and of one tensor on the CPU.

Limits: what libraries hold beside tensors is not in it (scratch space inside operators such as convolutions, cuBLAS and
cuDNN workspaces, the CUDA context, the allocator's
rounding to 512 bytes and its fragmentation, the interpreter), nor are DDP's buckets (another copy of the gradients),
EMA, or evaluation. Gradient accumulation keeps the gradients through the forward pass. On a machine without CUDA
the CPU's operators are traced; CUDA's mixed precision keeps a few operators in float32 that the CPU runs in bfloat16.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from mmengine.config import Config
from mmpretrain.registry import OPTIMIZERS

from ..freezing import freeze_layers
from ..layers import list_layers
from .fake_step import FakeModel, StepTrace, trace_update
from .phases import METHODS, Method, Phase, load_method, phases, run_length


@dataclass(frozen=True)
class PhasePlan:
    """One phase of a method; sizes in bytes, at one step's batch.

    Attributes:
        open_blocks: Blocks that train, from the top.
        fraction_of_steps: Share of the run's steps, 0 to 1.
        weights, buffers: Of the whole model, frozen layers included.
        inputs: The normalised batch.
        gradients: Of everything that trains; with SGD in backward, the largest one.
        state: The optimizer's.
        activations: What the forward pass leaves for the backward pass.
        temporaries: What the optimizer's update needs for a moment.
        peak: The most at once.
        peak_in: ``'forward'``, ``'backward'`` or ``'update'``, where that is.
        flops: Of one step's forward and backward; a multiply-add counts two.
    """

    open_blocks: int
    fraction_of_steps: float
    weights: int
    buffers: int
    inputs: int
    gradients: int
    state: int
    activations: int
    temporaries: int
    peak: int
    peak_in: str
    flops: int


@dataclass(frozen=True)
class MethodPlan:
    """A method's phases and what follows from them.

    Attributes:
        name: The method.
        batch_size: Pictures per step.
        autocast: ``None`` (float32) or the type of mixed precision.
        phases: In order of time.
    """

    name: str
    batch_size: int
    autocast: str | None
    phases: tuple[PhasePlan, ...]

    @property
    def peak(self) -> int:
        """The most bytes at once over the whole run."""
        return max(phase.peak for phase in self.phases)

    @property
    def mean_flops_per_image(self) -> float:
        """FLOPs per picture, weighted by how long each phase lasts."""
        return sum(phase.flops * phase.fraction_of_steps for phase in self.phases) / self.batch_size

    def to_dict(self) -> dict:
        """For JSON, the derived numbers included."""
        return {**asdict(self), 'peak': self.peak, 'mean_flops_per_image': self.mean_flops_per_image}


def plan_config(
    cfg: Config,
    methods: Iterable[str] = METHODS,
    batch_size: int | None = None,
    autocast: str | None = None,
    device: str | None = None,
) -> list[MethodPlan]:
    """Plan every method on the model of a config.

    Args:
        cfg: A config, or a model part; its own method is not looked at.
        methods: Names of `configs/_base_/methods/`.
        batch_size: Pictures per step. Default: the config's, else 32.
        autocast: ``None`` (float32, default), ``'bfloat16'`` or ``'float16'``.
        device: ``'cpu'`` or ``'cuda'``: whose operators and optimizer updates. Default: CUDA where there is one.
            ``'cuda'`` on a machine without one traces the CPU's operators and CUDA's updates.

    Returns:
        list[MethodPlan]: In the order of ``methods``.

    Raises:
        UserError: An unknown method, a config without model, a backbone without layer list, or an optimizer that
            cannot be predicted.

    Examples:
        >>> plans = plan_config(Config.fromfile('configs/_base_/models/clip-vit-l14.py'), ['adamw'], batch_size=32)
        >>> plans[0].peak / 1e9  # GB
    """
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if batch_size is None:
        batch_size = (cfg.get('train_dataloader') or {}).get('batch_size', 32)
    chosen = [load_method(name) for name in methods]
    planner = _Planner(FakeModel(cfg, device if torch.cuda.is_available() else 'cpu'), device, batch_size, autocast)
    return [planner.plan(method, run_length(cfg)) for method in chosen]


class _Planner:
    """Traces of one model at one batch size; methods that train the same layers share them."""

    def __init__(self, fake: FakeModel, device: str, batch_size: int, autocast: str | None) -> None:
        self.fake, self.device, self.batch_size, self.autocast = fake, device, batch_size, autocast
        self.layers = list_layers(fake.model)
        self.traces: dict[tuple, StepTrace] = {}

    def plan(self, method: Method, length: int) -> MethodPlan:
        planned = tuple(self._phase(method, phase) for phase in phases(method, self.layers, length))
        return MethodPlan(method.name, self.batch_size, self.autocast, planned)

    def _phase(self, method: Method, phase: Phase) -> PhasePlan:
        freeze_layers(self.fake.model, phase.frozen)
        key = (frozenset(layer.name for layer in phase.frozen), method.in_backward)
        if key not in self.traces:
            self.traces[key] = self.fake.trace(self.batch_size, self.autocast, method.in_backward)
        trace = self.traces[key]
        trained = [param for param in self.fake.model.parameters() if param.requires_grad]
        state, temporaries = trace_update(
            lambda params: OPTIMIZERS.build({**method.optim_wrapper['optimizer'], 'params': params}),
            trained,
            foreach=self.device == 'cuda',
        )
        gradients = _bytes(trained)
        if method.in_backward:
            gradients, temporaries = max(_bytes([param]) for param in trained), 0
        moments = {
            'forward': trace.forward_peak,
            'backward': trace.backward_peak,
            'update': trace.inputs + gradients + temporaries,
        }
        peak_in = max(moments, key=moments.get)
        weights, buffers = _bytes(self.fake.model.parameters()), _bytes(self.fake.model.buffers())
        return PhasePlan(
            open_blocks=phase.open_blocks,
            fraction_of_steps=phase.fraction_of_steps,
            weights=weights,
            buffers=buffers,
            inputs=trace.inputs,
            gradients=gradients,
            state=state,
            activations=trace.activations,
            temporaries=temporaries,
            peak=weights + buffers + state + moments[peak_in],
            peak_in=peak_in,
            flops=trace.flops,
        )


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
