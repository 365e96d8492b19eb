"""The paper's tables from cells: their rows and columns, and the notes below them."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..evaluation.selection import describe_rule
from ..paper.names import (
    DATASETS,
    MAIN_METHODS,
    METHODS,
    MODELS,
    dataset_label,
    method_label,
    model_label,
    sort_names,
)
from ..utils.files import write_text
from ..utils.format import printable
from ..utils.metrics import ACCURACY, METRIC_NAMES
from . import FORMATS
from .aggregate import DIVERGED, common_averages, read_results
from .formats import RENDERERS, Comparison, Table
from .plots import draw_results
from .sensitivity import compare_sgd, lr_curves, lr_sensitivity

CLIP = 'clip-vit-b16'


def build_tables(compared: pd.DataFrame, rule: str, metric: str = ACCURACY) -> tuple[list[Table], list[str]]:
    """Make the tables that have a cell with a run.

    The paper's tables 1 (OOD) and 2 (ID), with every method that was published for all models or has a run, and the
    averages, if any run is of its models and datasets; the CLIP tables if any run is of CLIP ViT-B/16; and tables of
    all other models and datasets. Of another metric than the accuracy nothing was published; all runs are in two
    tables.

    Args:
        compared: Output of :func:`ftsgd_plugin.results.aggregate.compare`.
        rule: The selection rule, named in every title.
        metric: What the cells hold, a key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`.

    Returns:
        tuple: The tables, and notes in one line each.
    """
    run = compared[compared['id'].notna() | (compared['diverged'] > 0)]
    inside = run['model'].isin(MODELS) & run['dataset'].isin(DATASETS) & (metric == ACCURACY)
    tables, notes = [], []
    if inside.any():
        methods = sort_names([*MAIN_METHODS, *run[inside]['method']], METHODS)
        for number, key in ((1, 'ood'), (2, 'id')):
            title = f"The paper's table {number}: {key.upper()} accuracy (%)"
            tables.append(_grid(compared, title, key, list(MODELS), methods, list(DATASETS)))
        averages = [_averages(compared, chosen) for chosen in (list(MAIN_METHODS), methods)]
        if averages[0][0].title == averages[1][0].title:
            averages = averages[1:]
        for average, note in averages:
            tables += [average] if average.rows else []
            notes += [line for line in note if line not in notes]
        notes += [_count_verdicts(compared, key) for key in ('ood', 'id')]
    elif metric == ACCURACY:
        notes.append("no run is of the paper's models and datasets; its tables are left out.")
    if (inside & (run['model'] == CLIP)).any():
        of_clip = compared[compared['model'] == CLIP]
        for key in ('ood', 'id'):
            title = f"The paper's CLIP table: {key.upper()} accuracy (%)"
            methods = sort_names(of_clip[of_clip['dataset'].isin(DATASETS)]['method'], METHODS)
            tables.append(_grid(compared, title, key, [CLIP], methods, list(DATASETS)))
        if (run['method'] == 'lars').any():
            notes.append("the paper's LARS was SGD in effect; a difference from it says nothing about LARS.")
    other = run[~inside]
    for key in ('ood', 'id') if len(other) else ():
        models, datasets = (sorted(other[column].unique()) for column in ('model', 'dataset'))
        title = f'{key.upper()} {METRIC_NAMES[metric]} (%)'
        title = f'Other models and datasets: {title}' if metric == ACCURACY else title
        tables.append(_grid(other, title, key, models, sort_names(other['method'], METHODS), datasets))
    for table in tables:
        table.title += f'; {describe_rule(rule, metric)}'
    return tables, notes + _remarks(run)


def _grid(
    compared: pd.DataFrame, title: str, key: str, models: list[str], methods: list[str], datasets: list[str]
) -> Table:
    """Models and methods by datasets, with the average of a row that is complete."""
    columns = [dataset_label(dataset) for dataset in datasets]
    averaged = len(datasets) > 1
    table = Table(title, [*columns, 'average'] if averaged else columns)
    cells = {(row['model'], row['method'], row['dataset']): row for row in compared.to_dict('records')}
    for model in models:
        for method in methods:
            entries = [_comparison(cells.get((model, method, dataset)), key) for dataset in datasets]
            if all(math.isnan(e.ours) and math.isnan(e.paper) and e.verdict != DIVERGED for e in entries):
                continue  # neither run nor published
            if averaged:
                ours, paper = ([getattr(e, side) for e in entries] for side in ('ours', 'paper'))
                entries.append(Comparison(sum(ours) / len(ours), math.nan, sum(paper) / len(paper)))  # NaN if one is
            table.rows.append((model_label(model), method_label(method), entries))
    return table


def _comparison(row: dict | None, key: str) -> Comparison:
    if row is None:
        return Comparison()
    return Comparison(row[key], row[f'{key}_ci90'], row[f'paper_{key}'], row[f'{key}_verdict'])


def _averages(compared: pd.DataFrame, methods: list[str]) -> tuple[Table, list[str]]:
    """Per method, over the cells that every one of these methods with a run has."""
    means = common_averages(compared, methods, list(MODELS), list(DATASETS))
    absent = [method_label(method) for method in methods if method not in set(means['method'])]
    notes = [f'no run at all, so not in the averages: {", ".join(absent)}.'] if absent else []
    names = ', '.join(map(method_label, means['method']))
    cells, of = (means[column].iloc[0] if len(means) else 0 for column in ('cells', 'of'))
    table = Table(f'Averages over the {cells} of {of} cells that {names} all have (%)', ['OOD', 'ID'])
    if not cells:
        return table, [
            *notes,
            f'no cell has a run of each of {names}; their averages are not given.',
        ] if names else notes
    for row in means.to_dict('records'):
        entries = [Comparison(row[key], math.nan, row[f'paper_{key}']) for key in ('ood', 'id')]
        table.rows.append(('', method_label(row['method']), entries))
    return table, notes


def _count_verdicts(compared: pd.DataFrame, key: str) -> str:
    """How many of the published cells have which verdict."""
    published = compared[compared[f'paper_{key}'].notna()]
    counts = published[f'{key}_verdict'].value_counts()
    listed = ', '.join(f'{count} {verdict}' for verdict, count in counts.items())
    return f'{key.upper()} against the {len(published)} published cells: {listed}.'


def _remarks(run: pd.DataFrame) -> list[str]:
    """Reasons for caution about selected cells."""
    remarks = []
    for column, text in (
        ('at_edge', 'the selected learning rate is the smallest or the largest that was tried'),
        ('uneven', 'the learning rates have different numbers of seeds'),
    ):
        found = run[run[column].astype(bool)]
        if len(found):
            names = [' '.join(cell) for cell in found[['model', 'method', 'dataset']].itertuples(index=False)]
            more = f' and {len(names) - 4} more' if len(names) > 4 else ''
            remarks.append(f'{text} in {len(names)} of {len(run)} cells: {", ".join(names[:4])}{more}.')
    return remarks


def write_tables(
    paths: Sequence[str | os.PathLike],
    out: str | os.PathLike | None = None,
    format: str = 'text',
    rule: str = 'id',
    metric: str = ACCURACY,
) -> str:
    """Make the paper's tables of the runs below directories.

    Args:
        paths: Directories of runs, runs, or record files.
        out: Directory for every format (``tables.txt``, ``.md``, ``.tex``, ``.csv``) and the figures.
        format: Without ``out``: the format to return, a key of :data:`ftsgd_plugin.results.FORMATS`.
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`.
        metric: What selects and is shown, a key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`.

    Returns:
        str: Without ``out`` the tables; with it the notes and the names of the files.

    Raises:
        UserError: A path does not exist, there is no record, or a file cannot be written.
    """
    results = read_results(paths, rule, metric)
    tables, remarks = build_tables(results.compared, rule, metric)
    notes = [
        f'rule: {describe_rule(rule, metric)}.',
        *results.found.notes(),
        *map(printable, remarks),
        *results.found.problems(),
    ]
    if out is None:
        return RENDERERS[format](tables, notes, results.compared)
    out = Path(out)
    written = draw_results(results, out).values()
    for name, suffix in FORMATS.items():
        write_text(out / f'tables.{suffix}', RENDERERS[name](tables, notes, results.compared))
    names = f'{out}/tables.{{{",".join(FORMATS.values())}}}'
    lines = [*notes, *compare_sgd(lr_sensitivity(lr_curves(results.runs), metric), metric)]
    return '\n'.join([*lines, ' '.join(['written:', names, *map(str, written)])]) + '\n'
