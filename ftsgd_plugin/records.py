"""Run records: one small JSON file per run, ``record.json`` in its folder, plain data with this schema."""

import contextlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from .utils.errors import UserError

FILE = 'record.json'
SCHEMA = 1


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run.

    Attributes:
        model, method, dataset: As in the config's name, e.g. ``'vit-b16'``, ``'freeze-embed'``, ``'camelyon'``.
        lr: Learning rate of the config (the base, for gradual unfreezing).
        seed: ``randomness.seed``.
        config_hash: SHA-256 of the full config without what names the run only (work dir, experiment name).
        status: ``'running'``, ``'finished'`` or ``'failed'``.
        epochs: Metrics of every evaluation in order (fractions; keys of ``GroupAccuracy``).
        selected_epoch: Index into ``epochs`` of the selected one, from 0; ``None`` before the first evaluation.
        selected_by: The metric it was selected on, ``'id/accuracy'``.
        code: ``version`` of the package and ``commit`` of its checkout (``None`` outside one; ``+`` if changed).
        environment: Versions of Python and the stack, ``device`` and number of ``processes``.
        resources: ``seconds`` of training with evaluation, ``peak_bytes`` (device, or host where there is none),
            ``state_bytes`` of the optimizer, ``parameters``, ``trained_parameters``; absent if unknown.
        command: What started the run.
        started, finished: ISO 8601 times.
        error: Last line of a failure.
        schema: Version of this layout.
    """

    model: str
    method: str
    dataset: str
    lr: float
    seed: int
    config_hash: str
    status: str
    epochs: list[dict[str, float]]
    selected_epoch: int | None = None
    selected_by: str = 'id/accuracy'
    code: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    resources: dict = field(default_factory=dict)
    command: str = ''
    started: str = ''
    finished: str = ''
    error: str = ''
    schema: int = SCHEMA

    @property
    def selected(self) -> dict[str, float] | None:
        """Metrics of the selected epoch."""
        return None if self.selected_epoch is None else self.epochs[self.selected_epoch]


def write_record(record: RunRecord, folder: str | os.PathLike) -> Path:
    """Write ``record.json`` into a run's folder, whole or not at all.

    Raises:
        UserError: The disk is full or the folder cannot be written; an earlier record is untouched.
    """
    path = Path(folder) / FILE
    unfinished = path.with_name(f'.{FILE}.tmp')
    try:
        unfinished.write_text(json.dumps(asdict(record), indent=1) + '\n')
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise UserError(f'{path}: cannot be written ({error.strerror}); make room or choose another folder.') from error
    return path


def read_record(path: str | os.PathLike) -> RunRecord:
    """Read a record.

    Args:
        path: The file, or the run's folder.

    Raises:
        UserError: It is missing, half-written, of another schema, lacks a key, or holds NaN.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f'{path}: no such record; name a folder of runs.') from None
    except ValueError as error:
        raise UserError(f'{path}: half-written or no record ({error}); run it again or remove it.') from None
    if not isinstance(data, dict) or data.get('schema') != SCHEMA:
        found = data.get('schema') if isinstance(data, dict) else None
        raise UserError(f'{path}: schema {found!r} instead of {SCHEMA}; read it with the version that wrote it.')
    known = {one.name for one in fields(RunRecord)}
    try:
        record = RunRecord(**{key: value for key, value in data.items() if key in known})
    except TypeError as error:
        raise UserError(f'{path}: {str(error).split("() ")[-1]}; run it again or remove it.') from None
    bad = sorted({key for metrics in record.epochs for key, value in metrics.items() if not math.isfinite(value)})
    if bad:
        raise UserError(f'{path}: {bad[0]} is not a number in some epoch; remove the run or mend its config.')
    return record


def find_records(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """The record files below folders (or named themselves), sorted."""
    found = []
    for path in map(Path, paths):
        found += sorted(path.rglob(FILE)) if path.is_dir() else [path]
    return found
