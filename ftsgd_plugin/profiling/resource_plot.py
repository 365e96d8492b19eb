"""The picture of what each method costs: memory at the peak, memory along the run, time."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..paper.names import method_label
from .measure import MethodMeasure
from .predict import MethodPlan

PARTS = (('weights', '#4c72b0'), ('optimizer state', '#dd8452'), ('activations, gradients, temporaries', '#b8b8b8'))
LINES = {'adamw': '#c44e52', 'freeze-embed': '#55a868', 'sgd-in-backward': '#8172b3', 'gradual-unfreezing': '#222222'}

ABOVE = dict(loc='lower left', bbox_to_anchor=(0, 1), fontsize=8, frameon=False, columnspacing=1.2, handlelength=1.4)


def draw_resources(
    models: Sequence[tuple[str, Sequence[MethodPlan], Sequence[MethodMeasure]]], path: str | os.PathLike
) -> None:
    """Draw one row per model; written whole or not at all.

    Args:
        models: ``(title, plans, measures)``; the measures may be missing.
        path: PNG file.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(16, 4.6 * len(models)), layout='constrained')
    rows = figure.subfigures(len(models), 1, squeeze=False)[:, 0]
    for (title, plans, measures), row in zip(models, rows):
        row.suptitle(title, x=0.01, ha='left', fontweight='bold')
        parts, course, time = row.subplots(1, 3)
        measured = {measure.name: measure for measure in measures}
        scale, unit = _unit(max(plan.peak for plan in plans))
        _draw_parts(parts, plans, measured, scale, unit)
        _draw_course(course, plans, scale, unit)
        _draw_time(time, plans, measured)
        for axes in (parts, course, time):
            axes.spines[['top', 'right']].set_visible(False)
    path = Path(path)
    unfinished = path.with_name(f'.{path.name}')
    figure.savefig(unfinished, format='png', dpi=110)
    plt.close(figure)
    os.replace(unfinished, path)


def _unit(size: float) -> tuple[float, str]:
    return (1e9, 'GB') if size >= 1e9 else (1e6, 'MB')


def _draw_parts(axes, plans, measured: dict, scale: float, unit: str) -> None:
    """Stacked bars: what fills the memory at the peak of the heaviest phase; the measured peak as a mark."""
    for y, plan in enumerate(plans):
        phase = max(plan.phases, key=lambda phase: phase.peak)
        fixed = phase.weights + phase.buffers
        left = 0.0
        for (_, colour), size in zip(PARTS, (fixed, phase.state, phase.peak - fixed - phase.state)):
            axes.barh(y, size / scale, 0.66, left / scale, color=colour)
            left += size
        axes.text(1.02 * left / scale, y, f'{left / scale:.3g}', va='center', fontsize=8)
        if plan.name in measured:
            axes.plot([measured[plan.name].peak / scale] * 2, [y - 0.38, y + 0.38], color='black', lw=1.6)
    axes.set_yticks(range(len(plans)), [method_label(plan.name) for plan in plans], fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel=f'peak memory of tensors ({unit}); black: measured' if measured else f'planned peak ({unit})')
    axes.set_xlim(0, 1.12 * max(plan.peak for plan in plans) / scale)
    axes.legend(axes.patches[: len(PARTS)], [name for name, _ in PARTS], ncols=3, **ABOVE)


def _draw_course(axes, plans, scale: float, unit: str) -> None:
    """Planned peak of each phase over the run, for the methods that differ most."""
    for plan in plans:
        if plan.name not in LINES:
            continue
        edges, heights = [0.0], []
        for phase in plan.phases:
            edges.append(edges[-1] + 100 * phase.fraction_of_steps)
            heights.append(phase.peak / scale)
        axes.stairs(heights, edges, baseline=None, color=LINES[plan.name], lw=2, label=method_label(plan.name))
    axes.set(xlabel='progress of the run (%)', ylabel=f'planned peak ({unit})', xlim=(0, 100), ylim=(0, None))
    axes.legend(ncols=4, **ABOVE)


def _draw_time(axes, plans, measured: dict) -> None:
    """Time of a picture, and operations beside it, both with AdamW = 100 %."""
    base = next((plan for plan in plans if plan.name == 'adamw'), plans[0])
    operations = [100 * plan.mean_flops_per_image / base.mean_flops_per_image for plan in plans]
    if base.name in measured:
        reference = measured[base.name].seconds_per_step
        shown = [(y, measured[plan.name]) for y, plan in enumerate(plans) if plan.name in measured]
        bars = axes.barh(
            [y for y, _ in shown], [100 * m.seconds_per_step / reference for _, m in shown], 0.66, color='#9ecae1'
        )
        labels = [f' {_time(measure.seconds_per_step / measure.batch_size)} / image' for _, measure in shown]
        for bar, label in zip(bars, labels):
            axes.text(0, bar.get_y() + bar.get_height() / 2, label, va='center', fontsize=8)
        axes.plot(operations, range(len(plans)), 'D', color='black', ms=5, clip_on=False)
        axes.legend([bars, axes.lines[0]], ['time (measured)', 'operations (planned)'], ncols=2, **ABOVE)
    else:
        bars = axes.barh(range(len(plans)), operations, 0.66, color='#9ecae1')
        axes.legend([bars], ['operations (planned)'], **ABOVE)
        for y, plan in enumerate(plans):
            axes.text(0, y, f' {plan.mean_flops_per_image / 1e9:.3g} GFLOP / image', va='center', fontsize=8)
    axes.set_yticks(range(len(plans)), [''] * len(plans))
    axes.invert_yaxis()
    axes.set_xlim(0, None)
    axes.set(xlabel=f'% of {method_label(base.name)}')


def _time(seconds: float) -> str:
    return f'{seconds:.2g} s' if seconds >= 1 else f'{1e3 * seconds:.3g} ms'
