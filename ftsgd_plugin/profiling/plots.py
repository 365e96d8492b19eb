"""Pictures."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..paper.names import method_label
from ..utils.plotting import COLOURS, GREY, LIGHT_GREY, ROLE_COLOURS, import_pyplot, save_figure
from .gradients import Gradient, GradientProfile

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_comparison(summary: Sequence[dict], norms: Sequence[tuple[str, str, float]], path: str | os.PathLike) -> None:
    """Draw accuracies by method beside the gradient norm of every layer; written whole or not at all.

    Args:
        summary: Output of :func:`ftsgd_plugin.results.aggregate.method_summary`.
        norms: ``(layer name, role, gradient norm)`` from input to output.
        path: PNG file.
    """
    plt = import_pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 6), width_ratios=(1.1, 1.25), constrained_layout=True)
    measures = {'id': 'ID', 'ood': 'OOD average', 'ood_worst': 'OOD worst group'}
    width = 0.8 / len(summary)
    for k, line in enumerate(summary):
        positions = [i + (k - (len(summary) - 1) / 2) * width for i in range(len(measures))]
        means, errors = zip(*(line[key] for key in measures))
        method = line['method']
        bars = left.bar(
            positions,
            [100 * mean for mean in means],
            width * 0.92,
            yerr=[100 * (error or 0) for error in errors],
            capsize=3,
            color=COLOURS.get(method),
            label=f'{method_label(method)}, {line["state_bytes_per_param"]:.1f} state bytes/param',
        )
        left.bar_label(bars, fmt='%.0f' if len(summary) > 4 else '%.1f', fontsize=8, padding=2)
    seeds = len(summary[0]['seeds'])
    left.set(ylabel='accuracy (%)', ylim=(0, 100), title=f'Mean ± 90 % interval over {seeds} seeds, lr selected by ID')
    left.set_yticks(range(0, 101, 20))
    left.set_xticks(range(len(measures)), measures.values())
    left.legend(fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.07), ncols=2, frameon=False)

    names, roles, heights = zip(*norms)
    right.bar(range(len(norms)), heights, color=[ROLE_COLOURS.get(role, GREY) for role in roles])
    right.set(ylabel='gradient norm', title='Pretrained model at the first batch, input to output')
    right.set_xticks(range(len(norms)), names, rotation=90, fontsize=8)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in ROLE_COLOURS.values()]
    right.legend(handles, ['embedding layer (frozen by freeze-embed)', 'head'], fontsize=8)
    for axes in (left, right):
        axes.spines[['top', 'right']].set_visible(False)

    save_figure(figure, path)


def draw_layer_gradients(profiles: Sequence[GradientProfile], path: str | os.PathLike) -> None:
    """Draw the gradient norm of every layer, one panel per model; written whole or not at all.

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
    """One panel.

    Args:
        axes: Where.
        profile: What.
        width: Of the figure, in points.
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
        error_kw=dict(elinewidth=0.8, ecolor='#444444'),
        color=[colours.get(group.part, LIGHT_GREY) for group in [embedding[0], *others]],
    )
    largest = profile.largest_middle
    axes.axhline(largest.norm, color='#444444', linewidth=0.8, linestyle='--', zorder=0)
    title = (
        f'{profile.name}: embedding {profile.embed:.3g} is {profile.ratio:.2g} times the largest middle layer '
        f'({largest.name}, {largest.norm:.3g}); head {profile.head:.3g}'
    )
    axes.set_title(title, fontsize=10, loc='left')
    spread = ' ± sd' if profile.batches > 1 else ''
    axes.set_ylabel(f'gradient norm, mean{spread}\nof {profile.batches} batches of {profile.batch_size}', fontsize=9)
    slots = max(len(names), 16)  # the five bars of a ResNet should not be walls
    axes.set_xlim(-0.7, slots - 0.3)
    axes.set_ylim(bottom=0)
    axes.spines[['top', 'right']].set_visible(False)
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
