"""The work directory of ``tools/finetune.py``: what was asked for and what is done; a second start continues."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import filelock

from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.locks import hold_lock

FILE = 'finetune.json'
LOCK = 'finetune.lock'
SEARCH, TRAINING = RUNS = 'search', 'training'  # directories of runs
_SCHEMA = 1


class State:
    """The options and the results of the finished steps, in ``finetune.json``; every change is written at once.

    Args:
        directory: The work directory.
        options: What was asked for, as JSON data by the name of the option.
        steps: Step -> its result, as JSON data.
    """

    def __init__(self, directory: Path, options: Mapping, steps: Mapping[str, dict] | None = None) -> None:
        self.directory, self.options, self._steps = directory, dict(options), dict(steps or {})

    @classmethod
    def open(cls, directory: str | os.PathLike, options: Mapping) -> 'State':
        """Begin in a new directory, or continue in one that the same command has begun.

        Where nothing has been trained yet, as after a dry run, other options begin again.

        Raises:
            UserError: The directory belongs to something else or to other options, or its file is damaged.
        """
        directory, options = Path(directory), json.loads(json.dumps(options))
        file = directory / FILE
        if not file.exists():
            _refuse_others(directory)
            return cls(directory, options)
        try:
            content = json.loads(file.read_text('utf-8'))
            saved, steps, schema = content['options'], content['steps'], content['schema']
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f'{file}: cannot be read; remove the directory, or choose another --work-dir.') from None
        if schema != _SCHEMA:
            raise UserError(f'{file}: of another version of this package; choose another --work-dir.')
        changed = [_difference(name, saved, options) for name in options if saved.get(name) != options[name]]
        state = cls(directory, options, steps)
        if changed and state.has_runs:
            raise UserError(
                f'{directory}: was begun with {", ".join(changed)}; give the same options to continue, or choose '
                'another --work-dir.'
            )
        if changed:
            state.begin_again()
        return state

    @property
    def has_runs(self) -> bool:
        """Whether something has been trained."""
        return any((self.directory / name).exists() for name in RUNS)

    def begin_again(self) -> None:
        """Forget the results of all steps; a config that the user has edited is still known as such."""
        self._steps = {name: self._steps[name] for name in ('config',) if name in self._steps}

    def get(self, step: str) -> dict | None:
        """The result of a step; ``None`` if it has not ended."""
        return self._steps.get(step)

    def put(self, step: str, result: Mapping) -> dict:
        """Record the result of a step; returns it as a second start reads it."""
        self._steps[step] = json.loads(json.dumps(result))
        self.write()
        return self._steps[step]

    def write(self) -> None:
        """Write ``finetune.json``.

        Raises:
            UserError: The disk is full, or the directory cannot be written.
        """
        content = {'schema': _SCHEMA, 'options': self.options, 'steps': self._steps}
        write_text(self.directory / FILE, json.dumps(content, indent=1) + '\n', remedy='choose another --work-dir')

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the directory.

        Raises:
            UserError: Another one is in it.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with hold_lock(self.directory / LOCK, 1):
                try:
                    yield
                finally:
                    if [path.name for path in self.directory.iterdir()] == [LOCK]:  # refused before anything was done
                        (self.directory / LOCK).unlink()
                        self.directory.rmdir()
        except filelock.Timeout:
            raise UserError(f'{self.directory}: another process fine-tunes there; wait for it or end it.') from None


def _refuse_others(directory: Path) -> None:
    """Refuse a directory in which something else has been written."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f'{directory}: is a file; choose another --work-dir.')
    found = sorted(path.name for path in directory.iterdir() if path.name != LOCK) if directory.is_dir() else []
    if found:
        raise UserError(
            f'{directory}: holds {found[0]} and no {FILE}: it is not of this command; choose another --work-dir.'
        )


def _difference(name: str, saved: Mapping, options: Mapping) -> str:
    before, now = (_shown(values.get(name)) for values in (saved, options))
    label = 'DATA' if name == 'data' else f'--{name.replace("_", "-")}'
    return f'{label} {before} instead of {now}'


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ' '.join(map(str, value)) or 'not given'
    return 'not given' if value is None else str(value)
