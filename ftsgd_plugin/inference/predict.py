"""Predict images with a finished run: the scores that ``tools/test.py`` gives the same images."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose, default_collate
from mmengine.registry import FUNCTIONS, DefaultScope
from torch.utils.data import DataLoader, Dataset

from ..datasets.preprocessing import evaluation_pipeline, evaluation_pipelines
from ..datasets.transforms import why_unreadable
from ..evaluation.group_accuracy import GroupAccuracy
from ..models.image_size import built_for
from ..utils.errors import DivergedError, UserError, check_parent
from ..utils.files import write_text
from ..utils.metrics import ACCURACY, METRIC_NAMES, OF_TWO_CLASSES
from .images import Image, find_images
from .run import FinishedRun
from .tables import check_table, open_table

SHOWN = 10  # unreadable files that the report names; the table has all
EXIT_UNREADABLE = 3  # exit code of tools/predict.py if some of the files could not be read


@dataclass(frozen=True)
class PredictionReport:
    """What :func:`write_predictions` has done.

    Attributes:
        out: The table.
        images: Number of images, unreadable ones included.
        unreadable: Path and reason of every file that could not be read.
        metrics: Fractions: ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``ece`` and, of two classes, ``auroc``
            and ``average_precision``; ``worst_group``, ``group/NAME``, ``split/NAME``. Empty without labels.
    """

    out: str
    images: int
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


def predict(
    run: FinishedRun,
    images: Sequence[Image] | Sequence[str | os.PathLike],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Iterator[tuple[list[tuple[int, np.ndarray]], list[tuple[int, str]]]]:
    """Predict images batch by batch, in order.

    On a CPU the scores are those of ``tools/test.py`` to the last bit, if the batches are the same: a matrix product
    rounds differently for another number of rows.

    Args:
        run: From :func:`ftsgd_plugin.inference.run.load_run`.
        images: Paths, or what :func:`ftsgd_plugin.inference.images.find_images` gives.
        batch_size, workers: Default: those of the run's test data.

    Yields:
        tuple: ``[(index, scores)]`` with float32 scores (classes,) that sum to 1, and ``[(index, reason)]`` of the
        files that cannot be read. Indices count ``images``.

    Raises:
        DivergedError: The scores of an image are not finite.
        UserError: The run's config has no test pipeline that loads files.
    """
    images = [one if isinstance(one, Image) else Image(str(one), str(one)) for one in images]
    settings = run.cfg.get('test_dataloader') or run.cfg.get('val_dataloader') or {}
    workers = settings.get('num_workers', 0) if workers is None else workers
    loader = DataLoader(
        _Files(run, images),
        batch_size=batch_size or settings.get('batch_size', 32),
        num_workers=workers,
        collate_fn=_Collate(run),
        pin_memory=run.device.type == 'cuda',
    )
    for batches, unreadable in loader:
        scored = []
        for indices, batch in batches:
            with torch.no_grad():
                samples = run.model.test_step(batch)
            scores = torch.stack([sample.pred_score for sample in samples]).float().cpu()
            if bad := int((~scores.isfinite().all(dim=1)).sum()):
                raise DivergedError(
                    f'{run.checkpoint}: the scores of {bad} of {len(scores)} images are NaN or Inf; the model has '
                    'diverged: use an earlier checkpoint.'
                )
            scored += zip(indices, scores.numpy())
        yield sorted(scored, key=lambda one: one[0]), unreadable


class _Files(Dataset):
    """Image files through the run's test pipeline; of one that cannot be read the reason instead."""

    def __init__(self, run: FinishedRun, images: Sequence[Image]) -> None:
        pipeline = deepcopy(evaluation_pipeline(run.cfg, str(run.cfg.filename)))
        with DefaultScope.overwrite_default_scope(run.cfg.get('default_scope') or 'mmpretrain'):
            self.transform = Compose(pipeline)
        self.files = [image.file for image in images]
        resizes = run.preprocessing is None or run.preprocessing.image_size or run.preprocessing.other
        self.size = None if resizes else built_for(getattr(run.model, 'backbone', run.model))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[int, dict | None, str]:
        file = self.files[index]
        try:
            sample = self.transform({'img_path': file, 'sample_idx': index})
        except Exception:
            if (reason := why_unreadable(file)) is None:
                raise
            return index, None, reason
        if self.size is not None and max(sample['inputs'].shape[-2:]) != self.size:
            height, width = sample['inputs'].shape[-2:]
            reason = f'is {width} x {height} pixels instead of {self.size} x {self.size}, and this run does not resize'
            return index, None, reason
        return index, sample, ''


class _Collate:
    """Batches of images with one size each, and the unreadable ones."""

    def __init__(self, run: FinishedRun) -> None:
        chosen = ((run.cfg.get('test_dataloader') or {}).get('collate_fn') or {}).get('type')
        self.collate = (FUNCTIONS.get(chosen) if isinstance(chosen, str) else chosen) or default_collate

    def __call__(self, items: list[tuple[int, dict | None, str]]) -> tuple[list, list[tuple[int, str]]]:
        by_size: dict[Any, list[tuple[int, dict]]] = {}
        for index, sample, _ in items:
            if sample is not None:
                by_size.setdefault(tuple(sample['inputs'].shape), []).append((index, sample))
        batches = [([i for i, _ in group], self.collate([sample for _, sample in group])) for group in by_size.values()]
        return batches, [(index, reason) for index, sample, reason in items if sample is None]


def write_predictions(
    run: FinishedRun,
    inputs: Iterable[str | os.PathLike],
    out: str | os.PathLike,
    *,
    top_k: int | None = None,
    columns: dict[str, str] | None = None,
    root: str | os.PathLike | None = None,
    metrics_out: str | os.PathLike | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = False,
    report: Callable[[str], None] = print,
) -> PredictionReport:
    """Predict images and write a table with a row for each, in order.

    Columns: ``path``; ``label``, ``group`` and ``split`` if they are known; ``prediction`` and its ``probability``;
    ``p(CLASS)`` for every class or, with ``top_k``, ``prediction_2``, ``probability_2``, ...; ``error``, which says why
    a file could not be read and is empty otherwise.

    Args:
        run: From :func:`ftsgd_plugin.inference.run.load_run`.
        inputs, columns, root: See :func:`ftsgd_plugin.inference.images.find_images`.
        out: The table: ``.csv``, ``.jsonl`` or ``.parquet``.
        top_k: Number of classes to write, the most probable first. Default: the probabilities of all.
        metrics_out: JSON file for the metrics; needs labels.
        batch_size, workers: See :func:`predict`.
        progress: Whether to show a progress bar.
        report: Called with each line of the report.

    Raises:
        DivergedError: The scores of an image are not finite.
        UserError: An input or an output does not fit, or no file can be read; nothing is written.

    Examples:
        >>> write_predictions(load_run('work_dirs/mine'), ['photos'], 'predictions.csv', top_k=3)
    """
    from tqdm import tqdm

    check_table(out)
    if metrics_out is not None:
        check_parent(metrics_out)
    images = find_images(inputs, run.classes, columns, root)
    labelled = any(image.label is not None for image in images)
    if metrics_out is not None and not labelled:
        raise UserError(f'{metrics_out}: metrics need labels, and no image has one; leave out --metrics.')
    if len(evaluation_pipelines(run.cfg)) > 1:
        report('the test data of this run have several pipelines; that of the first is used')
    known = {key for key in ('group', 'split') if any(getattr(image, key) for image in images)}
    known |= {'label'} if labelled else set()
    metric = _metric(run.classes) if labelled else None
    unreadable: list[tuple[str, str]] = []
    bar = tqdm(total=len(images), unit='image', disable=not progress)
    with open_table(out, _columns(run.classes, known, top_k)) as table, bar:
        for scored, failed in predict(run, images, batch_size=batch_size, workers=workers):
            rows = {i: _row(run.classes, images[i], known, scores, top_k) for i, scores in scored}
            rows |= {i: {**_known(run.classes, images[i], known), 'error': reason} for i, reason in failed}
            table.write([rows[i] for i in sorted(rows)])
            unreadable += [(images[i].path, reason) for i, reason in failed]
            _collect(metric, images, scored)
            bar.update(len(rows))
        if len(unreadable) == len(images):
            path, reason = unreadable[0]
            more = f', like the other {len(images) - 1}' if len(images) > 1 else ''
            raise UserError(f'{path}: {reason}{more}; nothing is predicted.')
    metrics = _metrics(metric, known) if metric is not None and metric.results else {}
    done = PredictionReport(str(out), len(images), unreadable, metrics)
    if metrics_out is not None:
        write_text(metrics_out, json.dumps(metrics, indent=1) + '\n')
    _report(done, report)
    return done


def _columns(classes: Sequence[str], known: set[str], top_k: int | None) -> dict[str, type]:
    columns: dict[str, type] = {'path': str, **{key: str for key in ('label', 'group', 'split') if key in known}}
    columns |= {'prediction': str, 'probability': np.float32}
    if top_k is None:
        columns |= {f'p({name})': np.float32 for name in classes}
    else:
        for place in range(2, min(top_k, len(classes)) + 1):
            columns |= {f'prediction_{place}': str, f'probability_{place}': np.float32}
    return {**columns, 'error': str}


def _known(classes: Sequence[str], image: Image, known: set[str]) -> dict[str, str]:
    row = {'path': image.path}
    if 'label' in known:
        row['label'] = '' if image.label is None else classes[image.label]
    return row | {key: getattr(image, key) for key in ('group', 'split') if key in known}


def _row(classes: Sequence[str], image: Image, known: set[str], scores: np.ndarray, top_k: int | None) -> dict:
    order = np.argsort(-scores, kind='stable')
    row = {**_known(classes, image, known), 'prediction': classes[order[0]], 'probability': scores[order[0]]}
    if top_k is None:
        row |= {f'p({name})': score for name, score in zip(classes, scores)}
    else:
        for place, i in enumerate(order[1:top_k], start=2):
            row |= {f'prediction_{place}': classes[i], f'probability_{place}': scores[i]}
    return {**row, 'error': ''}


def _metric(classes: Sequence[str]) -> GroupAccuracy:
    names = [name for name in METRIC_NAMES if name != ACCURACY and (len(classes) == 2 or name not in OF_TWO_CLASSES)]
    return GroupAccuracy(id='all', ood='all', by=('subset',), items=names)


def _collect(metric: GroupAccuracy | None, images: Sequence[Image], scored: Sequence[tuple[int, np.ndarray]]) -> None:
    if metric is None:
        return
    samples = [
        {
            'gt_label': images[i].label,
            'pred_score': torch.from_numpy(scores),
            'split': 'all',
            'group': images[i].group,
            'subset': images[i].split,
        }
        for i, scores in scored
        if images[i].label is not None
    ]
    if samples:
        metric.process(None, samples)


def _metrics(metric: GroupAccuracy, known: set[str]) -> dict[str, float]:
    found = metric.evaluate(len(metric.results))
    metrics = {name: found[f'id/{name}'] for name in METRIC_NAMES if f'id/{name}' in found}
    if 'group' in known:
        metrics |= {'worst_group': found['ood/worst_group']}
        metrics |= {key: value for key, value in found.items() if key.startswith('group/')}
    if 'split' in known:
        metrics |= {f'split/{key[7:]}': value for key, value in found.items() if key.startswith('subset/')}
    return {key: float(value) for key, value in metrics.items()}


def _report(done: PredictionReport, report: Callable[[str], None]) -> None:
    for path, reason in done.unreadable[:SHOWN]:
        report(f'not predicted: {path}: {reason}')
    if len(done.unreadable) > SHOWN:
        report(f'and {len(done.unreadable) - SHOWN} more; the column error of {done.out} has all')
    for key, value in done.metrics.items():
        report(f'{key}: {value:.2%}')
    report(f'written: {done.out} ({done.images - len(done.unreadable)} of {done.images} images predicted)')
