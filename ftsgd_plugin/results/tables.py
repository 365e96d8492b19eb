"""The paper's tables from cells: which rows and columns they have, and what a cell or an average says."""

import math
from dataclasses import dataclass, field

import pandas as pd

from ..evaluation.selection import RULES
from ..paper.names import DATASETS, MAIN_METHODS, METHODS, MODELS, dataset_label, method_label, model_label, sort_names
from .aggregate import common_averages

CLIP = 'clip-vit-b16'


@dataclass(frozen=True)
class Entry:
    """What stands in a cell, in percent; NaN where there is nothing.

    Attributes:
        ours, ci90: Our mean and its 90 % half-width over seeds.
        paper: The published mean.
        difference: Ours minus the paper's, in points.
        verdict: One of those of :mod:`ftsgd_plugin.results.aggregate`; empty for an average.
    """

    ours: float = math.nan
    ci90: float = math.nan
    paper: float = math.nan
    verdict: str = ''

    @property
    def difference(self) -> float:
        return self.ours - self.paper


@dataclass
class Table:
    """Rows of entries under column names; the rows of a model are together."""

    title: str
    columns: list[str]
    rows: list[tuple[str, str, list[Entry]]] = field(default_factory=list)  # model, method, entries


def build_tables(compared: pd.DataFrame, rule: str) -> tuple[list[Table], list[str]]:
    """The tables that the runs call for.

    The paper's tables 1 (OOD) and 2 (ID) with every method that was published for all models or has a run, and the
    averages, if any run is of its models and datasets; the CLIP tables if any run is of CLIP ViT-B/16; and tables of
    all other models and datasets.

    Args:
        compared: Output of :func:`ftsgd_plugin.results.aggregate.compare`.
        rule: The selection rule, named in every title.

    Returns:
        tuple: The tables, and notes in one line each.
    """
    run = compared[compared['id'].notna()]
    inside = run['model'].isin(MODELS) & run['dataset'].isin(DATASETS)
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
        notes += [_verdicts(compared, key) for key in ('ood', 'id')]
    else:
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
        title = f'Other models and datasets: {key.upper()} accuracy (%)'
        tables.append(_grid(other, title, key, models, sort_names(other['method'], METHODS), datasets))
    for table in tables:
        table.title += f'; {RULES[rule]}'
    return tables, notes + _remarks(run)


def _grid(
    compared: pd.DataFrame, title: str, key: str, models: list[str], methods: list[str], datasets: list[str]
) -> Table:
    """Models and methods by datasets; the average of a row only over all of its datasets."""
    columns = [dataset_label(dataset) for dataset in datasets]
    averaged = len(datasets) > 1
    table = Table(title, [*columns, 'average'] if averaged else columns)
    cells = {(line['model'], line['method'], line['dataset']): line for line in compared.to_dict('records')}
    for model in models:
        for method in methods:
            lines = [cells.get((model, method, dataset)) for dataset in datasets]
            entries = [_entry(line, key) for line in lines]
            if all(math.isnan(e.ours) and math.isnan(e.paper) for e in entries):
                continue  # neither run nor published
            if averaged:
                ours, theirs = ([getattr(e, side) for e in entries] for side in ('ours', 'paper'))
                entries.append(Entry(sum(ours) / len(ours), math.nan, sum(theirs) / len(theirs)))  # NaN if one is
            table.rows.append((model_label(model), method_label(method), entries))
    return table


def _entry(line: dict | None, key: str) -> Entry:
    if line is None:
        return Entry()
    return Entry(line[key], line[f'{key}_ci90'], line[f'paper_{key}'], line[f'{key}_verdict'])


def _averages(compared: pd.DataFrame, methods: list[str]) -> tuple[Table, list[str]]:
    """Per method over the cells that every one of these methods with a run has."""
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
    for line in means.to_dict('records'):
        entries = [Entry(line[key], math.nan, line[f'paper_{key}']) for key in ('ood', 'id')]
        table.rows.append(('', method_label(line['method']), entries))
    return table, notes


def _verdicts(compared: pd.DataFrame, key: str) -> str:
    """How many of the published cells have which verdict."""
    published = compared[compared[f'paper_{key}'].notna()]
    counts = published[f'{key}_verdict'].value_counts()
    listed = ', '.join(f'{count} {verdict}' for verdict, count in counts.items())
    return f'{key.upper()} against the {len(published)} published cells: {listed}.'


def _remarks(run: pd.DataFrame) -> list[str]:
    """What a reader should know of the selected cells."""
    remarks = []
    for column, text in (
        ('at_edge', 'the selected learning rate is the least or the greatest that was tried'),
        ('uneven', 'the learning rates have different numbers of seeds'),
    ):
        found = run[run[column].astype(bool)]
        if len(found):
            names = [' '.join(line) for line in found[['model', 'method', 'dataset']].itertuples(index=False)]
            more = f' and {len(names) - 4} more' if len(names) > 4 else ''
            remarks.append(f'{text} in {len(names)} of {len(run)} cells: {", ".join(names[:4])}{more}.')
    return remarks
