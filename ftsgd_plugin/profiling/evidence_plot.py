"""The picture of the paper's models on the axis of the embedding's ratio, with the model in question among them."""

import os
from collections.abc import Sequence

from ..utils.plotting import MODEL_MARKS, import_pyplot, save_figure
from .evidence import PaperPoint, correlation


def draw_evidence(points: Sequence[PaperPoint], ratio: float, name: str, path: str | os.PathLike) -> None:
    """Draw what freeze-embed gained over SGD against the ratio; written whole or not at all.

    Args:
        points: Output of :func:`ftsgd_plugin.profiling.evidence.paper_points`.
        ratio: Of the model in question; a vertical line.
        name: Its name.
        path: PNG file.
    """
    plt = import_pyplot()
    figure, axes = plt.subplots(figsize=(9, 4.6), constrained_layout=True)
    for model, (colour, marker) in MODEL_MARKS.items():
        own = [point for point in points if point.model == model]
        axes.plot(
            [point.ratio for point in own],
            [point.freeze_embed_gain for point in own],
            marker,
            color=colour,
            markersize=8,
            markeredgecolor='white',
            label=model,
        )
    axes.axhline(0, color='#444444', linewidth=0.8)
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
    found = correlation(list(points))
    title = f"the paper's models: rank correlation {found.spearman:.2f} over {found.points} points of 7 models"
    axes.set_title(title, fontsize=10, loc='left')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
