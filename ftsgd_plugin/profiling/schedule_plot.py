"""The figure of a schedule: what trains, learning rates and memory over the steps of a run."""

import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.format import byte_unit
from ..utils.plotting import DARK_GREY, GREY, LIGHT_BLUE, ROLE_COLOURS, import_pyplot, save_figure, style_axes
from .schedule_trace import ScheduleTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_RATES = 6  # lines of the learning rate that are told apart


def draw_schedule(trace: ScheduleTrace, path: str | os.PathLike) -> Path:
    """Draw a schedule in two or three panels over the same steps; the file is written atomically.

    Args:
        trace: Output of :func:`ftsgd_plugin.profiling.schedule_trace.trace_schedule`.
        path: PNG file.
    """
    plt = import_pyplot()
    costs = trace.shares_of_time is not None
    heights = [max(2.0, min(0.16 * len(trace.names), 7.0)), 2.0, *([1.8] if costs else [])]
    figure, panels = plt.subplots(
        len(heights), 1, figsize=(8.5, sum(heights) + 0.8), height_ratios=heights, sharex=True, constrained_layout=True
    )
    _draw_open(panels[0], trace)
    _draw_rates(panels[1], trace)
    if costs:
        _draw_costs(panels[2], trace)
    panels[-1].set_xlabel(trace.unit, fontsize=9)
    panels[-1].set_xlim(0, trace.steps)
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return save_figure(figure, path)


def _draw_open(axes: 'Axes', trace: ScheduleTrace) -> None:
    """A line per block, the head above; filled while it trains."""
    for y, name in enumerate(trace.names):
        spans = [(phase.start, phase.steps) for phase in trace.phases if name in phase.trained]
        axes.broken_barh(spans, (y - 0.42, 0.84), facecolor=ROLE_COLOURS['head'] if name == 'head' else LIGHT_BLUE)
    for phase in trace.phases[1:]:
        axes.axvline(phase.start, color=GREY, linewidth=0.5, zorder=0)
    axes.set_yticks(range(len(trace.names)), trace.names, fontsize=8 if len(trace.names) < 30 else 6)
    axes.set_ylim(-0.6, len(trace.names) - 0.4)
    axes.set_title('what trains', fontsize=10, loc='left')
    style_axes(axes)


def _draw_rates(axes: 'Axes', trace: ScheduleTrace) -> None:
    edges = range(trace.steps + 1)
    for i, (name, values) in enumerate(trace.rates.items()):
        label = name if 1 < len(trace.rates) <= _MOST_RATES else None
        axes.stairs(values, edges, baseline=None, color=f'C{i % 10}', linewidth=1.4, label=label)
    values = [value for rates in trace.rates.values() for value in rates if value > 0]
    if values and max(values) > 5 * min(values):
        axes.set_yscale('log')
    if 1 < len(trace.rates) <= _MOST_RATES:
        axes.legend(fontsize=8, frameon=False, ncols=3)
    axes.set_title('learning rate', fontsize=10, loc='left')
    style_axes(axes, grid=True)


def _draw_costs(axes: 'Axes', trace: ScheduleTrace) -> None:
    """Peak memory of a step as height; the share of the run's time above it."""
    size, unit = byte_unit(max(phase.cost.peak for phase in trace.phases))
    edges = [*(phase.start for phase in trace.phases), trace.steps]
    heights = [phase.cost.peak / size for phase in trace.phases]
    axes.stairs(heights, edges, fill=True, color=LIGHT_BLUE)
    for share, height, (start, end) in zip(trace.shares_of_time, heights, pairwise(edges)):
        if end - start >= 0.04 * trace.steps:
            axes.text((start + end) / 2, height, f'{share:.0%}', ha='center', va='bottom', fontsize=8, color=DARK_GREY)
    axes.set_ylim(0, 1.2 * max(heights))
    axes.set_title(f'peak memory of a step ({unit}), and share of the time', fontsize=10, loc='left')
    style_axes(axes)
