"""From run records to the cells of the tables: select, average over seeds, compare with the paper."""

import math
from collections.abc import Iterable

import pandas as pd

from ..evaluation.selection import ID_METRIC, Z90, mean_and_ci90, select_epoch, select_lr
from ..paper.published import PaperResult, ood_metric, paper_results
from ..records import RunRecord

CELL = ['model', 'method', 'dataset']
WITHIN, OUTSIDE, UNKNOWN, NO_RUN = 'within the interval', 'outside', 'no interval known', 'no run yet'
UNPUBLISHED, OTHER_RULE = 'not published', 'other rule than the paper'
_ROUNDING = 5e-5  # the published numbers have four decimals, in percent


def runs_frame(records: Iterable[RunRecord], rule: str = 'id') -> pd.DataFrame:
    """One line per run, at the epoch that the rule selects; accuracies in percent.

    Args:
        records: Finished runs.
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`.

    Returns:
        pandas.DataFrame: ``model, method, dataset, lr, seed, epoch, id, ood`` (as the paper's tables have it: the worst
        group for Waterbirds), ``peak_bytes, seconds, device``; absent resources are NaN.
    """
    lines = []
    for record in records:
        metric = ood_metric(record.dataset)
        epoch = select_epoch(record.epochs, rule, metric)
        metrics = record.epochs[epoch]
        lines.append(
            {
                'model': record.model,
                'method': record.method,
                'dataset': record.dataset,
                'lr': float(record.lr),
                'seed': record.seed,
                'epoch': epoch,
                'id': 100 * metrics[ID_METRIC],
                'ood': 100 * metrics[metric],
                'peak_bytes': record.resources.get('peak_bytes', math.nan),
                'seconds': record.resources.get('seconds', math.nan),
                'device': str(record.environment.get('device', '')),
            }
        )
    columns = [*CELL, 'lr', 'seed', 'epoch', 'id', 'ood', 'peak_bytes', 'seconds', 'device']
    return pd.DataFrame(lines, columns=columns)


def cells_frame(runs: pd.DataFrame, rule: str = 'id') -> pd.DataFrame:
    """One line per cell: the learning rate that the rule selects, and its mean over seeds.

    Args:
        runs: Output of :func:`runs_frame` under the same rule.
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`.

    Returns:
        pandas.DataFrame: ``model, method, dataset, lr, n_seeds, n_lrs, at_edge`` (the selected rate is the least or the
        greatest of several), ``uneven`` (the rates have different numbers of seeds), ``id, id_ci90, ood, ood_ci90`` in
        percent, ``peak_bytes`` (mean over seeds).
    """
    lines = []
    for (model, method, dataset), group in runs.groupby(CELL, sort=False):
        by_lr = dict(list(group.groupby('lr')))
        metrics = {
            lr: [{ID_METRIC: i, ood_metric(dataset): o} for i, o in zip(part['id'], part['ood'])]
            for lr, part in by_lr.items()
        }
        lr = select_lr(metrics, rule, ood_metric(dataset))
        chosen = by_lr[lr]
        (id_mean, id_ci), (ood_mean, ood_ci) = (mean_and_ci90(chosen[key].tolist()) for key in ('id', 'ood'))
        lines.append(
            {
                'model': model,
                'method': method,
                'dataset': dataset,
                'lr': lr,
                'n_seeds': len(chosen),
                'n_lrs': len(by_lr),
                'at_edge': len(by_lr) > 1 and lr in (min(by_lr), max(by_lr)),
                'uneven': len({len(part) for part in by_lr.values()}) > 1,
                'id': id_mean,
                'id_ci90': id_ci,
                'ood': ood_mean,
                'ood_ci90': ood_ci,
                'peak_bytes': chosen['peak_bytes'].mean(),
            }
        )
    columns = [*CELL, 'lr', 'n_seeds', 'n_lrs', 'at_edge', 'uneven', 'id', 'id_ci90', 'ood', 'ood_ci90', 'peak_bytes']
    return pd.DataFrame(lines, columns=columns)


def paper_frame() -> pd.DataFrame:
    """The published cells with the columns of :func:`cells_frame`, prefixed by ``paper_``."""
    names = [f'paper_{name}' for name in ('id', 'ood', 'id_ci90', 'ood_ci90', 'n_seeds', 'lr')]
    return pd.DataFrame([_line(result) for result in paper_results()], columns=[*CELL, *names])


def _line(result: PaperResult) -> tuple:
    measured = (result.id, result.ood, result.id_ci90, result.ood_ci90, result.n_seeds, result.lr)
    return (result.model, result.method, result.dataset, *(math.nan if v is None else v for v in measured))


def compare(cells: pd.DataFrame, rule: str = 'id') -> pd.DataFrame:
    """Our cells beside the published ones: every cell that either has, with the difference and a verdict.

    The interval is that of the difference of two means, 1.645 sqrt(s1^2/n1 + s2^2/n2) with the standard deviations over
    seeds; a single run takes the other side's. If both are single runs no interval is known.

    Args:
        cells: Output of :func:`cells_frame`.
        rule: Other rules than the paper's get no verdict.

    Returns:
        pandas.DataFrame: The columns of both, ``rule``, and for ``id`` and ``ood`` ``*_difference`` (ours minus the
        paper's, in points), ``*_interval`` (half-width) and ``*_verdict``.
    """
    both = paper_frame().merge(cells, how='outer', on=CELL)
    both.insert(3, 'rule', rule)
    for key in ('id', 'ood'):
        both[f'{key}_difference'] = both[key] - both[f'paper_{key}']
        both[f'{key}_interval'] = [_interval(line, key) for line in both.to_dict('records')]
        both[f'{key}_verdict'] = [_verdict(line, key, rule) for line in both.to_dict('records')]
    return both


def _interval(line: dict, key: str) -> float:
    pairs = [
        (line[f'{key}_ci90'], line['n_seeds']),
        (line[f'paper_{key}_ci90'], line['paper_n_seeds']),
    ]
    variances = [(ci / Z90) ** 2 * n for ci, n in pairs]  # of one run
    known = [variance for variance in variances if not math.isnan(variance)]
    if not known or any(math.isnan(n) for _, n in pairs):
        return math.nan
    filled = [known[0] if math.isnan(variance) else variance for variance in variances]
    return Z90 * math.sqrt(sum(variance / n for variance, (_, n) in zip(filled, pairs)))


def _verdict(line: dict, key: str, rule: str) -> str:
    if math.isnan(line[key]):
        return NO_RUN
    if math.isnan(line[f'paper_{key}']):
        return UNPUBLISHED
    if rule != 'id':
        return OTHER_RULE
    if math.isnan(line[f'{key}_interval']):
        return UNKNOWN
    return WITHIN if abs(line[f'{key}_difference']) <= line[f'{key}_interval'] + _ROUNDING else OUTSIDE


def common_averages(compared: pd.DataFrame, methods: list[str], models: list[str], datasets: list[str]) -> pd.DataFrame:
    """Averages over the cells that every method has, ours and the paper's over the same ones.

    Args:
        compared: Output of :func:`compare`.
        methods: Methods to compare; those without a run are left out.
        models, datasets: Whose cells count.

    Returns:
        pandas.DataFrame: Per method ``cells`` (how many were averaged), ``of`` (how many there are), ``id, ood`` and
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
