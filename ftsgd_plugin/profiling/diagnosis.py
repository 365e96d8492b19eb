"""The recommended method for a model on its data, with reasons and costs; the logic of ``tools/diagnose.py``."""

import dataclasses
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel

from ..utils.errors import UserError
from ..utils.format import format_bytes
from .choice import HEADROOM, Diagnosis, choose_method, preferred_method
from .gradients import GradientProfile, measure_gradients
from .own_points import own_points
from .phases import COMPARED_METHODS
from .predict import predict_methods
from .setup import autocast_of, pretrained_model, training_loader
from .sharded import plan_sharded
from .train_step import step_seconds, training_loss

RANKS = (2, 4, 8, 16, 32, 64)  # numbers of devices to try where one is not enough


def diagnose(
    cfg: Config,
    name: str | None = None,
    batches: int = 8,
    memory: int | None = None,
    device: str | None = None,
    report: Callable[[str], None] | None = None,
    methods: Sequence[str] = COMPARED_METHODS,
    points: Sequence[str | os.PathLike] = (),
    include_own: bool = False,
) -> Diagnosis:
    """Recommend a method for a config's model and training data.

    Measures the gradients and the time of a step on the training batches, predicts memory and FLOPs of every method,
    and chooses with :func:`ftsgd_plugin.profiling.choice.choose_method`.

    Args:
        cfg: A full config; its own method is ignored.
        name: Name in texts and figures. Default: the config file's.
        batches: Training batches to measure.
        memory: Bytes that the methods have to fit. Default: the memory of the GPU, if ``device`` is one.
        device: E.g. ``'cpu'`` or ``'cuda:1'``. Default: the GPU if there is one. If a step does not fit its memory, the
            CPU measures instead.
        report: Called with lines about the progress. Default: print to stderr.
        methods: Methods to predict, with those of the paper among them. The recommendation is one of the paper's.
        points: Files with further points of our own, see :func:`ftsgd_plugin.profiling.own_points.own_points`.
        include_own: See :func:`ftsgd_plugin.profiling.choice.choose_method`.

    Raises:
        UserError: The config lacks a model or training data, its weights or data are missing, or the device cannot be
            used.

    Examples:
        >>> diagnose(Config.fromfile('configs/vit-tiny_freeze-embed_digits.py'), memory=2**30).recommendation
        'freeze-embed'
    """
    ours = own_points(points)
    report = report or (lambda line: print(line, file=sys.stderr, flush=True))
    device = device or get_device()
    name = name or Path(cfg.filename or 'model').stem
    report('loading the model and the data')
    model, loader = pretrained_model(cfg, device), training_loader(cfg)
    batches = min(batches, len(loader))
    autocast = autocast_of(cfg)

    def measure() -> tuple[GradientProfile, float]:
        profile = measure_gradients(
            model, loader, batches, name=name, progress=lambda done: report(f'gradients: batch {done}/{batches}')
        )
        return profile, full_step_seconds(model, next(iter(loader)), autocast=autocast)

    try:
        profile, seconds = measure()
    except torch.OutOfMemoryError:
        report('full fine-tuning does not fit the GPU at this batch size; measuring on the CPU')
        model.zero_grad()
        model.cpu()
        torch.cuda.empty_cache()
        profile, seconds = measure()
    report('predicting the cost of every method')
    left_out: dict[str, str] = {}
    predictions = predict_methods(cfg, methods, autocast=autocast, device=device.split(':')[0], left_out=left_out)
    for name in COMPARED_METHODS:
        if name in left_out:
            raise UserError(left_out[name])
    if memory is None and device.startswith('cuda'):
        memory = torch.cuda.get_device_properties(device).total_memory
    answer = choose_method(profile, predictions, seconds, memory, ours, include_own)
    if answer.methods[answer.recommendation].fits is False:
        report('planning sharded training')
        answer = recommend_sharding(answer, cfg, autocast, device.split(':')[0])
    return dataclasses.replace(answer, left_out=left_out)


def recommend_sharding(answer: Diagnosis, cfg: Config, autocast: str | None = None, device: str = 'cpu') -> Diagnosis:
    """Add to a diagnosis in which nothing fits one device on how many the preferred method does, sharded.

    Args:
        answer: The diagnosis, with its ``memory``.
        cfg: The config.
        autocast: ``None`` (float32) or the type of mixed precision.
        device: ``'cpu'`` or ``'cuda'``: whose updates are assumed.
    """
    method, left_out = preferred_method(answer.profile), {}
    for ranks in RANKS:
        plans = plan_sharded(cfg, ranks, [method], answer.batch_size, autocast, device, left_out)
        if left_out:
            reason = f'Nor can it be sharded: {left_out[method]}'
            return dataclasses.replace(answer, reasons=[*answer.reasons, reason])
        (plan,) = plans
        if plan.peak * HEADROOM <= answer.memory:
            reason = (
                f'Sharded over {ranks} devices of {format_bytes(answer.memory)}, {method} needs at most '
                f'{format_bytes(plan.peak)} on each, with {plan.batch_size} images on each: bash tools/dist_train.sh '
                f'CONFIG {ranks} --cfg-options model_wrapper_cfg.type=ShardedDataParallel train_dataloader.batch_size='
                f'{plan.batch_size}.'
            )
            return dataclasses.replace(answer, reasons=[*answer.reasons, reason], ranks=ranks, sharded_method=method)
    reason = (
        f'Nor does it fit sharded over up to {ranks} devices with {plan.batch_size} images on each: their step and its '
        'blocks are too large.'
    )
    return dataclasses.replace(answer, reasons=[*answer.reasons, reason])


def full_step_seconds(model: BaseModel, batch: dict, repeats: int = 3, autocast: str | None = None) -> float:
    """Median time per image of a forward and backward pass in which everything trains.

    Args:
        model: The classifier, on its device.
        batch: A batch of its loader.
        repeats: Timed steps, after one warm-up step.
        autocast: ``None`` (float32) or the type of mixed precision, e.g. ``'bfloat16'``.
    """
    device = next(model.parameters()).device.type

    def step() -> None:
        model.zero_grad()
        data = model.data_preprocessor(batch, training=True)
        training_loss(model, data, autocast).backward()

    seconds = statistics.median(step_seconds(step, repeats, device))
    model.zero_grad()
    return seconds / len(batch['inputs'])
