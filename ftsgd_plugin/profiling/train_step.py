"""One training step of a model, and its time on the CPU or a GPU."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise

import torch
from mmengine.model import BaseModel


def training_loss(model: BaseModel, data: dict, autocast: str | None = None) -> torch.Tensor:
    """The loss of a batch, as MMEngine's ``train_step`` computes it.

    Args:
        model: The classifier, on its device.
        data: Output of its data preprocessor.
        autocast: ``None`` (float32) or the type of mixed precision, e.g. ``'bfloat16'``.
    """
    device = next(model.parameters()).device.type
    with torch.autocast(device, getattr(torch, autocast)) if autocast else nullcontext():
        losses = model(**data, mode='loss')
    return model.parse_losses(losses)[0]


def step_seconds(step: Callable[[], None], count: int, device: str) -> list[float]:
    """Time of each of ``count`` steps, after one warm-up step.

    Args:
        step: Does one step.
        count: Number of timed steps.
        device: ``'cpu'`` (wall clock) or ``'cuda'`` (events in the stream, read at the end).
    """
    step()
    if device != 'cuda':
        times = [time.perf_counter()]
        for _ in range(count):
            step()
            times.append(time.perf_counter())
        return [end - start for start, end in pairwise(times)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairwise(marks)]
