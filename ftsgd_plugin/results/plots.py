"""Figures of many runs: ID against OOD, accuracy against memory, learning rates, interpolated weights."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation.selection import describe_rule
from ..paper.names import DATASETS, METHODS, MODELS, dataset_label, method_label, model_label, sort_names
from ..utils.format import byte_unit, printable
from ..utils.metrics import ACCURACY, ID_METRIC, METRIC_LABELS, METRIC_NAMES, sign_of
from ..utils.plotting import COLOURS, DARK_GREY, DPI, GREY, METRIC_COLOURS, import_pyplot, save_figure, style_axes
from .aggregate import Results
from .formats import MEAN
from .sensitivity import lr_curves

_TICKS = (0.1, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9)
_MARKERS = 'osD^vPX<>p*h'
_SPARE = ('#d55e00', '#000000', GREY, '#8c564b', '#17becf', '#bcbd22')  # for methods that COLOURS does not have
_CLIP = (0.1, 99.9)  # percent; the logit of 0 and of 100 is infinite


def _colours(methods: Sequence[str]) -> dict[str, str]:
    others = [method for method in methods if method not in COLOURS]
    return {**COLOURS, **{method: _SPARE[i % len(_SPARE)] for i, method in enumerate(others)}}


def _panels(count: int, columns: int = 3, size: tuple[float, float] = (4.2, 3.7)):
    """A figure with a grid of panels, and its first ``count`` axes; the others are invisible."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure, axes = import_pyplot().subplots(
        rows, columns, figsize=(max(7.5, size[0] * columns), size[1] * rows + 0.9), layout='constrained', squeeze=False
    )
    axes = list(axes.flat)
    for unused in axes[count:]:
        unused.set_axis_off()
    for used in axes[:count]:
        style_axes(used, grid=True)
    return figure, axes[:count]


def _legend(figure, handles: list, columns: int) -> None:
    figure.legend(handles=handles, loc='outside lower center', ncols=columns, fontsize=9, frameon=False)


def _plain(text: str) -> str:
    """A name that Matplotlib prints literally: ``$`` would start a formula, a leading ``_`` hides it in a legend."""
    text = printable(text)
    return (' ' if text.startswith('_') else '') + text.replace('$', r'\$')


def logit(percent) -> np.ndarray:
    """log(p / (1 - p)) of percentages, clipped to 0.1 and 99.9."""
    p = np.clip(np.asarray(percent, dtype=float), *_CLIP) / 100
    return np.log(p / (1 - p))


def draw_id_ood(runs: pd.DataFrame, path: str | os.PathLike, title: str, metric: str = ACCURACY) -> Path:
    """OOD against ID accuracy on logit axes: a panel per dataset, a point per run, a fitted line per method.

    Args:
        runs: Output of :func:`ftsgd_plugin.results.aggregate.runs_frame`.
        path: PNG file.
        title: Second line of the heading: how epochs were selected.
        metric: What the runs hold, a key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`.
    """
    from matplotlib.lines import Line2D

    datasets, methods = sort_names(runs['dataset'], DATASETS), sort_names(runs['method'], METHODS)
    colours = _colours(methods)
    figure, panels = _panels(len(datasets))
    size = 16 if len(runs) < 1000 else 5
    for axes, dataset in zip(panels, datasets):
        of_dataset = runs[runs['dataset'] == dataset]
        for method in methods:
            part = of_dataset[of_dataset['method'] == method]
            x, y = logit(part['id']), logit(part['ood'])
            axes.scatter(x, y, s=size, color=colours[method], alpha=0.6, linewidths=0)
            if len(part) > 2 and np.ptp(x) > 1e-6:
                slope, offset = np.polyfit(x, y, 1)
                ends = np.array([x.min(), x.max()])
                axes.plot(ends, slope * ends + offset, color=colours[method], linewidth=1.6)
        for axis, column in ((axes.xaxis, 'id'), (axes.yaxis, 'ood')):
            low, high = logit(of_dataset[column].min()), logit(of_dataset[column].max())
            ticks = _spaced([t for t in _TICKS if low - 0.3 <= logit(t) <= high + 0.3], (high - low) / 7)
            axis.set_ticks(logit(ticks), [f'{t:g}' for t in ticks])
        axes.set_title(_plain(dataset_label(dataset)), fontsize=11)
        axes.set(xlabel=f'ID {METRIC_NAMES[metric]} (%)', ylabel=f'OOD {METRIC_NAMES[metric]} (%)')
    marks = [Line2D([], [], color=colours[m], marker='o', markersize=4, label=_plain(method_label(m))) for m in methods]
    _legend(figure, marks, 4)
    figure.suptitle(
        f'OOD against ID on logit axes (clipped to 0.1 and 99.9 %): a point per run, a fitted line per method\n{title}',
        fontsize=11,
    )
    return save_figure(figure, path)


def _spaced(ticks: list[float], least: float) -> list[float]:
    """Leave out ticks whose labels would overlap."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or logit(tick) - logit(kept[-1]) >= least:
            kept.append(tick)
    return kept


def draw_memory(cells: pd.DataFrame, path: str | os.PathLike, title: str, metric: str = ACCURACY) -> Path | None:
    """OOD accuracy against peak memory: a panel per dataset, a point per model and method.

    Args:
        cells: Output of :func:`ftsgd_plugin.results.aggregate.cells_frame`; cells of unknown memory are left out.
        path: PNG file.
        title: Second line of the heading: how cells were selected, and the devices that memory was measured on.
        metric: What the cells hold, as in :func:`draw_id_ood`.

    Returns:
        Path | None: ``None`` if no memory is known; then nothing is drawn.
    """
    from matplotlib.lines import Line2D

    cells = cells[cells['peak_bytes'].notna()]
    if cells.empty:
        return None
    datasets, methods = sort_names(cells['dataset'], DATASETS), sort_names(cells['method'], METHODS)
    models, colours = sort_names(cells['model'], MODELS), _colours(methods)
    markers = {model: _MARKERS[i % len(_MARKERS)] for i, model in enumerate(models)}
    scale, unit = byte_unit(cells['peak_bytes'].max())
    figure, panels = _panels(len(datasets))
    for axes, dataset in zip(panels, datasets):
        for line in cells[cells['dataset'] == dataset].to_dict('records'):
            axes.errorbar(
                line['peak_bytes'] / scale,
                line['ood'],
                yerr=None if math.isnan(line['ood_ci90']) else line['ood_ci90'],
                fmt=markers[line['model']],
                color=colours[line['method']],
                markersize=7,
                alpha=0.85,
                elinewidth=0.8,
            )
        axes.set_title(_plain(dataset_label(dataset)), fontsize=11)
        axes.set(xlabel=f'peak memory ({unit})', ylabel=f'OOD {METRIC_NAMES[metric]} (%), {MEAN}')
        axes.margins(0.12)
    marks = [Line2D([], [], color=colours[m], marker='s', linestyle='', label=_plain(method_label(m))) for m in methods]
    marks += [
        Line2D([], [], color=DARK_GREY, marker=markers[m], linestyle='', label=_plain(model_label(m))) for m in models
    ]
    _legend(figure, marks, 4)
    figure.suptitle(f'OOD {METRIC_NAMES[metric]} against peak memory of a run\n{title}', fontsize=11)
    return save_figure(figure, path)


def draw_learning_rates(
    curves: pd.DataFrame, path: str | os.PathLike, title: str, metric: str = ACCURACY
) -> Path | None:
    """ID accuracy against the learning rate: a row per model, a column per dataset, a line per method.

    Args:
        curves: Output of :func:`ftsgd_plugin.results.sensitivity.lr_curves`.
        path: PNG file.
        title: Second line of the heading: how epochs were selected.
        metric: What the curves hold, as in :func:`draw_id_ood`.

    Returns:
        Path | None: ``None`` if no cell has two learning rates; then nothing is drawn.
    """
    from matplotlib.lines import Line2D

    keys = ['model', 'dataset', 'method']
    curves = curves[curves.groupby(keys)['lr'].transform('size') > 1]
    if curves.empty:
        return None
    models, datasets = sort_names(curves['model'], MODELS), sort_names(curves['dataset'], DATASETS)
    methods = sort_names(curves['method'], METHODS)
    colours = _colours(methods)
    columns = len(datasets) if len(models) > 1 else 3
    figure, panels = _panels(len(models) * len(datasets), columns, (3.2, 2.7) if len(models) > 1 else (4.2, 3.3))
    for i, axes in enumerate(panels):
        model, dataset = models[i // len(datasets)], datasets[i % len(datasets)]
        part = curves[(curves['model'] == model) & (curves['dataset'] == dataset)]
        for method in methods:
            line = part[part['method'] == method].sort_values('lr')
            if len(line):
                best = (sign_of(metric) * line['id'].to_numpy()).argmax()
                decades = np.log10(line['lr'])
                axes.plot(decades, line['id'], color=colours[method], marker='.', linewidth=1.4)
                axes.plot(
                    decades.iloc[best],
                    line['id'].iloc[best],
                    color=colours[method],
                    marker='o',
                    markersize=9,
                    fillstyle='none',
                )
        _label_decades(axes, part['lr'])
        axes.set_title(_plain(f'{model_label(model)}, {dataset_label(dataset)}'), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_xlabel('learning rate', fontsize=8)
        if i % columns == 0:
            axes.set_ylabel(f'ID {METRIC_NAMES[metric]} (%)', fontsize=8)
    marks = [Line2D([], [], color=colours[m], marker='.', label=_plain(method_label(m))) for m in methods]
    _legend(figure, marks, min(4, 1 + len(datasets)))
    label = METRIC_NAMES[metric]
    figure.suptitle(f'Learning rates: mean ID {label} over seeds, the best circled\n{title}', fontsize=11)
    return save_figure(figure, path, dpi=DPI if len(panels) < 15 else 80)


def _label_decades(axes, lrs: pd.Series) -> None:
    """Label an axis of log10 learning rates: at powers of ten, or at the rates if it spans less than two of these."""
    low, high = np.log10(lrs.min()), np.log10(lrs.max())
    decades = [decade for decade in range(-12, 3) if low - 0.1 <= decade <= high + 0.1]
    if len(decades) > 1:
        axes.set_xticks(decades, [f'$10^{{{decade}}}$' for decade in decades])
    else:
        rates = sorted(lrs.unique())
        axes.set_xticks(np.log10(rates), [f'{rate:g}' for rate in rates])


def draw_results(results: Results, directory: str | os.PathLike) -> dict[str, Path]:
    """Draw the figures that the runs allow: ``id_ood.png``, ``memory.png`` and ``learning_rates.png``.

    Args:
        results: The runs.
        directory: Where the files are written.

    Returns:
        dict: Heading -> file.
    """
    directory, metric = Path(directory), results.metric
    title = describe_rule(results.rule, metric)
    if results.runs.empty:
        return {}
    known = results.runs[results.runs['peak_bytes'].notna()]
    devices = sorted({device or 'unknown device' for device in known['device']})
    shown = ', '.join(devices[:3]) + (f' and {len(devices) - 3} more' if len(devices) > 3 else '')
    label, memory = METRIC_NAMES[metric], _plain(f'{title}; memory measured on: {shown}')
    figures = {
        'Out of distribution against in distribution': draw_id_ood(
            results.runs, directory / 'id_ood.png', title, metric
        ),
        f'{label[0].upper()}{label[1:]} against memory': draw_memory(
            results.cells, directory / 'memory.png', memory, metric
        ),
        'Learning rates': draw_learning_rates(lr_curves(results.runs), directory / 'learning_rates.png', title, metric),
    }
    return {heading: path for heading, path in figures.items() if path is not None}


def draw_interpolation(
    rows: Sequence[dict], selected: float, path: str | os.PathLike, selected_by: str = ID_METRIC
) -> Path:
    """ID, OOD and worst-group accuracy along alpha.

    Args:
        rows: ``alpha`` and the metrics (fractions) of each point.
        selected: The alpha that was selected.
        path: PNG file.
        selected_by: By this metric, which is drawn too.
    """
    figure, axes = import_pyplot().subplots(figsize=(6.4, 4.4), layout='constrained')
    alphas = [row['alpha'] for row in rows]
    for key, label in {selected_by: selected_by, **METRIC_LABELS}.items():
        if all(key in row for row in rows):
            values = [100 * row[key] for row in rows]
            axes.plot(alphas, values, marker='o', markersize=4, color=METRIC_COLOURS.get(key), label=label)
    axes.axvline(
        selected,
        color=DARK_GREY,
        linestyle=':',
        label=f'selected by {METRIC_LABELS.get(selected_by, selected_by)}: {selected:g}',
    )
    axes.set(
        xlabel="alpha: 0 pretrained backbone, 1 fine-tuned; the head is the run's throughout",
        ylabel='accuracy (%)',
        title='Between the pretrained and the fine-tuned weights',
    )
    style_axes(axes, grid=True)
    axes.legend(frameon=False)
    return save_figure(figure, path)
