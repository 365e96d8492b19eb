"""Where the time of a run goes: a short training and evaluation, measured part by part, beside what is possible."""

import contextlib
import io
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from mmengine.config import Config

from ..records import environment
from ..runner.build import merge_cfg_options, read_config
from ..runner.run import train
from ..utils.errors import UserError
from .ledger import CudaStream, Ledger
from .peaks import Peaks, device_peaks
from .probes import STAGES, RunProbes
from .run_limits import STEP, Limit, Operations, advise, count_operations, find_limits, predict_whole_run
from .setup import autocast_of

PARTS = ('start-up', *STEP, 'evaluation', 'checkpoint')
TOLERANCE = 0.01  # of the wall time, within which the parts add up to it


@dataclass(frozen=True)
class RunProfile:
    """The time of a short run.

    Attributes:
        config: The config.
        device: ``'cpu'`` or the name of the GPU.
        precision: Of the matrix products of training: one of ``peaks.PRECISIONS``.
        seconds: By part and detail, such as ``'data/decode'``; their sum is that of the parts.
        wall_seconds: By a clock that does not know the parts.
        steps: Training steps measured, without the first ones, which belong to the start-up.
        images: Their images.
        evaluated: Images evaluated.
        checkpoints: Checkpoints written; ``checkpoint_bytes`` in all.
        workers: Data workers of the training loader; ``cores`` that this process may use.
        core_seconds_per_image: Time of one core in each stage of training data, in this process or in workers.
        probe_seconds: What measuring itself has cost: the number of readings times their measured cost.
        flops_per_image: Of training (forward and backward), by the cost model; ``None`` if it does not know the model.
        peaks: What the device can do.
        limits: By part of a step, evaluation and checkpoint, where there is one.
        whole_run: Predicted seconds of the config's whole run, by part.
        advice: What to change first.
        notes: What else to know.
        environment: Versions.
    """

    config: str
    device: str
    precision: str
    seconds: dict[str, float]
    wall_seconds: float
    steps: int
    images: int
    evaluated: int
    checkpoints: int
    checkpoint_bytes: int
    workers: int
    cores: int
    core_seconds_per_image: dict[str, float]
    probe_seconds: float
    flops_per_image: float | None
    peaks: Peaks
    limits: dict[str, Limit]
    whole_run: dict[str, float]
    advice: str
    notes: tuple[str, ...]
    environment: dict[str, str]

    def part(self, name: str) -> float:
        """Seconds of a part with its details."""
        return sum(value for key, value in self.seconds.items() if key.partition('/')[0] == name)

    @property
    def step_seconds(self) -> float:
        """Mean wall time of a training step."""
        return sum(map(self.part, STEP)) / self.steps

    @property
    def utilisation(self) -> float | None:
        """Model FLOPs utilisation: operations of training per second of wall time over the device's peak."""
        if self.flops_per_image is None:
            return None
        return self.flops_per_image * self.images / self.steps / self.step_seconds / self.peaks.flops

    def to_dict(self) -> dict:
        """For JSON, the derived numbers included."""
        parts = {name: self.part(name) for name in PARTS}
        derived = dict(parts=parts, step_seconds=self.step_seconds, utilisation=self.utilisation)
        return {**asdict(self), **derived}


def profile_run(
    config: str,
    scratch: str | os.PathLike,
    iterations: int = 30,
    evaluated: int = 256,
    warmup: int = 3,
    cfg_options: dict | None = None,
    began: float | None = None,
) -> RunProfile:
    """Train and evaluate briefly as ``tools/train.py`` would, and give every second to a part of the run.

    Model, data, hooks, schedules and checkpoints are those of the config; an epoch is cut to ``iterations`` steps and
    the evaluation to ``evaluated`` images spread over its data. On a GPU the parts of a step are times of the device,
    between CUDA events: what the host does meanwhile costs nothing and is not shown. The cost model gives the limits of
    the arithmetic (:mod:`ftsgd_plugin.profiling.predict`). With gradual unfreezing the steps are those of the first
    epoch. One process; what a run of several adds (the reduction of gradients) is not measured.

    Args:
        config: Config file.
        scratch: A directory on the disk that a run would use; a work directory in it is removed at the end.
        iterations: Training steps, the first ones included.
        evaluated: Images to evaluate.
        warmup: First steps, in which libraries choose algorithms and allocate; they belong to the start-up.
        cfg_options: As of ``tools/train.py``.
        began: When the process began, by ``time.perf_counter()``. Default: now, without the imports.

    Raises:
        UserError: As :func:`ftsgd_plugin.runner.run.train`; fewer than 2 iterations; a run of several optimizers.
    """
    if iterations < 2 or evaluated < 1 or warmup < 0:
        raise UserError(f'iterations={iterations}, evaluated={evaluated}, warmup={warmup}: at least 2, 1 and 0.')
    stream = CudaStream() if torch.cuda.is_available() else None
    ledger = Ledger(time.perf_counter() if began is None else began, 'start-up/imports', stream)
    ledger.become('start-up/build')
    cfg = read_config(config)
    merge_cfg_options(cfg, config, cfg_options)
    probes = RunProbes(ledger, iterations, evaluated, warmup)
    work_dir = Path(tempfile.mkdtemp(prefix='run-', dir=scratch))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # of the training
            train(config, cfg_options=cfg_options, work_dir=str(work_dir), hooks=[probes])
        return _result(config, cfg, probes, work_dir)
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


def _result(config: str, cfg: Config, probes: RunProbes, directory: Path) -> RunProfile:
    """What the probes have measured, beside its limits."""
    ledger, on_gpu = probes.ledger, torch.cuda.is_available()
    seconds = {part: value for part, value in ledger.seconds.items() if value}
    parts = {name: sum(value for key, value in seconds.items() if key.partition('/')[0] == name) for name in PARTS}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    core_seconds = probes.train_times.worker_seconds_per_image() or {
        stage: seconds[f'data/{stage}'] / probes.images for stage in STAGES if f'data/{stage}' in seconds
    }
    device = 'cuda' if on_gpu else 'cpu'
    precision = autocast_of(cfg) or ('float32' if torch.get_float32_matmul_precision() == 'highest' else 'tf32')
    peaks = device_peaks(device, precision if on_gpu or precision != 'tf32' else 'float32')
    operations = count_operations(cfg, probes.length.batch_size, device)
    known = isinstance(operations, Operations)
    limits = find_limits(probes, operations, peaks, core_seconds, cores, directory)
    whole = predict_whole_run(probes, parts)
    notes = [] if known else [f'no FLOPs: {operations}']
    if probes.length.workers:
        notes.append('decode, transform and collate are times of data workers, beside the run')
    return RunProfile(
        config=config,
        device=peaks.device,
        precision=peaks.precision,
        seconds=seconds,
        wall_seconds=probes.wall_seconds,
        steps=probes.steps,
        images=probes.images,
        evaluated=probes.length.evaluated * probes.validations,
        checkpoints=probes.checkpoints,
        checkpoint_bytes=probes.checkpoint_bytes,
        workers=probes.length.workers,
        cores=cores,
        core_seconds_per_image=core_seconds,
        probe_seconds=ledger.marks * probes.seconds_per_mark,
        flops_per_image=operations.training if known else None,
        peaks=peaks,
        limits=limits,
        whole_run=whole,
        advice=advise(cfg, probes, limits, whole, core_seconds, cores, peaks, on_gpu),
        notes=tuple(notes),
        environment={key: str(value) for key, value in environment().items()},
    )
