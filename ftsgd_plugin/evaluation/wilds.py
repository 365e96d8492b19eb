"""The official WILDS evaluation: prediction files of the leaderboard, and the metrics of the ``wilds`` package.

``wilds`` 2.0.0 is unmaintained. This module alone works around its faults on a current stack: a network request at
import, ``torch_scatter`` (needs a compiler), and pandas 2 reading the time stamps of FMoW.
"""

import contextlib
import importlib.util
import logging
import sys
import types
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.patching import replaced, stand_in
from .predictions import predicted_labels, read_fields, require_finite

NAMES = {'Camelyon17': 'camelyon17', 'FMoW': 'fmow', 'Waterbirds': 'waterbirds'}
DIRECTORIES = {'camelyon17': 'camelyon17_v1.0', 'fmow': 'fmow_v1.1', 'waterbirds': 'waterbirds_v1.0'}


def import_wilds() -> types.ModuleType:
    """Import ``wilds`` without its network thread.

    Raises:
        UserError: It is not installed; the message names the extra to install.
    """
    try:
        with stand_in('outdated', None):  # wilds would ask the package index for its newest version, without a timeout
            import wilds
    except ImportError as error:
        raise UserError(
            f"the official metrics need the wilds package ({error}); run: pip install 'ftsgd_plugin[wilds]'"
        ) from error
    return wilds


def torch_scatter() -> contextlib.AbstractContextManager:
    """Provide ``torch_scatter``, which ``wilds`` imports whenever it averages over groups, within a ``with`` block.

    An installed ``torch_scatter`` is used as it is.
    """
    if 'torch_scatter' in sys.modules or importlib.util.find_spec('torch_scatter') is not None:
        return contextlib.nullcontext()
    module = types.ModuleType('torch_scatter')
    module.scatter = _scatter_mean
    return stand_in('torch_scatter', module)


def _scatter_mean(src: torch.Tensor, index: torch.Tensor, dim_size: int, reduce: str) -> torch.Tensor:
    """``torch_scatter.scatter(..., reduce='mean')``, the only call that wilds makes; empty groups give 0."""
    if reduce != 'mean':
        raise NotImplementedError(f'reduce={reduce!r}')
    totals = torch.zeros(dim_size, dtype=src.dtype).index_add_(0, index, src)
    return totals / torch.bincount(index, minlength=dim_size).clamp(min=1)


def load_wilds(name: str, data_root: str):
    """A dataset of ``wilds`` that reads our directory of the same benchmark.

    Args:
        name: ``'camelyon17'``, ``'fmow'`` or ``'waterbirds'``.
        data_root: The directory with the metadata file, named as WILDS names it (``camelyon17_v1.0``).

    Raises:
        UserError: ``wilds`` is not installed, or does not accept the directory.
    """
    wilds = import_wilds()
    import pandas

    root = Path(data_root).expanduser().resolve()
    if root.name != DIRECTORIES[name]:
        raise UserError(
            f'{root}: wilds reads a directory named {DIRECTORIES[name]} only; rename it or link it under that name.'
        )

    def to_datetime(values, *args, **kwargs):
        return original(values, *args, **{'format': 'ISO8601', **kwargs})

    original = pandas.to_datetime
    try:
        with replaced(pandas, 'to_datetime', to_datetime):  # FMoW mixes two ISO formats
            return wilds.get_dataset(name, root_dir=str(root.parent), download=False)
    except FileNotFoundError as error:
        marker = root / f'RELEASE_{DIRECTORIES[name].split("_")[1]}.txt'
        raise UserError(
            f'{root}: wilds does not find its data; if only {marker.name} is missing, run: touch {marker}'
        ) from error


class WildsPredictions(BaseMetric):
    """Collect the predictions of every split, for the files of the WILDS leaderboard and the official metrics.

    Args:
        datasets: The evaluated datasets of one benchmark (``Camelyon17``, ``FMoW`` or ``Waterbirds``).
        directory: Directory of the files, one per split.
        seed: Seed of the run, part of the files' names.

    Raises:
        UserError: The evaluated datasets are not of a WILDS benchmark, or the samples lack a field.
    """

    default_prefix = 'wilds'

    def __init__(self, datasets: Sequence, directory: str, seed: int = 0) -> None:
        super().__init__()
        kinds = {type(dataset).__name__ for dataset in datasets}
        if len(kinds) != 1 or not kinds <= NAMES.keys():
            raise UserError(f'--wilds-predictions: {", ".join(sorted(kinds))} is not one of {", ".join(NAMES)}.')
        self.name = NAMES[kinds.pop()]
        self.datasets, self.directory, self.seed = list(datasets), Path(directory), seed

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Keep ``(split, path, prediction)``, see :func:`ftsgd_plugin.evaluation.group_accuracy.predicted_labels`."""
        for sample, predicted in zip(data_samples, predicted_labels(data_samples)):
            path, split = read_fields('WildsPredictions', sample, ('img_path', 'split'))
            self.results.append((split, path, predicted))

    def compute_metrics(self, results: list[tuple[str, str, int | None]]) -> dict[str, float]:
        """Write a file per split in the order of ``wilds``, then evaluate with the package if possible.

        Returns:
            dict[str, float]: ``<split>/<official key>``, without the counts.

        Raises:
            DivergedError: The scores of a sample are not finite; no file is written.
        """
        require_finite('WildsPredictions', (predicted for _, _, predicted in results))
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
        except UserError as error:  # the files are written; do not discard an hour of evaluation
            print_log(f'no official metrics: {error}', logger='current', level=logging.WARNING)
            return {}
        metrics = {}
        for split, predicted in ordered.items():
            subset = official.get_subset(split)
            with torch_scatter():
                found, text = official.eval(torch.tensor(predicted), subset.y_array, subset.metadata_array)
            print_log(f'WILDS {self.name} {split}\n{text}', logger='current')
            metrics.update({f'{split}/{key}': value for key, value in found.items() if not key.startswith('count')})
        return metrics

    def _write(self, split: str, predictions: Sequence[int]) -> None:
        path = self.directory / f'{self.name}_split:{split}_seed:{self.seed}_epoch:best_pred.csv'
        write_text(path, '\n'.join(map(str, predictions)) + '\n')
