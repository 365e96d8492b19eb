"""Gather run records from directories: the usable ones, the others with the reason, and warnings."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..methods import WISE_FT
from ..paper.published import ood_metric
from ..records import RunRecord, find_records, read_record
from ..utils.errors import UserError
from ..utils.format import printable
from ..utils.metrics import ACCURACY, ID_METRIC, OOD_METRIC, WORST_GROUP
from ..utils.version import __version__
from .small_records import small


@dataclass
class Collection:
    """The records below some directories.

    Attributes:
        runs: Finished, valid records with their paths, one per cell, learning rate and seed.
        diverged: Records of runs whose numbers were no longer finite, likewise.
        stopped: Records of runs that successive halving has stopped, likewise.
        unfinished: Records of runs that are running or have failed, with their paths.
        smoke: Number of records of a smoke test, which are in none of the above.
        unreadable: Path -> why it was left out: truncated, of another schema, an invalid value.
        warnings: One line each: other code versions, repeated runs.
    """

    runs: list[tuple[Path, RunRecord]] = field(default_factory=list)
    diverged: list[tuple[Path, RunRecord]] = field(default_factory=list)
    stopped: list[tuple[Path, RunRecord]] = field(default_factory=list)
    unfinished: list[tuple[Path, RunRecord]] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    smoke: int = 0

    def notes(self) -> list[str]:
        """How many records were used and left out, and the warnings; a line each."""
        failed = sum(record.status == 'failed' for _, record in self.unfinished)
        others = len(self.unfinished) - failed
        diverged = f'{len(self.diverged)} diverged, ' if self.diverged else ''
        stopped = f'{len(self.stopped)} stopped by successive halving, ' if self.stopped else ''
        smoke = f', {self.smoke} of a smoke test' if self.smoke else ''
        counts = (
            f'{len(self.runs)} finished runs used; left out: {diverged}{stopped}{failed} failed, {others} unfinished, '
            f'{len(self.unreadable)} unreadable{smoke}.'
        )
        return [counts, *(printable(f'warning: {line}') for line in self.warnings)]

    def problems(self) -> list[str]:
        """Every record that was left out, with the reason; a line each."""
        left_out = [*self.diverged, *self.stopped, *self.unfinished]
        reasons = (f'{record.status}: {path.parent}: {record.error or "unknown error"}' for path, record in left_out)
        return [*map(printable, reasons), *(printable(f'unreadable: {line}') for line in self.unreadable.values())]


def metric_keys(dataset: str, metric: str = ACCURACY) -> tuple[str, str]:
    """The ID and the OOD key of a metric; the accuracy of a data set is that of the paper's tables."""
    return (ID_METRIC, ood_metric(dataset)) if metric == ACCURACY else (f'id/{metric}', f'ood/{metric}')


def collect(paths: Iterable[str | os.PathLike], metric: str = ACCURACY) -> Collection:
    """Read every record below directories.

    Args:
        paths: Directories of runs, runs, or record files; a record in two of them counts once.
        metric: A key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`; finished runs without it are left out.

    Raises:
        UserError: A path does not exist, or there is no record in any of them.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.exists():
            raise UserError(f'{path}: no such directory; name a directory of runs.')
    files = {os.path.realpath(path): path for path in find_records(paths)}
    if not files:
        raise UserError(f'{", ".join(map(str, paths))}: no record.json below; name the directory that a sweep wrote.')
    found = Collection()
    for path in files.values():
        try:
            record = read_record(path)
            if record.smoke:
                found.smoke += 1
                continue
            if record.method.endswith(WISE_FT) and record.status == 'finished':
                record = _interpolated(record, path)
            if missing := _missing(record, metric):
                raise UserError(f'{path}: {missing}.')
        except UserError as error:
            found.unreadable[path] = str(error)
        else:
            kinds = {'finished': found.runs, 'diverged': found.diverged, 'stopped': found.stopped}
            kinds.get(record.status, found.unfinished).append((path, small(record)))
    _drop_repeated(found)
    _warn_of_diverged(found)
    _warn_of_stopped(found)
    _warn_of_versions(found)
    _warn_of_selection(found, f'id/{metric}')
    return found


def _interpolated(record: RunRecord, path: Path) -> RunRecord:
    """The record with the metrics of the interpolated weights, which are this method's, in place of the run's own.

    Raises:
        UserError: The run has not been interpolated, or the file cannot be read.
    """
    file = path.parent / 'wise_ft/wise_ft.json'
    remedy = f'run: python tools/wise_ft.py {path.parent}'
    if not file.is_file():
        raise UserError(f'{path}: trained and not interpolated yet; {remedy}.')
    try:
        content = json.loads(file.read_text('utf-8'))
        selected = {key: float(value) for key, value in content['selected'].items()}
        by = str(content['selected_by'])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{file}: not a result of tools/wise_ft.py ({type(error).__name__}); {remedy}.') from error
    return dataclasses.replace(record, epochs=[selected], selected_epoch=0, selected_by=by)


def _missing(record: RunRecord, metric: str) -> str | None:
    """What a table needs and a finished run lacks, or has out of range, and the remedy; ``None`` if it is complete."""
    remedy = 'run it again or remove it'
    if record.status != 'finished':
        return None
    if not record.epochs:
        return f'finished without an evaluation; {remedy}'
    needed = {ID_METRIC, OOD_METRIC, *metric_keys(record.dataset), *metric_keys(record.dataset, metric)}
    missing = sorted(key for key in needed if any(key not in metrics for metrics in record.epochs))
    if missing:
        if metric != ACCURACY and missing[0].endswith(f'/{metric}'):
            remedy = f'a run has it if its evaluator is GroupAccuracy with items=({metric!r},)'
        return f'no {missing[0]} in some epoch; {remedy}'
    for key in sorted(needed | {WORST_GROUP}):
        for number, metrics in enumerate(record.epochs):
            if not 0 <= metrics.get(key, 0) <= 1:
                return f'epochs[{number}][{key!r}]={metrics[key]!r} is not a fraction from 0 to 1; {remedy}'
    return None


def _drop_repeated(found: Collection) -> None:
    """Keep the run that finished last for each cell, learning rate and seed: repeating a run adds no seed."""
    latest: dict[tuple, tuple[Path, RunRecord]] = {}
    repeated = Counter()
    ended = [*found.runs, *found.diverged, *found.stopped]
    # A run that was stopped has no result that could replace one.
    order = sorted(ended, key=lambda run: (run[1].status != 'stopped', run[1].finished, str(run[0])))
    for path, record in order:
        key = (record.model, record.method, record.dataset, float(record.lr), record.seed)
        repeated[key] += key in latest
        latest[key] = (path, record)
    kept = {path for path, _ in latest.values()}
    found.runs = [run for run in found.runs if run[0] in kept]
    found.diverged = [run for run in found.diverged if run[0] in kept]
    found.stopped = [run for run in found.stopped if run[0] in kept]
    if dropped := sum(repeated.values()):
        model, method, dataset, lr, seed = next(key for key, count in repeated.items() if count)
        found.warnings.append(
            f'{dropped} runs repeat the settings of others (e.g. {model} {method} {dataset} lr={lr:g} seed={seed}); '
            'the one that finished last counts.'
        )


def _warn_of_diverged(found: Collection) -> None:
    rates = list(dict.fromkeys(f'{r.model} {r.method} {r.dataset} lr={r.lr:g}' for _, r in found.diverged))
    if rates:
        more = f' and {len(rates) - 4} more' if len(rates) > 4 else ''
        found.warnings.append(
            f'{len(found.diverged)} runs diverged; no number is of these learning rates: {", ".join(rates[:4])}{more}.'
        )


def _warn_of_stopped(found: Collection) -> None:
    if found.stopped:
        rates = {(r.model, r.method, r.dataset, float(r.lr)) for _, r in found.stopped}
        found.warnings.append(
            f'{len(found.stopped)} runs were stopped by successive halving; no number is of their {len(rates)} '
            'learning rates, and sensitivity to the learning rate is that of the others.'
        )


def _warn_of_versions(found: Collection) -> None:
    records = [record for _, record in found.runs]
    other = Counter(version for record in records if (version := record.code.get('version')) != __version__)
    for version, count in sorted(other.items(), key=str):
        found.warnings.append(f'{count} runs are of version {version} of the package, this is {__version__}.')
    commits = sorted({str(record.code.get('commit')) for record in records})
    if len(commits) > 1:
        found.warnings.append(f'the runs are of {len(commits)} commits: {", ".join(c[:12] for c in commits[:5])}.')
    changed = sum(str(record.code.get('commit') or '').endswith('+') for record in records)
    if changed:
        found.warnings.append(f'runs of a changed checkout (commit with "+"): {changed}.')


def _warn_of_selection(found: Collection, key: str) -> None:
    """The checkpoint that a run has kept is that of its ``save_best``, which need not be the epoch of the tables."""
    others = Counter(record.selected_by for _, record in found.runs if record.selected_by != key)
    for other, count in sorted(others.items()):
        found.warnings.append(
            f'{count} runs selected their best checkpoint by {other}; here their epochs are selected by {key}.'
        )
