"""The published numbers of "How to Fine-Tune Vision Models with SGD" (arXiv 2211.09359), as data."""

import csv
from dataclasses import dataclass
from pathlib import Path

_TABLE = Path(__file__).with_name('paper_results.csv')  # its first lines name the source


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


def paper_results() -> list[PaperResult]:
    """The published cells: all seven models with SGD, AdamW and SGD (freeze-embed); CLIP ViT-B/16's gradual unfreezing.

    Returns:
        list[PaperResult]: 110 cells, by model, method and dataset in the paper's order.

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
