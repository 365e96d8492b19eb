"""What the runs of a sweep will cost: GPU-hours, disk space, weights for the ETA."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..profiling.run_costs import RunCost, RunCosts
from ..utils.errors import one_line
from ..utils.format import format_bytes
from ..utils.options import TFLOPS
from .cost_cache import CostCache
from .runs import SETTLED, Task


def describe(tasks: Sequence[Task], out: str | os.PathLike, tflops: float = TFLOPS) -> str:
    """The runs of a sweep with their states, predicted GPU-hours and disk space, as text."""
    lines, hours, largest, kept, left, unknown = [], 0.0, 0.0, 0.0, 0, 0
    for task, cost in zip(tasks, predict_costs(tasks), strict=True):
        reason = f': {task.reason}' if task.reason else ''
        time = '–' if cost is None else f'{cost.hours(tflops):.3f}'
        lines.append(f'{task.run.name:<60} {task.state + reason:<12} {time:>9} h')
        left += task.state not in SETTLED
        if cost is None:
            unknown += 1
            continue
        kept += cost.kept_bytes
        if task.state not in SETTLED:
            hours += cost.hours(tflops)
            largest = max(largest, cost.running_bytes)
    existing = next(parent for parent in [Path(out).absolute(), *Path(out).absolute().parents] if parent.is_dir())
    free = shutil.disk_usage(existing).free
    lines += [
        '',
        f'{len(tasks)} runs, {left} to do: about {hours:.1f} GPU-hours at {tflops:g} TFLOP/s sustained (an assumption)',
        f'disk: up to {format_bytes(largest)} per run at a time; {format_bytes(kept)} with --keep-checkpoints; '
        f'{format_bytes(free)} are free',
    ]
    if unknown:
        lines.append(f'not included: {unknown} runs whose cost cannot be predicted')
    return '\n'.join(lines)


def predict_costs(tasks: Sequence[Task]) -> list[RunCost | None]:
    """Predicted cost of every run; ``None``, with one line on stderr for its cell, where the prediction fails.

    Models and optimizers that train but cannot run on fake tensors exist, and no sweep may stop for a prediction.
    Predictions are kept for the next time, see :class:`ftsgd_plugin.sweep.cost_cache.CostCache`.
    """
    predict, cache, failed, costs = RunCosts(_report_tracing), CostCache(), set(), []
    for task in tasks:
        cell, cfg = task.run.config, task.config
        cost = cache[cfg]
        if cost is None and cell not in failed:
            try:
                cost = cache[cfg] = predict(cfg)
            except Exception as error:
                failed.add(cell)
                reason = one_line(error, limit=200)
                print(f'{cell}: its cost cannot be predicted: {reason}', file=sys.stderr, flush=True)
        costs.append(cost)
    cache.save()
    return costs


def flop_weights(costs: Sequence[RunCost | None]) -> list[float]:
    """Weights of runs for the ETA: their FLOPs; a run without a prediction counts as an average one."""
    known = [cost.flops for cost in costs if cost is not None]
    average = sum(known) / len(known) if known else 1.0
    return [average if cost is None else cost.flops for cost in costs]


def _report_tracing(model: str) -> None:
    print(f'predicting the cost of {model}', file=sys.stderr, flush=True)
