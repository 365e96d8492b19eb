"""What `real_model.py` has measured, a cell per method, and a verdict on each claim of the paper."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftsgd_plugin.evaluation.selection import (
    difference_ci90,
    mean_and_error,
    select_epoch,
    select_lr,
)
from ftsgd_plugin.paper.grids import format_rate
from ftsgd_plugin.paper.names import METHODS, OTHER_METHODS
from ftsgd_plugin.records import RunRecord
from ftsgd_plugin.results.collect import collect
from ftsgd_plugin.sweep.plan import Run
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.format import format_bytes

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
    methods = [name for name in (*METHODS, *OTHER_METHODS) if name in {r.method for r in records}]
    cells: dict[str, dict[str, Cell]] = {}
    for best, rates in best_rates(records, *names, methods):
        own = [r for r in records if (r.model, r.dataset, r.method) == (best.model, best.dataset, best.method)]
        alive = [r for r in own if r.status == 'finished']
        runs = sorted((r for r in alive if r.lr == best.lr), key=lambda r: r.seed)
        grid = {r.lr: at_selected(r) for r in sorted(alive, key=lambda r: r.lr) if r.seed == 0}
        profile = read_json(out / f'gradients/{best.dataset}_{best.method}.json')
        kept = Run(best.model, best.method, best.dataset, best.lr, 1)
        cells.setdefault(f'{best.model} {best.dataset}', {})[best.method] = Cell(
            best,
            rates,
            runs,
            grid,
            len(own) - len(alive),
            profile and profile['ratio'],
            read_json(out / f'runs/{kept.name}/wise_ft/wise_ft.json'),
        )
    return cells


def read_json(path: Path) -> dict | None:
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


def beside(cells: Mapping[str, Cell], name: str = 'freeze-embed') -> list[list[str]]:
    """Per method outside the paper its difference to another in points: ID, OOD, OOD AUROC."""
    rows = []
    for method in cells:
        if method in OTHER_METHODS:
            found = [difference(cells, method, name, key) for key in ('id/accuracy', 'ood/accuracy', 'ood/auroc')]
            rows.append([method, *('–' if one is None else _points(*one) for one in found)])
    return rows


def _points(mean: float, width: float) -> str:
    return f'{mean:+.1f}' + ('' if math.isnan(width) else f' ± {width:.1f}')


def state_bytes(cells: Mapping[str, Cell]) -> tuple[str, str]:
    """The claim on memory: optimizer state per parameter of SGD half of AdamW's, none without momentum."""
    found = {name: resource(cells.get(name), 'state_bytes') for name in ('sgd', 'adamw', 'freeze-embed-no-momentum')}
    if None in found.values():
        return MISSING, ''
    holds = abs(found['adamw'] / found['sgd'] - 2) < 0.01 and found['freeze-embed-no-momentum'] < 0.01 * found['sgd']
    return (HOLDS if holds else FAILS), ', '.join(f'{format_bytes(value)}' for value in found.values())


def resource(cell: Cell | None, key: str) -> float | None:
    values = [record.resources[key] for record in cell.runs if key in record.resources] if cell else []
    return sum(values) / len(values) if values else None


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
