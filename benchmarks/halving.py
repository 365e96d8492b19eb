"""What successive halving saves of a full grid, and what it loses, by replaying finished runs; nothing is trained.

    python benchmarks/halving.py authors [--record benchmarks/halving.md]   # the stored runs of the paper's authors
    python benchmarks/halving.py replay DIR...                              # a finished sweep of yours, by its records

`replay` uses the evaluations that each record has. The authors stored one number per run, the accuracies at the epoch
that its ID accuracy selected, so `authors` assumes how a run comes to that number: see CURVES. Which rates compete and
what they end with is theirs; whether a good rate looks bad early is assumed. Every decision is that of
`tools/sweep.py --halving`.
"""

import argparse
import heapq
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from reports import EPOCHS, authors_records
from tabulate import tabulate

from ftsgd_plugin.evaluation.halving import FACTOR, continues
from ftsgd_plugin.evaluation.selection import select_epoch, select_lr
from ftsgd_plugin.paper.names import DATASETS, MODELS
from ftsgd_plugin.paper.published import ood_metric
from ftsgd_plugin.records import RunRecord
from ftsgd_plugin.results.collect import collect
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.files import write_text
from ftsgd_plugin.utils.metrics import ID_METRIC

Curve = list[dict[str, float]]
PLAN_METHODS = {'sgd': 'sgd', 'adamw': 'adamw', 'freeze-embed': 'freeze-embed', 'adamw-freeze-embed': 'adamw'}
AT_ONCE = 6
ORDERS = {'ascending': 1, 'descending': -1}  # of the rates of a grid, as they come to a decision


@dataclass(frozen=True)
class Outcome:
    """A cell under halving.

    Attributes:
        done, of: Evaluations that were made, and those of the full grid.
        same: Whether the chosen rate is that of the full grid.
        id, ood: Points lost by the chosen rate against that of the full grid.
    """

    done: int
    of: int
    same: bool
    id: float
    ood: float


def play(curves: Mapping[float, Curve], workers: int, dataset: str, factor: float = FACTOR) -> Outcome:
    """Run the rates of a cell with halving, so many at a time, in the order of their list.

    Args:
        curves: Rate -> metrics of every evaluation of its whole run.
        workers: Runs at a time; an evaluation takes every run as long.
        dataset: Its name, which says what its OOD metric is.
        factor: One of so many rates continues.
    """
    ood = ood_metric(dataset)
    waiting, done, ended = list(curves)[::-1], defaultdict(int), set()
    running = [(1, number, waiting.pop()) for number in range(min(workers, len(curves)))]
    number = len(running)
    while running:
        time, place, lr = heapq.heappop(running)
        done[lr] += 1
        total = len(curves[lr])
        rivals = [curves[other][: done[other]] for other in curves if other != lr]
        if done[lr] == total:
            ended.add(lr)
        elif continues(curves[lr][: done[lr]], rivals, ID_METRIC, total, factor):
            heapq.heappush(running, (time + 1, place, lr))
            continue
        if waiting:
            number += 1
            heapq.heappush(running, (time + 1, number, waiting.pop()))

    def selected(rates) -> tuple[float, dict[str, float]]:
        at = {lr: [curves[lr][select_epoch(curves[lr])]] for lr in rates}
        lr = select_lr(at)
        return lr, at[lr][0]

    (full, best), (chosen, found) = selected(curves), selected(ended)
    lost = [100 * (best[key] - found[key]) for key in (ID_METRIC, ood)]
    return Outcome(sum(done.values()), sum(map(len, curves.values())), chosen == full, *lost)


def in_order(curves: Mapping[float, Curve], order: str) -> dict[float, Curve]:
    """The rates of a grid in one of ``ORDERS``."""
    return dict(sorted(curves.items(), key=lambda one: ORDERS[order] * one[0]))


def same_shape(count: int, lr: float, rates: Sequence[float], noise: random.Random) -> list[float]:
    """Fraction of the way from chance to its final accuracy, the same at every rate: the order never changes."""
    return [1 - math.exp(-6 * (epoch + 1) / count) for epoch in range(count)]


def slow_low_rates(count: int, lr: float, rates: Sequence[float], noise: random.Random) -> list[float]:
    """A rate that is a third learns half as fast, so that curves cross; the highest is as above."""
    steps = len(rates) - 1 - sorted(rates).index(lr)
    return [1 - math.exp(-6 * 0.5**steps * (epoch + 1) / count) for epoch in range(count)]


def noisy(count: int, lr: float, rates: Sequence[float], noise: random.Random) -> list[float]:
    """The same shape; all evaluations but the last are off by 5 % of the way that is left (sd), at least by 1 %."""
    values = same_shape(count, lr, rates, noise)
    return [v + noise.gauss(0, max(0.01, 0.05 * (1 - v))) for v in values[:-1]] + values[-1:]


CURVES = {'same shape': same_shape, 'noisy': noisy, 'low rates learn slowly': slow_low_rates}


def assumed(records: Mapping[float, RunRecord], kind: str, seed: int) -> dict[float, Curve]:
    """Curves that end at the stored accuracies, as one of ``CURVES`` says."""
    noise, rates = random.Random(seed), list(records)
    curves = {}
    for lr, record in records.items():
        final, count = record.epochs[0], EPOCHS[record.dataset]
        way = CURVES[kind](count, lr, rates, noise)
        way = [min(value / way[-1], 1.0) for value in way]
        curves[lr] = [{key: value * part for key, value in final.items()} for part in way]
    return curves


def grids(records: Sequence[RunRecord]) -> Iterator[tuple[tuple[str, str, str], int, dict[float, RunRecord]]]:
    """Cell, seed, and rate -> record in the order of the rates."""
    found = defaultdict(dict)
    for record in sorted(records, key=lambda one: one.lr):
        found[(record.model, record.method, record.dataset), record.seed][float(record.lr)] = record
    for (cell, seed), rates in found.items():
        if len(rates) > 1:
            yield cell, seed, rates


def summarise(outcomes: Sequence[Outcome], costs: Sequence[float] | None = None) -> list[str]:
    """Cells, saving, unchanged choices, mean and largest loss; a row of the tables."""
    costs = costs or [1.0] * len(outcomes)
    saved = 1 - sum(o.done * c for o, c in zip(outcomes, costs)) / sum(o.of * c for o, c in zip(outcomes, costs))
    losses = (f'{statistics.mean(v):.2f} / {max(v):.2f}' for v in ([o.id for o in outcomes], [o.ood for o in outcomes]))
    return [str(len(outcomes)), f'{saved:.0%}', f'{sum(o.same for o in outcomes)}', *losses]


LIMITS = """The authors stored the accuracies
of a run at the epoch that its ID accuracy selected, and no others. So the rates that compete and what they end with are
measured; how a run comes there is assumed. `same shape`: the same fraction of the way at every rate, so the early order
is the final one. `noisy`: the same, every evaluation but the last off by 1 % of the accuracy or more (sd).
`low rates learn slowly`: a rate that is a third learns half as fast, so curves cross. Only the 270 runs of CLIP
ViT-B/16 with three of the plan's methods are stored one by one: for the plan of 840 runs their grids are taken for the
other models, and those of AdamW for AdamW (freeze-embed). None of this shows how often a good rate looks bad early in a
real run; `python benchmarks/halving.py replay DIR` does, for a finished sweep. An evaluation counts the same in every
run, so savings in time are those within a data set. Negative losses are gains."""
HEADER = ['grids', 'evaluations saved', 'same rate', 'ID points lost, mean / most', 'OOD points lost, mean / most']


def authors() -> str:
    """The tables of the authors' stored runs, in Markdown."""
    stored = [record for record in authors_records() if record.method in set(PLAN_METHODS.values())]
    known = list(grids(stored))
    played = {
        (kind, order, cell, seed): play(in_order(assumed(rates, kind, seed), order), AT_ONCE, cell[2])
        for kind in CURVES
        for order in ORDERS
        for cell, seed, rates in known
    }

    def table(rows: list[list[str]], *first: str) -> list[str]:
        return [tabulate(rows, [*first, *HEADER], tablefmt='pipe', disable_numparse=True), '']

    parts = [f'{sum(len(r) for *_, r in known)} stored runs of CLIP ViT-B/16, {len(known)} grids of six rates:', '']
    rows = [
        [kind, order, *summarise([played[kind, order, cell, seed] for cell, seed, _ in known])]
        for kind in CURVES
        for order in ORDERS
    ]
    parts += table(rows, 'assumed curves', 'order of rates')
    # Every model has the grid of CLIP ViT-B/16 with the first seed; AdamW (freeze-embed) that of AdamW.
    cells = [
        cell
        for cell, seed, _ in known
        for method in PLAN_METHODS.values()
        if seed == 0 and method == cell[1]
        for _ in MODELS
    ]
    parts += [
        f"The paper's plan of {6 * len(cells)} runs with these grids for every model, rates ascending as in the plan:",
        '',
    ]
    parts += table(
        [[kind, *summarise([played[kind, 'ascending', cell, 0] for cell in cells])] for kind in CURVES], 'curves'
    )
    parts += ['By data set, noisy curves, rates ascending:', '']
    rows = [
        [
            label,
            str(EPOCHS[name]),
            *summarise([played['noisy', 'ascending', cell, s] for cell, s, _ in known if cell[2] == name]),
        ]
        for name, label in DATASETS.items()
    ]
    parts += table(rows, 'data set', 'evaluations')
    return '\n'.join(parts)


def recorded(directories: Sequence[str]) -> str:
    """The table of finished runs with all their evaluations, in Markdown."""
    known = list(grids([record for _, record in collect(directories).runs]))
    rows = []
    for order in ORDERS:
        curves = [({lr: list(one.epochs) for lr, one in rates.items()}, cell[2]) for cell, _, rates in known]
        rows.append([order, *summarise([play(in_order(one, order), AT_ONCE, dataset) for one, dataset in curves])])
    return tabulate(rows, ['order of rates', *HEADER], tablefmt='pipe', disable_numparse=True) + '\n'


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest='kind', required=True)
    stored = kinds.add_parser('authors', help="the authors' stored runs")
    stored.add_argument('--record', help='file for the tables in Markdown')
    replayed = kinds.add_parser('replay', help='finished runs of yours')
    replayed.add_argument('directories', nargs='+', help='directories of finished sweeps')
    args = parser.parse_args()
    text = authors() if args.kind == 'authors' else recorded(args.directories)
    print(text)
    if getattr(args, 'record', None):
        head = f'# Successive halving on stored results\n\n`python benchmarks/halving.py authors`, {date.today()}.'
        text = f'{head} {LIMITS}\n\n{text}'
        write_text(args.record, text)


if __name__ == '__main__':
    main()
