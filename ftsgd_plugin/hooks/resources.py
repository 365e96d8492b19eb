"""What a run costs while it runs: true peak memory, images per second, and where a step's time goes."""

import json
import os
import resource
import time
from collections.abc import Callable, Iterable
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
from ..optim.report import optimizer_state_bytes
from ..optim.sgd_in_backward import SGDInBackwardOptimWrapper

PARTS = ('data', 'forward', 'backward', 'optimizer')


@HOOKS.register_module()
class ResourceHook(Hook):
    """Measure every training iteration; log at the log interval, write ``resources.json`` beside the log at the end.

    Time of an iteration is split at four marks: ``data`` is the wait for the batch, ``forward`` lasts to the call of
    ``optim_wrapper.backward`` (preprocessing and loss included), ``backward`` is that call, ``optimizer`` the rest
    (update, clipping, zeroing; with SGD in backward the update is part of ``backward``). On CUDA the marks are events
    in the stream, read at the log interval: nothing waits for the device in between; ``data`` is the host's wait and
    may pass while the device still works. Images per second are by wall clock. Evaluation counts nowhere.

    A phase is a stretch of training in which the same parameters train (gradual unfreezing has several). Its peak is
    the true one: MMEngine's own ``memory`` resets CUDA's peak counter at every log, so this hook reads the counter at
    every iteration, before the logger, and around evaluations. It resets the counter at the start of a phase. On the
    CPU, ``peak`` is the resident memory of the process, which never falls, and so belongs to the run up to that phase.

    The log gets ``images_per_second`` (of all processes), ``seconds_data``, ``seconds_forward``, ``seconds_backward``
    and ``seconds_optimizer`` (mean since the last log) and ``peak_memory`` (MB, this process, phase so far).
    ``resources.json`` has the same by phase (medians of seconds), with bytes of weights, gradients and optimizer state
    counted at the phase's last iteration; it tells of this process (rank 0) and of the iterations since the last
    resume. It is written whole or not at all.

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
        """Put marks around the backward pass."""
        self._cuda = get_device() == 'cuda'
        loggers = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self.interval = self.interval or (loggers[0] if loggers else 50)
        self._params = list(unwrap(runner.model).parameters())
        self._forget = _watch_backward(runner.optim_wrapper, self._mark)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the wait for the first batch."""
        self._ready = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """The batch is there; note what trains."""
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
        if len(self._marks) == 4:  # not with several optimizers, whose backward passes are not watched
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
            scalars['peak_memory'] = phase['peak'] / 1e6
            for name, value in scalars.items():
                runner.message_hub.update_scalar(f'train/{name}', value)
        self._ready = time.perf_counter()

    def before_val(self, runner: Runner) -> None:
        """Evaluation's peak is not training's."""
        self._restart_peak()

    def after_val(self, runner: Runner) -> None:
        """As before evaluation; the next batch is waited for from here."""
        self._restart_peak()
        self._ready = time.perf_counter()

    def after_train(self, runner: Runner) -> None:
        """Write the summary and take the marks away."""
        self._end_phase(runner)
        self._forget()
        if is_main_process() and self.phases:
            _write(Path(runner.log_dir) / 'resources.json', self.summary())

    def summary(self) -> dict:
        """What ``resources.json`` holds; seconds and bytes."""
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
                seconds={part: [] for part in PARTS},
            )
        )
        self._restart_peak()

    def _end_phase(self, runner: Runner) -> None:
        if not self.phases:
            return
        self._drain()
        phase = self.phases[-1]
        phase['weights'] = _bytes(self._params)
        gradients = [_bytes([param]) for param, trains in zip(self._params, self._trained) if trains]
        in_backward = isinstance(runner.optim_wrapper, SGDInBackwardOptimWrapper)
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
            phase['peak'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux

    def _drain(self) -> dict[str, float]:
        """Read the pending marks into the phase: mean seconds of each part since the last reading."""
        if self._pending and self._cuda:
            self._pending[-1][-1].synchronize()
        read = {part: [] for part in PARTS if self._pending}
        for waited, *marks in self._pending:
            spans = (start.elapsed_time(end) / 1e3 if self._cuda else end - start for start, end in pairwise(marks))
            for part, seconds in zip(PARTS, (waited, *spans)):
                read[part].append(seconds)
        for part, values in read.items():
            self.phases[-1]['seconds'][part] += values
        self._pending.clear()
        return {part: mean(values) for part, values in read.items()}


def _watch_backward(optim_wrapper, mark: Callable[[], None]) -> Callable[[], None]:
    """Call ``mark`` before and after ``optim_wrapper.backward``; returns what undoes it.

    MMEngine calls no hook there. The attribute is set on the instance: what it wraps stays the wrapper's own method.
    """
    if not isinstance(optim_wrapper, OptimWrapper):
        return lambda: None
    inner = optim_wrapper.backward

    def backward(loss: torch.Tensor, **kwargs) -> None:
        mark()
        inner(loss, **kwargs)
        mark()

    optim_wrapper.backward = backward

    def forget() -> None:
        if optim_wrapper.__dict__.get('backward') is backward:  # unless another hook has wrapped it since
            del optim_wrapper.backward

    return forget


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _write(path: Path, summary: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}')
    unfinished.write_text(json.dumps(summary, indent=1) + '\n')
    os.replace(unfinished, path)
