"""From the records of a small sweep to one line per method."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluation.selection import mean_and_error, select_epoch, select_lr

REPORTED = {'id': 'id/accuracy', 'ood': 'ood/accuracy', 'ood_worst': 'ood/worst_group'}


@dataclass(frozen=True)
class Record:
    """One training run.

    Attributes:
        method: As in the config's name, e.g. ``'freeze-embed'``.
        lr: Peak learning rate.
        seed: Random seed.
        epochs: Metrics of every evaluation, in order (fractions).
        state_bytes_per_param: Bytes of optimizer state after training per parameter of the model.
        seconds: Wall-clock time of training with its evaluations.
    """

    method: str
    lr: float
    seed: int
    epochs: list[dict[str, float]]
    state_bytes_per_param: float
    seconds: float


def summarise(records: Sequence[Record]) -> list[dict]:
    """Select by ID accuracy only and average over seeds.

    Returns:
        list[dict]: Per method, in order of appearance: ``method``, ``lrs``, ``seeds``, ``lr`` (the selected one),
        ``id``, ``ood`` and ``ood_worst`` as ``[mean, standard error]`` in fractions (error ``None`` for one seed),
        ``state_bytes_per_param`` and ``seconds`` (mean of a run at any learning rate).
    """
    by_method: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_method[record.method].append(record)
    summary = []
    for method, runs in by_method.items():
        selected = defaultdict(list)
        for run in sorted(runs, key=lambda run: run.seed):
            selected[run.lr].append(run.epochs[select_epoch(run.epochs)])
        lr = select_lr(selected)
        line = {
            'method': method,
            'lrs': sorted(selected),
            'seeds': sorted({run.seed for run in runs}),
            'lr': lr,
            **{key: _mean_and_error([run[metric] for run in selected[lr]]) for key, metric in REPORTED.items()},
            'state_bytes_per_param': runs[0].state_bytes_per_param,
            'seconds': sum(run.seconds for run in runs) / len(runs),
        }
        summary.append(line)
    return summary


def _mean_and_error(values: Sequence[float]) -> list[float | None]:
    mean, error = mean_and_error(values)
    return [mean, None if math.isnan(error) else error]  # NaN is no JSON


def format_table(summary: Sequence[dict]) -> str:
    """The summary as a Markdown table, accuracies in percent, mean ± standard error over seeds."""
    header = ('method', 'lr', 'ID', 'OOD average', 'OOD worst group', 'state bytes/param', 'seconds/run')
    rows = [header]
    for line in summary:
        accuracies = [_percent(*line[key]) for key in REPORTED]
        tail = (f'{line["state_bytes_per_param"]:.2f}', f'{line["seconds"]:.1f}')
        rows.append((line['method'], f'{line["lr"]:g}', *accuracies, *tail))
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ['| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |' for row in rows]
    lines.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    return '\n'.join(lines)


def _percent(mean: float, error: float | None) -> str:
    return f'{100 * mean:.1f}' + ('' if error is None else f' ± {100 * error:.1f}')
