"""The published numbers of "How to Fine-Tune Vision Models with SGD" (arXiv 2211.09359), as data."""

import csv
from dataclasses import dataclass
from pathlib import Path

_TABLE = Path(__file__).with_name('results.csv')  # its first lines name the source

# Name in the configs -> in the tables, in the paper's order.
MODELS = {
    'clip-vit-b16': 'CLIP ViT-B/16',
    'clip-vit-l14': 'CLIP ViT-L/14',
    'vit-b16': 'Sup. ViT-B/16',
    'dino-vit-b16': 'DINO ViT-B/16',
    'convnext-b': 'ConvNeXt-B',
    'bit-r50': 'BiT ResNet-50',
    'bit-r101': 'BiT ResNet-101',
}
DATASETS = {
    'living17': 'Living-17',
    'waterbirds': 'Waterbirds',
    'domainnet': 'DomainNet',
    'fmow': 'FMoW',
    'camelyon': 'Camelyon',
}
METHODS = ('sgd', 'adamw', 'freeze-embed')  # those published for every model


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
        lr: The selected learning rate, of gradual unfreezing the base; ``None`` where it was not published.
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


def ood_metric(dataset: str) -> str:
    """The metric of ``GroupAccuracy`` that the paper's OOD tables hold: Waterbirds' is the worst group."""
    return 'ood/worst_group' if dataset == 'waterbirds' else 'ood/accuracy'


def paper_results() -> list[PaperResult]:
    """The published cells: seven models with SGD, AdamW and SGD (freeze-embed); six more methods of CLIP ViT-B/16.

    Those are ``gradual-unfreezing``, ``lamb``, ``lars`` (SGD in effect), ``freeze-stem`` (the patch convolution only),
    ``sgd-no-momentum`` and ``sgd-weight-decay`` (0.01).

    Returns:
        list[PaperResult]: 135 cells, by model, method and dataset in the paper's order.

    Examples:
        >>> cells = [r.ood for r in paper_results() if r.method == 'freeze-embed']
        >>> round(sum(cells) / len(cells), 1)
        76.7
    """
    with open(_TABLE, newline='', encoding='utf-8') as file:
        rows = csv.DictReader(line for line in file if not line.startswith('#'))
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
            for row in rows
        ]
