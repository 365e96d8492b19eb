"""Measured cost of every method on this machine: the counterpart of :mod:`ftsgd_plugin.profiling.predict`.

On CUDA the peak is the allocator's (``max_memory_allocated``, ``max_memory_reserved``) over one step whose optimizer
state exists already, and times are CUDA events. On the CPU the peak is counted from the tensors of a real step, at
every operator; the peak of the CPU allocator (events of PyTorch's profiler) is reported too and includes the scratch
space inside operators, which is small for a ViT and larger for convolutions. Times are wall clock.
Learning rates are zero, so that every method works on the same numbers; nothing in a step depends on the rate.
"""

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from statistics import median

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain.registry import MODELS, OPTIM_WRAPPERS
from torch import nn

from ..freezing import freeze_layers
from ..layers import list_layers
from ..models.lora import with_adapters
from ..optim.measured_rates import scale_rates
from ..optim.state import optimizer_state_bytes, state_tensors, tensor_bytes
from .fake_step import LiveBytes, fake_batch, image_size, model_config
from .phases import COMPARED_METHODS, Method, list_phases, load_method, run_length
from .train_step import step_seconds, training_loss


@dataclass
class PhaseMeasure:
    """Measured cost of one phase of a method; sizes in bytes.

    Attributes:
        open_blocks, fraction_of_steps, weights, buffers, gradients, state, activations: As in ``PhasePrediction``,
            counted from the tensors of a real step; ``gradients`` are the most that were live at once.
        peak: The most bytes that tensors held at once.
        allocated: The most bytes that PyTorch's allocator gave out at once; on CUDA the same as ``peak``.
        reserved: The most that CUDA's caching allocator held; ``None`` on the CPU.
        step_seconds: Time of each measured step.
        parameters: Number of scalars of the model's weights.
    """

    open_blocks: int
    fraction_of_steps: float
    weights: int = 0
    buffers: int = 0
    gradients: int = 0
    state: int = 0
    activations: int = 0
    peak: int = 0
    allocated: int = 0
    reserved: int | None = None
    step_seconds: list[float] = field(default_factory=list)
    parameters: int = 0

    @property
    def bytes_per_parameter(self) -> float:
        """Weights, gradients and optimizer state over the number of the model's parameters."""
        return (self.weights + self.gradients + self.state) / max(1, self.parameters)


@dataclass
class MethodMeasure:
    """Measured cost of a method's phases.

    Attributes:
        name: The method.
        batch_size: Images per step.
        phases: In order of time.
    """

    name: str
    batch_size: int
    phases: list[PhaseMeasure]

    @property
    def peak(self) -> int:
        """The most bytes at once over all phases."""
        return max(phase.peak for phase in self.phases)

    @property
    def bytes_per_parameter(self) -> float:
        """Weights, gradients and optimizer state over the number of the model's parameters, in the heaviest phase."""
        return max(phase.bytes_per_parameter for phase in self.phases)

    @property
    def allocated(self) -> int:
        """The most bytes that PyTorch's allocator gave out at once over all phases."""
        return max(phase.allocated for phase in self.phases)

    @property
    def reserved(self) -> int | None:
        """The most that CUDA's caching allocator held; ``None`` on the CPU."""
        return max((phase.reserved for phase in self.phases if phase.reserved is not None), default=None)

    @property
    def seconds_per_step(self) -> float:
        """Median of each phase, weighted by how long it lasts."""
        return sum(median(phase.step_seconds) * phase.fraction_of_steps for phase in self.phases)

    def to_dict(self) -> dict:
        """For JSON, the derived numbers included."""
        derived = dict(peak=self.peak, allocated=self.allocated, reserved=self.reserved)
        derived.update(seconds_per_step=self.seconds_per_step, bytes_per_parameter=self.bytes_per_parameter)
        return {**asdict(self), **derived}


def measure_methods(
    cfg: Config,
    methods: Iterable[str] = COMPARED_METHODS,
    batch_size: int = 32,
    steps: int = 20,
    rounds: int = 2,
    autocast: str | None = None,
    device: str | None = None,
    report: Callable[[str], None] = print,
) -> list[MethodMeasure]:
    """Measure every method on the model of a config, with random weights and images.

    Methods take turns, ``rounds`` times, so that a machine that slows down affects all of them.

    Args:
        cfg: A config, or a model part; its own method is ignored.
        methods: Names of `configs/_base_/methods/`. Left out are those whose optimizer wrapper is not registered, and
            those of flashoptim on a machine without a GPU.
        batch_size: Images per step.
        steps: Timed steps of each phase of each method, over all rounds.
        rounds: Number of turns.
        autocast: ``None`` (float32), ``'bfloat16'`` or ``'float16'`` (without a loss scaler, which costs nothing).
        device: ``'cpu'`` or ``'cuda'``. Default: CUDA if the machine has it.
        report: Called with lines about the progress and about methods left out.

    Returns:
        list[MethodMeasure]: In the order of ``methods``, without those left out.

    Raises:
        UserError: An unknown method, or a config without model.
    """
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    found: dict[str, MethodMeasure] = {}
    chosen = [load_method(name) for name in methods]
    for method in list(chosen):
        wrapper = method.optim_wrapper.get('type', 'OptimWrapper')
        if isinstance(wrapper, str) and OPTIM_WRAPPERS.get(wrapper) is None:
            report(f'{method.name}: left out, {wrapper} is not registered.')
            chosen.remove(method)
        elif method.casts_weights and not torch.cuda.is_available():
            report(f'{method.name}: left out, it runs on an NVIDIA GPU and this machine has none.')
            chosen.remove(method)
    for turn in range(rounds):
        for method in chosen:
            report(f'{method.name}: turn {turn + 1} of {rounds}')
            share = steps // rounds + (turn < steps % rounds)
            model = _MeasuredModel(cfg, batch_size, autocast, device, method.optim_wrapper)
            measured = model.measure(method, run_length(cfg), share, count=turn == 0)
            if turn == 0:
                found[method.name] = MethodMeasure(method.name, batch_size, measured)
            else:
                for phase, more in zip(found[method.name].phases, measured):
                    phase.step_seconds += more.step_seconds
            del model
            gc.collect()
            if device == 'cuda':
                torch.cuda.empty_cache()
    return list(found.values())


class _MeasuredModel:
    """A model and a batch on a device; new for every method, so that none inherits hooks or state."""

    def __init__(
        self, cfg: Config, batch_size: int, autocast: str | None, device: str, optim_wrapper: dict | None = None
    ) -> None:
        if DefaultScope.get_current_instance() is None:
            init_default_scope('mmpretrain')
        settings = with_adapters(model_config(cfg), optim_wrapper)
        torch.manual_seed(0)
        with torch.device(device):  # a GPU draws the weights of a large network in no time
            self.model: nn.Module = MODELS.build(settings).to(device).train()
        self.device, self.autocast = device, autocast
        classes = settings['head']['num_classes'] if settings.get('head') else 1000
        batch = fake_batch(classes, image_size(cfg, self.model), batch_size, 'cpu')
        batch['inputs'] = torch.randint(0, 256, batch['inputs'].shape, dtype=torch.uint8)
        self.batch = batch

    def step(self, optim_wrapper: OptimWrapper, saving=nullcontext) -> None:
        """MMEngine's ``train_step``, with autocast, and a context around the forward pass."""
        data = self.model.data_preprocessor(self.batch, True)
        with saving(data['inputs']):
            loss = training_loss(self.model, data, self.autocast)
        optim_wrapper.update_params(loss)

    def measure(self, method: Method, length: int, steps: int, count: bool) -> list[PhaseMeasure]:
        settings = {**method.optim_wrapper, 'optimizer': {**method.optim_wrapper['optimizer'], 'lr': 0.0}}
        gradients = _LiveGradients(self.model)  # before the wrapper: with SGD in backward its hook drops them
        optim_wrapper = build_optim_wrapper(self.model, settings)
        scale_rates(optim_wrapper, (), {})  # of rates that wait for a measurement: all are zero here
        measured = []
        try:
            for phase in list_phases(method, list_layers(self.model), length):
                freeze_layers(self.model, phase.frozen, phase.train)
                self.step(optim_wrapper)  # creates the state, and what libraries create once
                line = PhaseMeasure(phase.open_blocks, phase.fraction_of_steps)
                if count:
                    self._count(line, optim_wrapper, gradients)
                line.step_seconds = step_seconds(lambda: self.step(optim_wrapper), steps, self.device)
                measured.append(line)
        finally:
            gradients.remove()
        return measured

    def _count(self, line: PhaseMeasure, optim_wrapper: OptimWrapper, gradients: '_LiveGradients') -> None:
        model = self.model
        line.weights, line.buffers = tensor_bytes(model.parameters()), tensor_bytes(model.buffers())
        line.parameters = sum(param.numel() for param in model.parameters())
        line.state = optimizer_state_bytes(optim_wrapper.optimizer)
        saved = _SavedTensors(model)
        with gradients:
            self.step(optim_wrapper, saved)
        line.gradients, line.activations = gradients.peak, saved.bytes
        if self.device == 'cuda':
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.step(optim_wrapper)
            torch.cuda.synchronize()
            line.peak = line.allocated = torch.cuda.max_memory_allocated()
            line.reserved = torch.cuda.max_memory_reserved()
            return
        state = state_tensors(optim_wrapper.optimizer)
        with LiveBytes([*model.parameters(), *model.buffers(), *state, self.batch['inputs']]) as tracker:
            self.step(optim_wrapper)
        lasting = line.weights + line.buffers + line.state
        line.peak = lasting + tracker.peak
        line.allocated = lasting + most_allocated(lambda: self.step(optim_wrapper))


def most_allocated(function: Callable[[], None]) -> int:
    """The most bytes that PyTorch's CPU allocator held at once during a call, beyond those at its start."""
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler reports a missing GPU as an error
    activity = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activity, profile_memory=True, acc_events=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


class _SavedTensors:
    """Bytes that autograd saves in a forward pass: every storage once, without weights, buffers and the batch."""

    def __init__(self, model: nn.Module) -> None:
        tensors = (*model.parameters(), *model.buffers())
        self._known = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self._found: dict[int, int] = {}

    @contextmanager
    def __call__(self, inputs: torch.Tensor) -> Iterator[None]:
        self._known.add(inputs.untyped_storage().data_ptr())
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._found[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        return sum(self._found.values())


class _LiveGradients:
    """The most bytes of gradients that exist at once in a backward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.peak, self._on = 0, False
        self._params = [param for param in model.parameters() if param.requires_grad]  # not what the model freezes
        self._hooks = [param.register_post_accumulate_grad_hook(self._look) for param in self._params]

    def remove(self) -> None:
        """Remove the hooks. While they exist the parameters are never freed: they are part of a cycle through C++."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> None:
        self.peak, self._on = 0, True

    def __exit__(self, *_) -> None:
        self._on = False

    def _look(self, _) -> None:
        if self._on:
            self.peak = max(self.peak, tensor_bytes(param.grad for param in self._params if param.grad is not None))
