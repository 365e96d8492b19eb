"""The one path from run records to numbers: select, average over seeds, compare with the paper.

Every ``ci90`` is the authors' half-width of a 90 % interval of a mean over seeds, 1.645 sd / sqrt(n). A single seed has
none (NaN). Verdicts use Student's t instead, see :func:`compare`.

A learning rate at which a run has diverged, or was stopped by successive halving, is in no number: the mean over the
seeds that survived would be too good.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..evaluation.selection import Z90, difference_ci90, mean_and_ci90, select_epoch, select_lr
from ..paper.published import PaperResult, paper_results
from ..records import RunRecord
from ..utils.metrics import ACCURACY, ID_METRIC, METRIC_LABELS, OOD_METRIC, WORST_GROUP
from .collect import Collection, collect, metric_keys

CELL = ['model', 'method', 'dataset']
_RESOURCES = ['peak_bytes', 'seconds', 'state_bytes_per_param']
# Column of a frame -> label.
MEASURES = {
    'id': METRIC_LABELS[ID_METRIC],
    'ood': METRIC_LABELS[OOD_METRIC],
    'ood_worst': METRIC_LABELS[WORST_GROUP],
}
_SELECTED = ['lr', 'n_seeds', 'n_lrs', 'at_edge', 'uneven']
_DIVERGED = [*CELL, 'lr', 'seed']
# The columns of a cell in the comparison with the paper and in its CSV file.
_COMPARED = [*CELL, *_SELECTED, 'id', 'id_ci90', 'ood', 'ood_ci90', 'peak_bytes', 'diverged']
WITHIN, OUTSIDE, UNKNOWN, NO_RUN = 'within the interval', 'outside', 'no interval known', 'no run yet'
DIVERGED = 'diverged'  # at every learning rate
UNPUBLISHED, OTHER_RULE = 'not published', 'other rule than the paper'
_ROUNDING = 5e-5  # the published numbers have four decimals, in percent


@dataclass(frozen=True)
class Results:
    """The runs below some directories under one selection rule.

    Attributes:
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`.
        found: The records, and which were left out.
        runs: Output of :func:`runs_frame`, without the learning rates at which a run has diverged or was stopped.
        cells: Output of :func:`cells_frame`.
        compared: Output of :func:`compare`.
        metric: What selects and is shown, a key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`.
    """

    rule: str
    found: Collection
    runs: pd.DataFrame
    cells: pd.DataFrame
    compared: pd.DataFrame
    metric: str = ACCURACY


def read_results(paths: Iterable[str | os.PathLike], rule: str = 'id', metric: str = ACCURACY) -> Results:
    """Read the records below directories, select and average.

    Args:
        paths: Directories of runs, runs, or record files.
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`.
        metric: What selects and is shown, a key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`.

    Raises:
        UserError: A path does not exist, or there is no record in any of them.
    """
    found = collect(paths, metric)
    diverged = diverged_frame(record for _, record in found.diverged)
    stopped = diverged_frame(record for _, record in found.stopped)
    runs = runs_frame((record for _, record in found.runs), rule, metric)
    runs = without_diverged(without_diverged(runs, diverged), stopped)
    cells = cells_frame(runs, rule, diverged, metric, stopped)
    return Results(rule, found, runs, cells, compare(cells, rule, metric), metric)


def runs_frame(records: Iterable[RunRecord], rule: str = 'id', metric: str = ACCURACY) -> pd.DataFrame:
    """One row per run, at the epoch that the rule selects.

    Args:
        records: Finished runs.
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`.
        metric: What selects and is shown, a key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`.

    Returns:
        pandas.DataFrame: ``model, method, dataset, lr, seed, epoch``; the metric in percent: ``id, ood`` (accuracies as
        in the paper's tables: the worst group for Waterbirds), ``ood_worst`` (accuracy of the worst group);
        ``peak_bytes, seconds, state_bytes_per_param, device``. Unknown numbers are NaN.
    """
    rows = []
    for record in records:
        id_key, ood_key = metric_keys(record.dataset, metric)
        epoch = select_epoch(record.epochs, rule, ood_key, id_key)
        metrics, used = record.epochs[epoch], record.resources
        parameters = used.get('parameters') or math.nan
        rows.append(
            {
                'model': record.model,
                'method': record.method,
                'dataset': record.dataset,
                'lr': float(record.lr),
                'seed': record.seed,
                'epoch': epoch,
                'id': 100 * metrics[id_key],
                'ood': 100 * metrics[ood_key],
                'ood_worst': 100 * metrics.get(WORST_GROUP, math.nan),
                'peak_bytes': used.get('peak_bytes', math.nan),
                'seconds': used.get('seconds', math.nan),
                'state_bytes_per_param': used.get('state_bytes', math.nan) / parameters,
                'device': str(record.environment.get('device', '')),
            }
        )
    return pd.DataFrame(rows, columns=[*CELL, 'lr', 'seed', 'epoch', *MEASURES, *_RESOURCES, 'device'])


def diverged_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per diverged run: ``model, method, dataset, lr, seed``. It has no numbers."""
    rows = [(record.model, record.method, record.dataset, float(record.lr), record.seed) for record in records]
    return pd.DataFrame(rows, columns=_DIVERGED)


def without_diverged(runs: pd.DataFrame, diverged: pd.DataFrame) -> pd.DataFrame:
    """The runs whose cell has no diverged run at the same learning rate.

    Args:
        runs: Output of :func:`runs_frame`.
        diverged: Output of :func:`diverged_frame`.
    """
    unstable = set(diverged[[*CELL, 'lr']].itertuples(index=False, name=None))
    lost = [key in unstable for key in runs[[*CELL, 'lr']].itertuples(index=False, name=None)]
    return runs[~np.array(lost, dtype=bool)]  # an empty list would select columns


def cells_frame(
    runs: pd.DataFrame,
    rule: str = 'id',
    diverged: pd.DataFrame | None = None,
    metric: str = ACCURACY,
    stopped: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row per cell: the learning rate that the rule selects, averaged over seeds.

    Args:
        runs: Output of :func:`runs_frame` under the same rule and metric.
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`.
        diverged: Output of :func:`diverged_frame`; the learning rates of these runs are never selected.
        metric: What selects, a key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`.
        stopped: Likewise of the runs that successive halving has stopped; their learning rates were tried.

    Returns:
        pandas.DataFrame: ``model, method, dataset, lr, n_seeds, n_lrs, at_edge`` (the selected rate is the smallest or
        the largest of several), ``uneven`` (the rates have different numbers of seeds); in percent ``id, ood,
        ood_worst``, each with its ``*_ci90``; ``peak_bytes, state_bytes_per_param`` (means over seeds at the selected
        rate), ``seconds`` (mean of a run at any rate); ``diverged`` (number of diverged runs). A cell whose every rate
        diverged has no other number.
    """
    diverged = diverged_frame([]) if diverged is None else diverged
    lost = {cell: part['lr'] for cell, part in diverged.groupby(CELL, sort=False)}
    stopped = diverged_frame([]) if stopped is None else stopped
    behind = {cell: part['lr'] for cell, part in stopped.groupby(CELL, sort=False)}
    rows = []
    for cell, group in without_diverged(without_diverged(runs, diverged), stopped).groupby(CELL, sort=False):
        row = dict(zip(CELL, cell))
        bad = lost.pop(cell, ())
        by_lr = dict(list(group.groupby('lr')))
        id_key, ood_key = metric_keys(row['dataset'], metric)
        metrics = {lr: [{id_key: i, ood_key: o} for i, o in zip(part['id'], part['ood'])] for lr, part in by_lr.items()}
        lr = select_lr(metrics, rule, ood_key, id_key)
        chosen, tried = by_lr[lr], {*by_lr, *bad, *behind.get(cell, ())}
        row |= {
            'lr': lr,
            'n_seeds': len(chosen),
            'n_lrs': len(tried),
            'at_edge': len(tried) > 1 and lr in (min(tried), max(tried)),
            'uneven': len({len(part) for part in by_lr.values()}) > 1,
            'peak_bytes': chosen['peak_bytes'].mean(),
            'seconds': group['seconds'].mean(),
            'state_bytes_per_param': chosen['state_bytes_per_param'].mean(),
            'diverged': len(bad),
        }
        for key in MEASURES:
            row[key], row[f'{key}_ci90'] = mean_and_ci90(chosen[key].tolist())
        rows.append(row)
    for cell, bad in lost.items():
        unknown = dict.fromkeys([*MEASURES, *(f'{key}_ci90' for key in MEASURES), *_RESOURCES, 'lr'], math.nan)
        tried = {*bad, *behind.get(cell, ())}
        counts = {'n_seeds': 0, 'n_lrs': len(tried), 'at_edge': False, 'uneven': False, 'diverged': len(bad)}
        rows.append({**dict(zip(CELL, cell)), **unknown, **counts})
    means = [column for key in MEASURES for column in (key, f'{key}_ci90')]
    return pd.DataFrame(rows, columns=[*CELL, *_SELECTED, *means, *_RESOURCES, 'diverged'])


def method_summary(records: Iterable[RunRecord]) -> list[dict]:
    """Compare the methods of a sweep over one model and one dataset, under the paper's rule.

    Args:
        records: Finished and diverged runs.

    Returns:
        list[dict]: JSON data per method, in order of appearance: ``method``, ``lrs``, ``seeds``, ``lr`` (the selected
        one); ``id, ood, ood_worst`` as ``[mean, ci90]`` in fractions; ``state_bytes_per_param`` and ``seconds`` as in
        :func:`cells_frame`; ``diverged`` (number of diverged runs). Unknown numbers, e.g. the interval of a single
        seed or everything of a method that diverged at every rate, are ``None``.

    Raises:
        ValueError: The runs are of several models or datasets.
    """
    records = [record for record in records if record.status != 'stopped']
    diverged = diverged_frame(record for record in records if record.status == 'diverged')
    runs = runs_frame(record for record in records if record.status != 'diverged')
    started = pd.concat([runs[_DIVERGED], diverged]) if len(diverged) else runs
    if len(started[['model', 'dataset']].drop_duplicates()) > 1:
        raise ValueError('the runs are of several models or datasets; summarise each of them separately.')
    summary = []
    for cell in cells_frame(runs, diverged=diverged).to_dict('records'):
        own = started[started['method'] == cell['method']]
        summary.append(
            {
                'method': cell['method'],
                'lrs': sorted(own['lr'].unique().tolist()),
                'seeds': sorted(own['seed'].unique().tolist()),
                'lr': _known(cell['lr']),
                **{key: [_known(cell[key] / 100), _known(cell[f'{key}_ci90'] / 100)] for key in MEASURES},
                'state_bytes_per_param': _known(cell['state_bytes_per_param']),
                'seconds': _known(cell['seconds']),
                'diverged': cell['diverged'],
            }
        )
    return summary


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value  # JSON has no NaN


def paper_frame() -> pd.DataFrame:
    """The published cells with the columns of :func:`cells_frame`, prefixed by ``paper_``."""
    names = [f'paper_{name}' for name in ('id', 'ood', 'id_ci90', 'ood_ci90', 'n_seeds', 'lr')]
    return pd.DataFrame([_paper_row(result) for result in paper_results()], columns=[*CELL, *names])


def _paper_row(result: PaperResult) -> tuple:
    measured = (result.id, result.ood, result.id_ci90, result.ood_ci90, result.n_seeds, result.lr)
    return (result.model, result.method, result.dataset, *(math.nan if v is None else v for v in measured))


def compare(cells: pd.DataFrame, rule: str = 'id', metric: str = ACCURACY) -> pd.DataFrame:
    """Put our cells beside the published ones: every cell that has a run or was published.

    The interval is that of the difference of two means, by Student's t with Welch's degrees of freedom
    (:func:`ftsgd_plugin.evaluation.selection.difference_ci90`); a side with a single run uses the deviation of the
    other side. If both are single runs, the interval is unknown.

    Args:
        cells: Output of :func:`cells_frame`.
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`; only the paper's rule gives verdicts.
        metric: What the cells hold; only of accuracies were any published.

    Returns:
        pandas.DataFrame: The columns of both, ``rule``, and for ``id`` and ``ood`` ``*_difference`` (ours minus the
        paper's, in points), ``*_interval`` (half-width) and ``*_verdict``.
    """
    published = paper_frame()
    published = published if metric == ACCURACY else published.iloc[:0]
    both = published.merge(cells[_COMPARED], how='outer', on=CELL)
    both.insert(3, 'rule', rule)
    for key in ('id', 'ood'):
        both[f'{key}_difference'] = both[key] - both[f'paper_{key}']
        both[f'{key}_interval'] = [_interval(row, key) for row in both.to_dict('records')]
        both[f'{key}_verdict'] = [_verdict(row, key, rule) for row in both.to_dict('records')]
    return both


def _interval(row: dict, key: str) -> float:
    if math.isnan(row[key]):
        return math.nan
    sides = [(row[f'{key}_ci90'], row['n_seeds']), (row[f'paper_{key}_ci90'], row['paper_n_seeds'])]
    return difference_ci90(*((ci / Z90 * math.sqrt(n), n) for ci, n in sides))


def _verdict(row: dict, key: str, rule: str) -> str:
    if math.isnan(row[key]):
        return DIVERGED if row['diverged'] > 0 else NO_RUN
    if math.isnan(row[f'paper_{key}']):
        return UNPUBLISHED
    if rule != 'id':
        return OTHER_RULE
    if math.isnan(row[f'{key}_interval']):
        return UNKNOWN
    return WITHIN if abs(row[f'{key}_difference']) <= row[f'{key}_interval'] + _ROUNDING else OUTSIDE


def common_averages(compared: pd.DataFrame, methods: list[str], models: list[str], datasets: list[str]) -> pd.DataFrame:
    """Averages over the cells that every method has; ours and the paper's are over the same cells.

    Args:
        compared: Output of :func:`compare`.
        methods: Methods to compare; those without a run are left out.
        models, datasets: Only cells of these count.

    Returns:
        pandas.DataFrame: Per method ``cells`` (how many were averaged), ``of`` (how many exist), ``id, ood`` and
        ``paper_id, paper_ood`` (NaN unless all of these cells were published).
    """
    inside = compared[compared['model'].isin(models) & compared['dataset'].isin(datasets)]
    inside = inside[inside['id'].notna() & inside['method'].isin(methods)]
    seen = [method for method in methods if method in set(inside['method'])]
    counts = inside.groupby(['model', 'dataset'])['method'].nunique()
    shared = inside.set_index(['model', 'dataset']).loc[lambda f: f.index.isin(counts.index[counts == len(seen)])]
    keys = ['id', 'ood', 'paper_id', 'paper_ood']
    means = shared.groupby('method')[keys].agg(lambda column: column.mean(skipna=False)).reindex(seen)
    means.insert(0, 'cells', len(shared) // max(len(seen), 1))
    means.insert(1, 'of', len(models) * len(datasets))
    return means.reset_index()
