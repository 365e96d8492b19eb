"""Cost of every method on a config's model, predicted before training: bytes by kind and phase, and FLOPs.

One step of each phase is traced with fake tensors (:mod:`ftsgd_plugin.profiling.fake_step`): no weight is loaded, and
none of the memory is needed. The most bytes that tensors hold at once are::

    peak = weights + buffers + state + max(forward, backward, update)
    forward  = batch + the most that is live in the forward pass
    backward = batch + the most that is live in the backward pass (activations left, gradients so far, temporaries)
    update   = batch + gradients + temporaries of the optimizer

``forward`` and ``backward`` come from the life of every storage in the traced step, so frozen layers, SGD in backward
and the order in which activations are freed are accounted for, not assumed. ``update`` holds a copy of one
tensor for AdamW, and of all that trains with ``foreach=True`` (PyTorch's own default on CUDA; ours is ``fused``).

Limits: memory outside tensors is not included (scratch space inside operators such as convolutions, cuBLAS and cuDNN
workspaces, the CUDA context, the allocator's rounding to 512 bytes and its fragmentation, the interpreter), nor are
DDP's buckets (another copy of the gradients), EMA, or evaluation. Gradient accumulation keeps the gradients through the
forward pass. On a machine without CUDA the CPU's operators are traced; CUDA's mixed precision keeps a few operators in
float32 that the CPU runs in bfloat16.

This is the only cost model: the diagnosis and the resource tables use it for one step of every method, sweeps for whole
runs (:mod:`ftsgd_plugin.profiling.run_costs`).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from mmengine.config import Config
from mmpretrain.registry import OPTIMIZERS
from torch import nn

from ..freezing import freeze_layers
from ..layers import Layer, list_layers
from ..optim.flash import is_flash, planned_bytes
from ..optim.fused import fused_by_default
from ..optim.library_optimizers import missing_library
from ..optim.state import tensor_bytes
from ..utils.errors import UserError
from .fake_step import FakeModel, StepTrace, trace_update
from .phases import COMPARED_METHODS, Method, Phase, list_phases, load_method, run_length
from .split_sizes import iterations_per_epoch


@dataclass(frozen=True)
class PhasePrediction:
    """One phase of a method; sizes in bytes, at one step's batch.

    Attributes:
        open_blocks: Blocks that train, from the top.
        fraction_of_steps: Share of the run's steps, 0 to 1.
        weights, buffers: Those of the whole model, frozen layers included.
        inputs: The normalised batch.
        gradients: Those of everything that trains; with SGD in backward, the largest one.
        state: The optimizer's state.
        activations: What the forward pass leaves for the backward pass.
        temporaries: What the optimizer's update needs besides weights, gradients and state.
        peak: The most at once.
        peak_in: Where the peak is: ``'forward'``, ``'backward'`` or ``'update'``.
        flops: FLOPs of one step's forward and backward pass; a multiply-add counts two.
        parameters: Number of scalars of the model's weights.
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
    parameters: int = 0

    @property
    def bytes_per_parameter(self) -> float:
        """Weights, gradients and optimizer state over the number of the model's parameters."""
        return (self.weights + self.gradients + self.state) / max(1, self.parameters)


@dataclass(frozen=True)
class MethodPrediction:
    """A method's phases and what follows from them.

    Attributes:
        name: The method.
        batch_size: Images per step.
        autocast: ``None`` (float32) or the type of mixed precision.
        phases: In order of time.
    """

    name: str
    batch_size: int
    autocast: str | None
    phases: tuple[PhasePrediction, ...]

    @property
    def peak(self) -> int:
        """The most bytes at once over the whole run."""
        return max(phase.peak for phase in self.phases)

    @property
    def bytes_per_parameter(self) -> float:
        """Weights, gradients and optimizer state over the number of the model's parameters, in the heaviest phase."""
        return max(phase.bytes_per_parameter for phase in self.phases)

    @property
    def mean_flops_per_image(self) -> float:
        """FLOPs per image, weighted by the length of each phase."""
        return sum(phase.flops * phase.fraction_of_steps for phase in self.phases) / self.batch_size

    def to_dict(self) -> dict:
        """For JSON, the derived numbers included."""
        derived = {key: getattr(self, key) for key in ('peak', 'bytes_per_parameter', 'mean_flops_per_image')}
        return {**asdict(self), **derived}


def predict_methods(
    cfg: Config,
    methods: Iterable[str] = COMPARED_METHODS,
    batch_size: int | None = None,
    autocast: str | None = None,
    device: str | None = None,
    left_out: dict[str, str] | None = None,
) -> list[MethodPrediction]:
    """Predict the cost of every method on the model of a config.

    Args:
        cfg: A config, or a model part; its own method is ignored.
        methods: Names of `configs/_base_/methods/`.
        batch_size: Images per step. Default: the config's, else 32.
        autocast: ``None`` (float32, default), ``'bfloat16'`` or ``'float16'``.
        device: ``'cpu'`` or ``'cuda'``: whose operators and optimizer updates. Default: CUDA if the machine has it.
            ``'cuda'`` on a machine without it traces the CPU's operators and CUDA's updates.
        left_out: Receives method -> reason for those that do not fit the model or whose library is missing. Without it
            the first is an error. The state of flashoptim's is a closed formula, which needs no library and no GPU.

    Returns:
        list[MethodPrediction]: In the order of ``methods``.

    Raises:
        UserError: An unknown method, a config without model, a backbone without layer list, or an optimizer that
            cannot be predicted.

    Examples:
        >>> cfg = Config.fromfile('configs/_base_/models/clip-vit-l14.py')
        >>> predict_methods(cfg, ['adamw'], batch_size=32)[0].peak / 2**30  # GiB
    """
    if batch_size is None:
        batch_size = (cfg.get('train_dataloader') or {}).get('batch_size', 32)
    chosen = [load_method(name) for name in methods]
    predictor = Predictor(cfg, device or ('cuda' if torch.cuda.is_available() else 'cpu'), batch_size, autocast)
    predictions = []
    for method in chosen:
        try:
            predictions.append(predictor.predict(method, run_length(cfg)))
        except UserError as error:
            if left_out is None:
                raise
            left_out[method.name] = str(error)
    return predictions


class Predictor:
    """Traces of one model at one batch size; methods that train the same layers share them.

    Args:
        device: Whose updates are assumed.
        operators: Whose operators are traced. Default: ``device`` if the machine has it, else ``'cpu'``.
    """

    def __init__(
        self, cfg: Config, device: str, batch_size: int, autocast: str | None, operators: str | None = None
    ) -> None:
        self._cfg, self._operators = cfg, operators or (device if torch.cuda.is_available() else 'cpu')
        self.fake = FakeModel(cfg, self._operators)
        self._others: dict[str, FakeModel] = {}  # with what a method puts into the model
        self.device, self.batch_size, self.autocast = device, batch_size, autocast
        self._traces: dict[tuple, StepTrace] = {}
        self._forward_flops: float | None = None

    def predict(self, method: Method, length: int) -> MethodPrediction:
        """The cost of a method in a run of ``length`` epochs, or iterations if its schedule counts those."""
        epoch_length = iterations_per_epoch(self._cfg) if method.needs_epoch_length else None
        return self.predict_phases(method, list_phases(method, self.layers_of(method), length, epoch_length))

    def layers_of(self, method: Method) -> list[Layer]:
        """The layers of the model, with the adapters that the method puts into it."""
        return list_layers(self._fake_of(method).model)

    def predict_phases(self, method: Method, phases: Iterable[Phase]) -> MethodPrediction:
        """The cost of a method in given phases of its run; their layers are found by name."""
        fake = self._fake_of(method)
        predicted = tuple(self._phase(method, phase, fake) for phase in phases)
        return MethodPrediction(method.name, self.batch_size, self.autocast, predicted)

    def _fake_of(self, method: Method) -> FakeModel:
        """The model, with the adapters and in the types that the method gives it."""
        if not method.adapters and not method.casts_weights:
            return self.fake
        key = repr((method.adapters, method.casts_weights))
        if key not in self._others:
            self._others[key] = FakeModel(self._cfg, self._operators, method.optim_wrapper)
        return self._others[key]

    def forward_flops_per_image(self) -> float:
        """FLOPs of the evaluation of an image."""
        if self._forward_flops is None:
            self._forward_flops = self.fake.forward_flops(self.batch_size) / self.batch_size
        return self._forward_flops

    def _phase(self, method: Method, phase: Phase, fake: FakeModel) -> PhasePrediction:
        frozen = frozenset(layer.name for layer in phase.frozen)
        freeze_layers(fake.model, (x for x in list_layers(fake.model) if x.name in frozen), phase.train)
        key = (frozen, phase.train, repr(method.adapters), method.casts_weights, method.in_backward)
        if key not in self._traces:
            autocast = None if method.casts_weights else self.autocast
            self._traces[key] = fake.trace(self.batch_size, autocast, method.in_backward)
        trace = self._traces[key]
        trained = [param for param in fake.model.parameters() if param.requires_grad]
        settings = method.optim_wrapper['optimizer']
        state, temporaries = self._update(method, settings, trained)
        gradients = tensor_bytes(trained)
        if method.in_backward:
            gradients, temporaries = max(tensor_bytes([param]) for param in trained), 0
        moments = {
            'forward': trace.forward_peak,
            'backward': trace.backward_peak,
            'update': trace.inputs + gradients + temporaries,
        }
        peak_in = max(moments, key=moments.get)
        weights, buffers = tensor_bytes(fake.model.parameters()), tensor_bytes(fake.model.buffers())
        return PhasePrediction(
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
            parameters=sum(param.numel() for param in fake.model.parameters()),
        )

    def _update(self, method: Method, settings: dict, trained: list[nn.Parameter]) -> tuple[int, int]:
        """Bytes of the optimizer's state, and of the temporaries of its update."""
        if is_flash(settings.get('type')):
            return planned_bytes(settings, trained)
        if reason := missing_library(settings.get('type')):
            raise UserError(reason)
        plain = {key: value for key, value in settings.items() if key not in ('fused', 'capturable')}
        return trace_update(
            lambda params: OPTIMIZERS.build({**plain, 'params': params}),
            trained,
            foreach=self.device == 'cuda' and not (settings.get('fused') or fused_by_default(method.optim_wrapper)),
        )
