"""The published numbers as data: accuracies of the tables, gradient norms before training."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..utils.metrics import OOD_METRIC, WORST_GROUP

# The first lines of each file name its source.
_RESULTS = Path(__file__).with_name('results.csv')
_GRADIENTS = Path(__file__).with_name('gradients.csv')


@dataclass(frozen=True)
class PaperResult:
    """One cell of the paper's tables, at the learning rate and the epochs that its ID accuracy selected.

    Attributes:
        model: As in the config's name, e.g. ``'clip-vit-b16'``.
        method: As in the config's name, e.g. ``'freeze-embed'``.
        dataset: As in the config's name, e.g. ``'living17'``.
        id: Mean ID accuracy in percent.
        ood: Mean OOD accuracy in percent.
        id_ci90: Half-width of its 90 % interval over seeds, ``1.645 sd / sqrt(n)``; ``None`` for one seed.
        ood_ci90: Likewise for ``ood``.
        n_seeds: Number of seeds.
        lr: The selected learning rate (the base rate for gradual unfreezing); ``None`` if it was not published.
    """

    model: str
    method: str
    dataset: str
    id: float
    ood: float
    id_ci90: float | None
    ood_ci90: float | None
    n_seeds: int
    lr: float | None


@dataclass(frozen=True)
class PaperGradients:
    """Gradient norms of a pretrained model before training.

    Attributes:
        model, dataset: As in the config's name.
        embed: Norm of the embedding layer.
        head: Norm of the head.
        middle: Norm of the middle layer with the largest one.
    """

    model: str
    dataset: str
    embed: float
    head: float
    middle: float


def ood_metric(dataset: str) -> str:
    """The metric of ``GroupAccuracy`` that the paper's OOD tables report: the worst group for Waterbirds."""
    return WORST_GROUP if dataset == 'waterbirds' else OOD_METRIC


def paper_results() -> list[PaperResult]:
    """The published cells: seven models with SGD, AdamW and SGD (freeze-embed), six more methods of CLIP ViT-B/16.

    The six are ``gradual-unfreezing``, ``lamb``, ``lars`` (SGD in effect), ``freeze-stem`` (freezes the patch
    convolution only), ``sgd-no-momentum`` and ``sgd-weight-decay`` (0.01).

    Returns:
        list[PaperResult]: 135 cells, by model, method and dataset in the paper's order.

    Examples:
        >>> cells = [r.ood for r in paper_results() if r.method == 'freeze-embed']
        >>> round(sum(cells) / len(cells), 1)
        76.7
    """
    return [
        PaperResult(
            row['model'],
            row['method'],
            row['dataset'],
            float(row['id']),
            float(row['ood']),
            *(float(row[key]) if row[key] else None for key in ('id_ci90', 'ood_ci90')),
            int(row['n_seeds']),
            float(row['lr']) if row['lr'] else None,
        )
        for row in _rows(_RESULTS)
    ]


def paper_gradients() -> list[PaperGradients]:
    """The published gradient norms: seven models on Living-17, Waterbirds and DomainNet, without one cell.

    Returns:
        list[PaperGradients]: 20 cells, in the paper's order.
    """
    return [
        PaperGradients(row['model'], row['dataset'], *(float(row[key]) for key in ('embed', 'head', 'middle')))
        for row in _rows(_GRADIENTS)
    ]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with open(path, newline='', encoding='utf-8') as file:
        yield from csv.DictReader(line for line in file if not line.startswith('#'))
