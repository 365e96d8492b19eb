"""What a run's parts could take at least, what its whole length would take, and what to change first."""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config

from ..utils.errors import UserError
from ..utils.format import format_bytes, format_duration
from .peaks import Peaks
from .phases import method_of, run_length
from .predict import Predictor
from .probes import RunProbes
from .setup import autocast_of

STEP = ('data', 'copy', 'forward', 'backward', 'optimizer', 'hooks', 'loop')  # the parts of a training step
WORTH_SAYING = 0.03  # of the whole run: what can be saved
ATTAINABLE = 0.5  # of a GPU's peak, by the networks of this project (docs/performance.md)
_FUSED = ('SGD', 'Adam', 'AdamW', 'Adagrad')
_MOST_WRITTEN = 2**28  # bytes of the test of the disk


@dataclass(frozen=True)
class Limit:
    """The least time that a part could take.

    Attributes:
        seconds: Of a step; of ``'evaluation'`` of an image, of ``'checkpoint'`` of a checkpoint.
        reason: What it follows from.
    """

    seconds: float
    reason: str


@dataclass(frozen=True)
class Operations:
    """Floating point operations of an image by the cost model: of a training step, and of evaluation."""

    training: float
    forward: float


def count_operations(cfg: Config, batch_size: int, device: str) -> Operations | str:
    """Ask the cost model about the first phase of a config's run; text says why it does not know the model."""
    try:
        predictor = Predictor(cfg, device, batch_size, autocast_of(cfg))
        phase = predictor.predict(method_of(cfg, 'run'), run_length(cfg)).phases[0]
        return Operations(phase.flops / batch_size, predictor.forward_flops_per_image())
    except UserError as error:
        return str(error)


def find_limits(
    probes: RunProbes,
    operations: Operations | str,
    peaks: Peaks,
    core_seconds: dict[str, float],
    cores: int,
    disk: Path,
) -> dict[str, Limit]:
    """The limits of a measured run.

    Args:
        probes: What was measured.
        operations: Output of :func:`count_operations`.
        peaks: What the device can do.
        core_seconds: Seconds of one core per image in each stage of the data.
        cores: Cores that the run may use.
        disk: Directory on the disk of the checkpoints.
    """
    batch, limits = probes.length.batch_size, {}
    total = sum(core_seconds.values())
    if total:
        decoding = core_seconds.get('decode', 0.0)
        rate = f'{1 / decoding:,.0f} images/s and core decoded, ' if decoding else ''
        reason = f'{rate}{1 / total:,.0f} prepared; {cores} cores'
        limits['data'] = Limit(batch * total / cores, reason)
    limits['copy'] = Limit(
        batch * probes.batch_bytes_per_image / peaks.link,
        f'{format_bytes(batch * probes.batch_bytes_per_image)} at {format_bytes(peaks.link)}/s',
    )
    if isinstance(operations, Operations):
        backward = operations.training - operations.forward
        for part, per_image in (('forward', operations.forward), ('backward', backward)):
            reason = f'{batch * per_image / 1e9:,.3g} GFLOP at {rate_text(peaks.flops)}'
            limits[part] = Limit(batch * per_image / peaks.flops, reason)
        limits['evaluation'] = Limit(
            max(operations.forward / peaks.flops, total / cores), 'arithmetic at the peak or data on all cores'
        )
    if probes.optimizer_bytes:
        reason = (
            f'{format_bytes(probes.optimizer_bytes)} of weights, gradients, state at {format_bytes(peaks.bandwidth)}/s'
        )
        limits['optimizer'] = Limit(probes.optimizer_bytes / peaks.bandwidth, reason)
    if probes.checkpoints:
        size = probes.checkpoint_bytes // probes.checkpoints
        rate = disk_rate(disk, size)
        limits['checkpoint'] = Limit(size / rate, f'{format_bytes(size)} at {format_bytes(rate)}/s to the disk')
    return limits


def disk_rate(directory: Path, size: int) -> float:
    """Bytes per second of a file of that size (at most 256 MiB), until they are on the disk."""
    content = os.urandom(min(max(size, 4096), _MOST_WRITTEN))
    path = directory / 'disk_rate'
    start = time.perf_counter()
    with open(path, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return len(content) / seconds


def predict_whole_run(probes: RunProbes, parts: dict[str, float]) -> dict[str, float]:
    """Seconds of the config's whole run by part, from those of the short one."""
    length, steps = probes.length, probes.steps
    whole = {'start-up': parts['start-up']}
    whole.update({part: parts[part] / steps * length.steps for part in STEP})
    evaluated = length.evaluated * probes.validations
    share = length.validations * length.images_evaluated / evaluated if evaluated else 0.0
    whole['evaluation'] = parts['evaluation'] * share
    # Written with every evaluation of the short run; the number of those of the whole run is not known better.
    whole['checkpoint'] = parts['checkpoint'] * max(length.validations, 1)
    return whole


def advise(
    cfg: Config,
    probes: RunProbes,
    limits: dict[str, Limit],
    whole: dict[str, float],
    core_seconds: dict[str, float],
    cores: int,
    peaks: Peaks,
    on_gpu: bool,
) -> str:
    """What to change first: of the changes that are known to help, the one that saves most of the whole run."""
    total, steps = sum(whole.values()), probes.length.steps
    found: list[tuple[float, str]] = []

    def propose(seconds: float, text: str) -> None:
        found.append((seconds, text))

    _about_data(propose, probes, whole, core_seconds, cores, on_gpu)
    compute = whole['forward'] + whole['backward']
    least = sum(limits[part].seconds for part in ('forward', 'backward') if part in limits) * steps
    if on_gpu and least:
        text = f'forward and backward run at {least / compute:.0%} of the peak'
        if peaks.precision in ('float32', 'tf32'):
            propose(compute / 2, f"{text} of {peaks.precision}: optim_wrapper.type='AmpOptimWrapper', dtype='bfloat16'")
        else:
            propose(compute - least / ATTAINABLE, f'{text}: model.backbone.compile=True, or a larger batch')
    kind = (cfg.optim_wrapper.get('optimizer') or {}).get('type')
    if kind in _FUSED and not cfg.optim_wrapper.optimizer.get('fused') and 'optimizer' in limits:
        least = limits['optimizer'].seconds * steps
        propose(
            whole['optimizer'] - least, f'{kind} updates one tensor after another: optim_wrapper.optimizer.fused=True'
        )
    if probes.length.validations > 1:
        propose(whole['evaluation'] / 2, 'evaluate half as often: train_cfg.val_interval')
        propose(whole['checkpoint'] / 2, 'write checkpoints half as often: default_hooks.checkpoint.interval')
    hooks = {key: value for key, value in probes.ledger.seconds.items() if key.startswith('hooks/')}
    if hooks:
        name = max(hooks, key=hooks.get)
        propose(hooks[name] / probes.steps * steps, f'{name.partition("/")[2]} is the slowest hook: do without it')
    seconds, text = max(found, default=(0.0, ''))
    if seconds < WORTH_SAYING * total:
        if whole['start-up'] > total / 2:
            return f'nothing in the run: {whole["start-up"] / total:.0%} of it is start-up, which a longer run has once'
        return (
            f'nothing: no change known here saves {WORTH_SAYING:.0%}; forward and backward are {compute / total:.0%} '
            'of the run, so a smaller model or image, fewer epochs or gradual unfreezing would'
        )
    return f'{text}: saves up to {format_duration(seconds)} of {format_duration(total)} ({seconds / total:.0%})'


def _about_data(propose, probes: RunProbes, whole: dict, core_seconds: dict, cores: int, on_gpu: bool) -> None:
    """More data workers while cores are free, else less work per image."""
    length, per_image = probes.length, sum(core_seconds.values())
    if not per_image:
        return
    exposed = whole['data'] / length.steps  # seconds that a step waits
    rest = sum(whole[part] for part in STEP[1:]) / length.steps
    free = cores - 1 if on_gpu else cores - torch.get_num_threads()
    needed = math.ceil(length.batch_size * per_image / rest) if rest else free
    workers = min(free, max(needed, 1))
    if workers > length.workers:
        left = max(0.0, length.batch_size * per_image / workers - rest)
        text = f'a step waits {exposed * 1e3:.3g} ms for data: train_dataloader.num_workers={workers}'
        propose((exposed - left) * length.steps, f'{text} (now {length.workers})')
    else:
        decoding = core_seconds.get('decode', 0.0) / per_image
        text = f'the {cores} cores are busy with data ({decoding:.0%} of it decoding): store smaller images'
        propose(exposed * length.steps * max(decoding, 0.5), text)


def rate_text(flops: float) -> str:
    """FLOP/s as text."""
    return f'{flops / 1e12:.3g} TFLOP/s' if flops >= 1e12 else f'{flops / 1e9:.3g} GFLOP/s'
