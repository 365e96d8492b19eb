"""How many points a method loses with another learning rate than its best."""

import pandas as pd

from ..utils.metrics import ACCURACY, METRIC_NAMES, sign_of
from .aggregate import CELL

NEAR_POINTS = 1.0  # a rate is near the best within this many points of ID accuracy


def lr_curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every learning rate: ``model, method, dataset, lr, id, ood`` in percent."""
    return runs.groupby([*CELL, 'lr'], sort=True)[['id', 'ood']].mean().reset_index()


def lr_sensitivity(curves: pd.DataFrame, metric: str = ACCURACY) -> pd.DataFrame:
    """Loss from other learning rates than the best by ID accuracy, per cell, over the grid that was tried.

    Args:
        curves: Output of :func:`lr_curves`; cells with one learning rate are left out.
        metric: What it holds, a key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`, instead of the accuracy.

    Returns:
        pandas.DataFrame: Per cell ``lrs`` (how many), ``near`` (how many are within one point of the best ID accuracy),
        ``edge`` (the best is the smallest or the largest), and in points ``id_mean_loss`` (best minus the mean over the
        grid), ``id_step_loss`` (best minus the mean of its neighbours in the grid), and ``ood_mean_loss``,
        ``ood_step_loss`` against the OOD accuracy of that same rate.
    """
    lines = []
    curves = curves.assign(**{key: sign_of(metric) * curves[key] for key in ('id', 'ood')})
    for cell, group in curves.groupby(CELL, sort=False):
        if len(group) < 2:
            continue
        group = group.sort_values('lr').reset_index(drop=True)
        best = group['id'].idxmax()
        beside = group.loc[[i for i in (best - 1, best + 1) if i in group.index]]
        line = dict(zip(CELL, cell))
        line |= {'lrs': len(group), 'near': int((group['id'] >= group['id'][best] - NEAR_POINTS).sum())}
        line['edge'] = best in (0, len(group) - 1)
        for key in ('id', 'ood'):
            line[f'{key}_mean_loss'] = group[key][best] - group[key].mean()
            line[f'{key}_step_loss'] = group[key][best] - beside[key].mean()
        lines.append(line)
    losses = [f'{key}_{kind}_loss' for key in ('id', 'ood') for kind in ('mean', 'step')]
    return pd.DataFrame(lines, columns=[*CELL, 'lrs', 'near', 'edge', *losses])


def by_method(cells: pd.DataFrame) -> pd.DataFrame:
    """Averages of :func:`lr_sensitivity` per method, over the cells that every method has.

    Returns:
        pandas.DataFrame: ``method, cells, lrs, near, edge`` (a fraction) and the losses; ``cells`` is 0 and the rest
        NaN if there is none.
    """
    methods = cells['method'].unique()
    counts = cells.groupby(['model', 'dataset'])['method'].transform('nunique')
    shared = cells[counts == len(methods)]
    numbers = [column for column in cells.columns if column not in CELL]
    means = shared.groupby('method', sort=False)[numbers].mean().reindex(methods)
    means.insert(0, 'cells', len(shared) // max(len(methods), 1))
    return means.rename_axis('method').reset_index()


def compare_sgd(cells: pd.DataFrame, metric: str = ACCURACY) -> list[str]:
    """Compare the sensitivity of SGD (freeze-embed) and SGD in sentences, a line each.

    Only cells count that have both methods, with equally many learning rates; without any the list is empty.

    Args:
        cells: Output of :func:`lr_sensitivity`.
        metric: What it holds, as there.
    """
    label = METRIC_NAMES[metric]
    pairs = cells[cells['method'] == 'sgd'].merge(
        cells[cells['method'] == 'freeze-embed'], on=['model', 'dataset', 'lrs'], suffixes=('_sgd', '_frozen')
    )
    if pairs.empty:
        return []
    lines, less = [], []
    for key, kind, name in (
        ('id', 'mean', f'ID {label}, mean over the grid against the best rate'),
        ('ood', 'mean', f'OOD {label}, mean over the grid against the best rate by ID'),
        ('id', 'step', f'ID {label}, one grid step away from the best rate'),
        ('ood', 'step', f'OOD {label}, one grid step away from the best rate'),
    ):
        plain, frozen = (pairs[f'{key}_{kind}_loss_{side}'] for side in ('sgd', 'frozen'))
        less.append(frozen.mean() < plain.mean())
        lines.append(
            f'{name}: SGD (freeze-embed) loses {frozen.mean():.1f} points, SGD {plain.mean():.1f} (median '
            f'{frozen.median():.1f} and {plain.median():.1f}); less in {(frozen < plain).sum()} of {len(pairs)} cells.'
        )
    answer = 'yes' if all(less) else 'no' if not any(less) else 'by some measures'
    edges = (int(pairs[f'edge_{side}'].sum()) for side in ('frozen', 'sgd'))
    near = (pairs[f'near_{side}'].mean() for side in ('frozen', 'sgd'))
    return [
        f'is SGD (freeze-embed) less sensitive to the learning rate than SGD? {answer}, in {len(pairs)} cells.',
        *lines,
        'rates within {2:g} point of the best ID {4}: {0:.1f} and {1:.1f} of {3:.1f}.'.format(
            *near, NEAR_POINTS, pairs['lrs'].mean(), label
        ),
        'the best rate is at the edge of the grid in {} and {} cells; there the grid is one-sided.'.format(*edges),
    ]
