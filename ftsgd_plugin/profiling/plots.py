"""Figures of gradients, of the paper's evidence and of what each method costs."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..paper.names import method_label
from ..utils.format import byte_unit
from ..utils.plotting import (
    COLOURS,
    DARK_GREY,
    GREY,
    LIGHT_BLUE,
    LIGHT_GREY,
    MODEL_MARKS,
    ROLE_COLOURS,
    import_pyplot,
    save_figure,
    style_axes,
)
from .evidence import PaperPoint, correlation
from .gradients import Gradient, GradientProfile
from .measure import MethodMeasure
from .own_points import OwnPoint
from .predict import MethodPrediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEMORY_PARTS = (
    ('weights', '#4c72b0'),
    ('optimizer state', '#dd8452'),
    ('activations, gradients, temporaries', '#b8b8b8'),
)
DRAWN_OVER_A_RUN = ('adamw', 'freeze-embed', 'sgd-in-backward', 'gradual-unfreezing')  # they differ most
LEGEND_ABOVE = dict(
    loc='lower left', bbox_to_anchor=(0, 1), fontsize=8, frameon=False, columnspacing=1.2, handlelength=1.4
)


def draw_layer_gradients(profiles: Sequence[GradientProfile], path: str | os.PathLike) -> None:
    """Draw the gradient norm of every layer, one panel per model; the file is written atomically.

    Layers are the authors' (a convnet's stages are one each), from input to output, the embedding merged into one bar.
    The axis is linear from zero: plain SGD moves a layer by the learning rate times its gradient, so that heights
    compare the steps that layers take. Every panel has its own axis.

    Args:
        profiles: One per panel, from top to bottom.
        path: PNG file.
    """
    plt = import_pyplot()
    most = max(len(profile.groups) for profile in profiles)
    size = (max(9.0, min(3.0 + 0.2 * most, 17.0)), 0.6 + 3.6 * len(profiles))
    figure, panels = plt.subplots(len(profiles), 1, figsize=size, squeeze=False, constrained_layout=True)
    for profile, axes in zip(profiles, panels[:, 0]):
        _draw_profile(axes, profile, 72 * size[0])
    handles = [
        plt.Rectangle((0, 0), 1, 1, facecolor=colour)
        for colour in (ROLE_COLOURS['embed'], GREY, LIGHT_GREY, ROLE_COLOURS['head'])
    ]
    labels = ['embedding (frozen by freeze-embed)', 'middle layers', "not in the paper's figure", 'head']
    figure.legend(handles, labels, fontsize=9, ncols=4, frameon=False, loc='outside upper left')
    save_figure(figure, path)


def _draw_profile(axes: 'Axes', profile: GradientProfile, width: float) -> None:
    """Draw one panel.

    Args:
        axes: The panel.
        profile: The gradients.
        width: Width of the figure in points.
    """
    embedding = [group for group in profile.groups if group.part == 'embed']
    others = [group for group in profile.groups if group.part != 'embed']
    names = ['embedding', *(group.name for group in others)]
    colours = {**ROLE_COLOURS, 'middle': GREY}
    axes.bar(
        range(len(names)),
        [profile.embed, *(group.norm for group in others)],
        0.85,
        yerr=None if profile.batches == 1 else [_merged_std(embedding), *(group.std for group in others)],
        error_kw=dict(elinewidth=0.8, ecolor=DARK_GREY),
        color=[colours.get(group.part, LIGHT_GREY) for group in [embedding[0], *others]],
    )
    largest = profile.largest_middle
    axes.axhline(largest.norm, color=DARK_GREY, linewidth=0.8, linestyle='--', zorder=0)
    title = (
        f'{profile.name}: embedding {profile.embed:.3g} is {profile.ratio:.2g} times the largest middle layer '
        f'({largest.name}, {largest.norm:.3g}); head {profile.head:.3g}'
    )
    axes.set_title(title, fontsize=10, loc='left')
    spread = ' ± sd' if profile.batches > 1 else ''
    axes.set_ylabel(f'gradient norm, mean{spread}\nof {profile.batches} batches of {profile.batch_size}', fontsize=9)
    slots = max(len(names), 16)  # few bars, e.g. the five of a ResNet, stay narrow
    axes.set_xlim(-0.7, slots - 0.3)
    axes.set_ylim(bottom=0)
    style_axes(axes)
    room = 0.85 * width / slots  # points per label
    if room >= 7.5:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8 if room > 11 else 6.5)
    else:  # too many to read: the first layer of each block
        shown = {i for i, group in enumerate(others, 1) if group.block is None or group.block != others[i - 2].block}
        ticks = sorted(shown | {0})
        axes.set_xticks(ticks, [names[i] for i in ticks], rotation=90, fontsize=8)


def _merged_std(parts: Sequence[Gradient]) -> float:
    """Standard deviation of the root of the sum of squares, to first order, for parts that vary together."""
    total = sum(part.norm**2 for part in parts) ** 0.5
    return sum(part.norm * part.std for part in parts) / total if total else 0.0


def draw_evidence(
    points: Sequence[PaperPoint],
    ratio: float,
    name: str,
    path: str | os.PathLike,
    ours: Sequence[OwnPoint] = (),
    included: bool = False,
) -> None:
    """Draw the gain of freeze-embed over SGD against the ratio; the file is written atomically.

    Args:
        points: Output of :func:`ftsgd_plugin.profiling.evidence.paper_points`.
        ratio: Ratio of the diagnosed model, drawn as a vertical line.
        name: Label of that line.
        path: PNG file.
        ours: Points of our own, drawn as stars: filled OOD, hollow ID.
        included: Whether the correlation is over these too.
    """
    plt = import_pyplot()
    figure, axes = plt.subplots(figsize=(9, 4.6), constrained_layout=True)
    for model, (colour, marker) in MODEL_MARKS.items():
        points_of_model = [point for point in points if point.model == model]
        axes.plot(
            [point.ratio for point in points_of_model],
            [point.freeze_embed_gain for point in points_of_model],
            marker,
            color=colour,
            markersize=8,
            markeredgecolor='white',
            label=model,
        )
    if ours:
        ratios = [point.ratio for point in ours]
        oods, ids = ([getattr(point, key) for point in ours] for key in ('freeze_embed_gain', 'gain_id'))
        axes.plot(ratios, oods, '*', color='black', markersize=13, label='ours, OOD')
        axes.plot(ratios, ids, '*', color='black', markersize=13, fillstyle='none', label='ours, ID accuracy')
    axes.axhline(0, color=DARK_GREY, linewidth=0.8)
    axes.axvline(ratio, color='black', linewidth=2, linestyle='--')
    at_left = ratio < 1
    axes.annotate(
        f'{name}\n{ratio:.2g}',
        (ratio, 1),
        xycoords=('data', 'axes fraction'),
        xytext=(6 if at_left else -6, -4),
        textcoords='offset points',
        ha='left' if at_left else 'right',
        va='top',
    )
    axes.set_xscale('log')
    ticks = [0.25, 0.5, 1, 2, 4]
    axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel('gradient norm of the embedding / of the largest middle layer, before training')
    axes.set_ylabel('OOD accuracy of freeze-embed\nminus SGD (percentage points)')
    found = correlation([*points, *ours] if included else points)
    whose = f"the paper's 7 models and {len(ours)} of ours" if included else "the paper's 7 models"
    title = f'{whose}: rank correlation {found.spearman:.2f} over {found.points} points'
    title += ' (without the stars)' if ours and not included else ''
    axes.set_title(title, fontsize=10, loc='left')
    style_axes(axes)
    axes.legend(fontsize=8, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)


def draw_resources(
    models: Sequence[tuple[str, Sequence[MethodPrediction], Sequence[MethodMeasure]]], path: str | os.PathLike
) -> None:
    """Draw memory at the peak, memory over the run and time of each method, one row per model.

    The file is written atomically.

    Args:
        models: ``(title, predictions, measures)``; the measures may be empty.
        path: PNG file.
    """
    plt = import_pyplot()
    figure = plt.figure(figsize=(16, 4.6 * len(models)), layout='constrained')
    rows = figure.subfigures(len(models), 1, squeeze=False)[:, 0]
    for (title, predictions, measures), row in zip(models, rows):
        row.suptitle(title, x=0.01, ha='left', fontweight='bold')
        parts, course, time = row.subplots(1, 3)
        measured = {measure.name: measure for measure in measures}
        scale, unit = byte_unit(max(predicted.peak for predicted in predictions))
        _draw_parts(parts, predictions, measured, scale, unit)
        _draw_course(course, predictions, scale, unit)
        _draw_time(time, predictions, measured)
        for axes in (parts, course, time):
            style_axes(axes)
    save_figure(figure, path)


def _draw_parts(axes, predictions, measured: dict, scale: float, unit: str) -> None:
    """Stacked bars of the memory at the peak of the heaviest phase, with the measured peak as a mark."""
    for y, predicted in enumerate(predictions):
        phase = max(predicted.phases, key=lambda phase: phase.peak)
        fixed = phase.weights + phase.buffers
        left = 0.0
        for (_, colour), size in zip(MEMORY_PARTS, (fixed, phase.state, phase.peak - fixed - phase.state)):
            axes.barh(y, size / scale, 0.66, left / scale, color=colour)
            left += size
        axes.text(1.02 * left / scale, y, f'{left / scale:.3g}', va='center', fontsize=8)
        if predicted.name in measured:
            axes.plot([measured[predicted.name].peak / scale] * 2, [y - 0.38, y + 0.38], color='black', lw=1.6)
    axes.set_yticks(range(len(predictions)), [method_label(predicted.name) for predicted in predictions], fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel=f'peak memory of tensors ({unit}); black: measured' if measured else f'predicted peak ({unit})')
    axes.set_xlim(0, 1.12 * max(predicted.peak for predicted in predictions) / scale)
    axes.legend(axes.patches[: len(MEMORY_PARTS)], [name for name, _ in MEMORY_PARTS], ncols=3, **LEGEND_ABOVE)


def _draw_course(axes, predictions, scale: float, unit: str) -> None:
    """Predicted peak of each phase over the run, for the methods that differ most."""
    for predicted in predictions:
        if predicted.name not in DRAWN_OVER_A_RUN:
            continue
        edges, heights = [0.0], []
        for phase in predicted.phases:
            edges.append(edges[-1] + 100 * phase.fraction_of_steps)
            heights.append(phase.peak / scale)
        axes.stairs(
            heights, edges, baseline=None, color=COLOURS[predicted.name], lw=2, label=method_label(predicted.name)
        )
    axes.set(xlabel='progress of the run (%)', ylabel=f'predicted peak ({unit})', xlim=(0, 100), ylim=(0, None))
    axes.legend(ncols=2, **LEGEND_ABOVE)


def _draw_time(axes, predictions, measured: dict) -> None:
    """Time and operations of an image, both with AdamW = 100 %."""
    base = next((predicted for predicted in predictions if predicted.name == 'adamw'), predictions[0])
    operations = [100 * predicted.mean_flops_per_image / base.mean_flops_per_image for predicted in predictions]
    if base.name in measured:
        reference = measured[base.name].seconds_per_step
        shown = [(y, measured[predicted.name]) for y, predicted in enumerate(predictions) if predicted.name in measured]
        bars = axes.barh(
            [y for y, _ in shown], [100 * m.seconds_per_step / reference for _, m in shown], 0.66, color=LIGHT_BLUE
        )
        labels = [f' {_time(measure.seconds_per_step / measure.batch_size)} / image' for _, measure in shown]
        for bar, label in zip(bars, labels):
            axes.text(0, bar.get_y() + bar.get_height() / 2, label, va='center', fontsize=8)
        axes.plot(operations, range(len(predictions)), 'D', color='black', ms=5, clip_on=False)
        axes.legend([bars, axes.lines[0]], ['time (measured)', 'operations (predicted)'], ncols=2, **LEGEND_ABOVE)
    else:
        bars = axes.barh(range(len(predictions)), operations, 0.66, color=LIGHT_BLUE)
        axes.legend([bars], ['operations (predicted)'], **LEGEND_ABOVE)
        for y, predicted in enumerate(predictions):
            axes.text(0, y, f' {predicted.mean_flops_per_image / 1e9:.3g} GFLOP / image', va='center', fontsize=8)
    axes.set_yticks(range(len(predictions)), [''] * len(predictions))
    axes.invert_yaxis()
    axes.set_xlim(0, None)
    axes.set(xlabel=f'% of {method_label(base.name)}')


def _time(seconds: float) -> str:
    return f'{seconds:.2g} s' if seconds >= 1 else f'{1e3 * seconds:.3g} ms'
