"""Measure a run: peak memory, images per second, and the time of each part of a step."""

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..layers import unwrap
from ..optim.state import optimizer_state_bytes, tensor_bytes
from ..utils.files import write_text
from ..utils.patching import replaced

STEP_PARTS = ('data', 'forward', 'backward', 'optimizer')
MIB = 2**20  # bytes; the unit of memory in MMEngine's log


def peak_resident_bytes() -> int:
    """Peak resident memory of this process, in bytes.

    The kernel keeps this maximum; psutil reports only the current value on Linux.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024  # KiB on Linux


@HOOKS.register_module()
class HostMemoryHook(Hook):
    """Log the peak resident memory of the process in MiB as ``memory`` where MMEngine logs none (CPU training).

    On a GPU MMEngine logs the device's peak under the same name and this hook does nothing.

    Examples:
        >>> custom_hooks = [dict(type='HostMemoryHook')]
    """

    priority = 'NORMAL'  # before LoggerHook (BELOW_NORMAL)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Log ``train/memory``."""
        if get_device() == 'cpu':
            runner.message_hub.update_scalar('train/memory', peak_resident_bytes() // MIB)


@HOOKS.register_module()
class ResourceHook(Hook):
    """Measure every training iteration; log at the log interval, write ``resources.json`` next to the log at the end.

    Four marks split the time of an iteration: ``data`` is the wait for the batch, ``forward`` lasts until the call of
    ``optim_wrapper.backward`` (preprocessing and loss included), ``backward`` is that call, ``optimizer`` the rest
    (update, clipping, zeroing; with SGD in backward the update is part of ``backward``). On CUDA the marks are events
    in the stream, read at the log interval: the host never waits for the device in between; ``data`` is the wait of
    the host, during which the device may still work. Images per second are by wall clock. Evaluation is excluded.

    A phase is a part of training in which the same parameters train (gradual unfreezing has several). MMEngine's own
    ``memory`` resets CUDA's peak counter at every log; to get the true peak of a phase, this hook reads the counter at
    every iteration, before the logger, and around evaluations. It resets the counter at the start of a phase. On the
    CPU, ``peak`` is the peak resident memory of the process, which never falls: it covers the run up to that phase.

    The log gets ``images_per_second`` (of all processes), ``seconds_data``, ``seconds_forward``, ``seconds_backward``
    and ``seconds_optimizer`` (mean since the last log) and ``peak_memory`` (MiB, this process, phase so far).
    ``resources.json`` has the same by phase (medians of seconds), with bytes of weights, gradients and optimizer state
    counted at the phase's last iteration, for this process (rank 0) and the iterations since the last resume. It is
    written atomically.

    Args:
        interval (int, optional): Iterations between readings. Default: that of the ``LoggerHook``.

    Examples:
        >>> custom_hooks = [dict(type='ResourceHook')]
    """

    priority = 'NORMAL'  # before LoggerHook (BELOW_NORMAL), which resets the counter; after IterTimerHook

    def __init__(self, interval: int | None = None) -> None:
        self.interval = interval
        self.phases: list[dict] = []
        self._trained: list[bool] | None = None
        self._pending: list[list] = []  # wait and marks of the iterations not yet read
        self._window = [0, 0.0]  # images and wall-clock seconds since the last log
        self._marks: list = []
        self._cuda = False  # until training starts
        self._ready: float | None = None  # host clock at the end of the last iteration

    def before_train(self, runner: Runner) -> None:
        """Mark the begin and the end of the backward pass, until training ends."""
        self._cuda = get_device() == 'cuda'
        loggers = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self.interval = self.interval or (loggers[0] if loggers else 50)
        self._params = list(unwrap(runner.model).parameters())
        self._backward_patch = None
        if isinstance(runner.optim_wrapper, OptimWrapper):  # not with several optimizers
            self._backward_patch = self._mark_backward(runner.optim_wrapper)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the wait for the first batch."""
        self._ready = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """The batch has arrived; begin a new phase if other parameters train now."""
        trained = [param.requires_grad for param in self._params]
        if trained != self._trained:
            self._end_phase(runner)
            self._begin_phase(runner, trained)
        self._waited = time.perf_counter() - self._ready
        self._marks = []
        self._mark()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """The update is done; read the counter before the logger resets it."""
        self._mark()
        self._read_peak()
        phase = self.phases[-1]
        phase['iterations'] += 1
        phase['images'] += len(data_batch['inputs'])
        if len(self._marks) == 4:  # not with several optimizers, whose backward passes are not marked
            self._pending.append([self._waited, *self._marks])
        due = self.every_n_inner_iters(batch_idx, self.interval) or self.end_of_epoch(
            runner.train_dataloader, batch_idx
        )
        means = self._drain() if due else {}
        now = time.perf_counter()  # after the wait for the device, if there was one
        phase['wall_seconds'] += now - self._ready
        self._window[0] += len(data_batch['inputs'])
        self._window[1] += now - self._ready
        if due:
            images, seconds = self._window
            self._window = [0, 0.0]
            # no 'time' in the names: MMEngine would average those with earlier logs
            scalars = {f'seconds_{part}': value for part, value in means.items()}
            scalars['images_per_second'] = images * get_world_size() / seconds
            scalars['peak_memory'] = phase['peak'] / MIB
            for name, value in scalars.items():
                runner.message_hub.update_scalar(f'train/{name}', value)
        self._ready = time.perf_counter()

    def before_val(self, runner: Runner) -> None:
        """Exclude the peak of evaluation."""
        self._restart_peak()

    def after_val(self, runner: Runner) -> None:
        """Exclude the peak of evaluation; the wait for the next batch starts here."""
        self._restart_peak()
        self._ready = time.perf_counter()

    def after_train(self, runner: Runner) -> None:
        """Write the summary and remove the marks."""
        self._end_phase(runner)
        if self._backward_patch is not None:
            self._backward_patch.undo()
        if is_main_process() and self.phases:
            write_text(Path(runner.log_dir) / 'resources.json', json.dumps(self.summary(), indent=1) + '\n')

    def summary(self) -> dict:
        """The content of ``resources.json``, in seconds and bytes."""
        phases = []
        for phase in self.phases:
            seconds = {part: median(values) for part, values in phase['seconds'].items() if values}
            rate = phase['images'] * get_world_size() / phase['wall_seconds'] if phase['iterations'] else None
            phases.append({**phase, 'seconds': seconds, 'images_per_second': rate})
        return dict(
            device=torch.cuda.get_device_name() if self._cuda else 'cpu',
            world_size=get_world_size(),
            torch=torch.__version__,
            memory='CUDA tensors' if self._cuda else 'resident memory of the process',
            peak=max(phase['peak'] for phase in self.phases),
            phases=phases,
        )

    def _mark(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def _mark_backward(self, optim_wrapper: OptimWrapper) -> replaced:
        """Mark before and after ``optim_wrapper.backward``, where MMEngine calls no hook."""
        backward = optim_wrapper.backward

        def marked(loss: torch.Tensor, **kwargs) -> None:
            self._mark()
            backward(loss, **kwargs)
            self._mark()

        return replaced(optim_wrapper, 'backward', marked)

    def _begin_phase(self, runner: Runner, trained: list[bool]) -> None:
        self._trained = trained
        self.phases.append(
            dict(
                first_iteration=runner.iter,
                iterations=0,
                images=0,
                wall_seconds=0.0,
                trained_parameters=sum(p.numel() for p, trains in zip(self._params, trained) if trains),
                peak=0,
                reserved=0 if self._cuda else None,
                seconds={part: [] for part in STEP_PARTS},
            )
        )
        self._restart_peak()

    def _end_phase(self, runner: Runner) -> None:
        if not self.phases:
            return
        self._drain()
        phase = self.phases[-1]
        phase['weights'] = tensor_bytes(self._params)
        gradients = [tensor_bytes([param]) for param, trains in zip(self._params, self._trained) if trains]
        in_backward = getattr(runner.optim_wrapper, 'updates_in_backward', False)
        phase['gradients'] = max(gradients) if in_backward else sum(gradients)
        if isinstance(runner.optim_wrapper, OptimWrapper):
            phase['state'] = optimizer_state_bytes(runner.optim_wrapper.optimizer)

    def _restart_peak(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def _read_peak(self) -> None:
        phase = self.phases[-1]
        if self._cuda:
            phase['peak'] = max(phase['peak'], torch.cuda.max_memory_allocated())
            phase['reserved'] = max(phase['reserved'], torch.cuda.max_memory_reserved())
        else:
            phase['peak'] = peak_resident_bytes()

    def _drain(self) -> dict[str, float]:
        """Read the pending marks into the phase: mean seconds of each part since the last reading."""
        if self._pending and self._cuda:
            self._pending[-1][-1].synchronize()
        read = {part: [] for part in STEP_PARTS if self._pending}
        for waited, *marks in self._pending:
            spans = (start.elapsed_time(end) / 1e3 if self._cuda else end - start for start, end in pairwise(marks))
            for part, seconds in zip(STEP_PARTS, (waited, *spans)):
                read[part].append(seconds)
        for part, values in read.items():
            self.phases[-1]['seconds'][part] += values
        self._pending.clear()
        return {part: mean(values) for part, values in read.items()}
