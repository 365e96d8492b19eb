"""The official WILDS evaluation: prediction files of the leaderboard, and the numbers of the ``wilds`` package.

``wilds`` 2.0.0 is unmaintained; what is broken in it on a current stack is dealt with here and nowhere else: a network
request at import, ``torch_scatter`` (needs a compiler), and pandas 2 reading FMoW's time stamps.
"""

import logging
import sys
import types
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from ..utils.errors import UserError

NAMES = {'Camelyon17': 'camelyon17', 'FMoW': 'fmow', 'Waterbirds': 'waterbirds'}
FOLDERS = {'camelyon17': 'camelyon17_v1.0', 'fmow': 'fmow_v1.1', 'waterbirds': 'waterbirds_v1.0'}


def import_wilds() -> types.ModuleType:
    """Import ``wilds`` without its network thread and without ``torch_scatter``.

    Raises:
        UserError: It is not installed.
    """
    sys.modules.setdefault('outdated', None)  # wilds asks the package index for newer versions, without a timeout
    if 'torch_scatter' not in sys.modules:
        stand_in = types.ModuleType('torch_scatter')
        stand_in.scatter = _scatter_mean
        sys.modules['torch_scatter'] = stand_in
    try:
        import wilds
    except ImportError as error:
        raise UserError(f'the official numbers need the wilds package ({error}); run: pip install wilds') from error
    return wilds


def _scatter_mean(src: torch.Tensor, index: torch.Tensor, dim_size: int, reduce: str) -> torch.Tensor:
    """``torch_scatter.scatter(..., reduce='mean')``, the one call wilds makes; empty groups give 0."""
    if reduce != 'mean':
        raise NotImplementedError(f'reduce={reduce!r}')
    totals = torch.zeros(dim_size, dtype=src.dtype).index_add_(0, index, src)
    return totals / torch.bincount(index, minlength=dim_size).clamp(min=1)


def load_wilds(name: str, data_root: str):
    """A dataset of ``wilds`` over a folder of ours.

    Args:
        name: ``'camelyon17'``, ``'fmow'`` or ``'waterbirds'``.
        data_root: The folder with the metadata file, named as WILDS names it (``camelyon17_v1.0``).

    Raises:
        UserError: ``wilds`` is not installed, or does not accept the folder.
    """
    wilds = import_wilds()
    import pandas

    root = Path(data_root).expanduser().resolve()
    if root.name != FOLDERS[name]:
        raise UserError(
            f'{root}: wilds reads a folder named {FOLDERS[name]} only; rename it or link it under that name.'
        )

    def to_datetime(values, *args, **kwargs):
        return original(values, *args, **{'format': 'ISO8601', **kwargs})

    original = pandas.to_datetime
    try:
        with mock.patch('pandas.to_datetime', to_datetime):  # FMoW mixes two ISO formats
            return wilds.get_dataset(name, root_dir=str(root.parent), download=False)
    except FileNotFoundError as error:
        marker = root / f'RELEASE_{FOLDERS[name].split("_")[1]}.txt'
        raise UserError(f'{root}: wilds does not find its data; is {marker.name} there? (touch {marker})') from error


class WildsPredictions(BaseMetric):
    """Collects predictions of every split, for the files of the WILDS leaderboard and the official numbers.

    Args:
        datasets: The evaluated datasets of one benchmark (``Camelyon17``, ``FMoW`` or ``Waterbirds``).
        folder: Where the files go, one per split.
        seed: In the files' names.

    Raises:
        UserError: The evaluated datasets are not of a WILDS benchmark.
    """

    default_prefix = 'wilds'

    def __init__(self, datasets: Sequence, folder: str, seed: int = 0) -> None:
        super().__init__()
        kinds = {type(dataset).__name__ for dataset in datasets}
        if len(kinds) != 1 or not kinds <= NAMES.keys():
            raise UserError(f'--wilds-predictions: {", ".join(sorted(kinds))} is not one of {", ".join(NAMES)}.')
        self.name = NAMES[kinds.pop()]
        self.datasets, self.folder, self.seed = list(datasets), Path(folder), seed

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Keep ``(split, path, prediction)``."""
        for sample in data_samples:
            self.results.append((sample['split'], sample['img_path'], int(sample['pred_label'])))

    def compute_metrics(self, results: list[tuple[str, str, int]]) -> dict[str, float]:
        """Write a file per split in the order of ``wilds``, then evaluate with the package if that is possible.

        Returns:
            dict[str, float]: ``<split>/<official key>``, without the counts.
        """
        predictions: dict[str, dict[str, int]] = defaultdict(dict)
        for split, path, prediction in results:
            predictions[split][path] = prediction
        ordered = {}
        for dataset in self.datasets:
            paths = (dataset.get_data_info(i)['img_path'] for i in range(len(dataset)))
            ordered[dataset.split] = [predictions[dataset.split][path] for path in paths]
            self._write(dataset.split, ordered[dataset.split])
        try:
            official = load_wilds(self.name, self.datasets[0].data_root)
        except UserError as error:  # the files are written; an hour of evaluation is not thrown away
            print_log(f'no official numbers: {error}', logger='current', level=logging.WARNING)
            return {}
        metrics = {}
        for split, predicted in ordered.items():
            subset = official.get_subset(split)
            found, text = official.eval(torch.tensor(predicted), subset.y_array, subset.metadata_array)
            print_log(f'WILDS {self.name} {split}\n{text}', logger='current')
            metrics.update({f'{split}/{key}': value for key, value in found.items() if not key.startswith('count')})
        return metrics

    def _write(self, split: str, predictions: Sequence[int]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f'{self.name}_split:{split}_seed:{self.seed}_epoch:best_pred.csv'
        unfinished = path.with_name(f'.{path.name}')
        unfinished.write_text('\n'.join(map(str, predictions)) + '\n')
        unfinished.replace(path)
