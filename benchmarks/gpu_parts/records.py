"""The record of the parts, ``gpu.json``, written after every row: whatever ends a part, what it measured is kept."""

import json
import os
from datetime import date
from pathlib import Path

from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.files import write_text

FILE = 'gpu.json'
SCHEMA = 1


def read_records(path: str | os.PathLike) -> dict:
    """What ``gpu.json`` holds; without the file, a record of no part.

    Returns:
        dict: ``schema``, ``dry_run`` and ``parts``: name -> ``rows`` (by name), ``failures`` (line by name of the row),
        ``finished``, ``environment`` (device and versions), ``date``, ``seconds`` (of the calls that measured it) and
        ``command``.

    Raises:
        UserError: The file is damaged or of another schema.
    """
    path = Path(path)
    if not path.is_file():
        return dict(schema=SCHEMA, dry_run=False, parts={})
    try:
        found = json.loads(path.read_text('utf-8'))
        if not isinstance(found, dict) or found['schema'] != SCHEMA or not isinstance(found['parts'], dict):
            raise ValueError('another layout')
    except (ValueError, KeyError) as error:
        raise UserError(
            f'{path}: not a record of benchmarks/gpu.py ({error}); remove it or name another --out.'
        ) from None
    return found


class Records:
    """The records in a directory.

    Args:
        directory: Where ``gpu.json`` is.
        dry_run: Whether this call is one; records of the other kind are refused.

    Raises:
        UserError: They are of the other kind, or unreadable.
    """

    def __init__(self, directory: str | os.PathLike, dry_run: bool) -> None:
        self.path = Path(directory) / FILE
        found = read_records(self.path)
        if found['parts'] and found['dry_run'] != dry_run:
            kind = 'a dry run' if found['dry_run'] else 'a GPU'
            raise UserError(f'{self.path}: holds records of {kind}; name another directory with --out.')
        self.dry_run = dry_run

    @property
    def parts(self) -> dict[str, dict]:
        """The record of every part that has one, read each time: the part's own process writes it."""
        return read_records(self.path)['parts']

    def start(self, name: str, environment: dict, command: str) -> set[str]:
        """Begin or continue a part.

        Returns:
            set: Names of the rows that it has. Rows of another device or other versions are dropped: one table
            compares what was measured under the same conditions.
        """
        before = self.parts.get(name, {})
        same = before.get('environment') == environment
        record = dict(
            rows=before['rows'] if same else {},
            failures={},
            finished=False,
            environment=environment,
            date=date.today().isoformat(),
            seconds=before['seconds'] if same else 0.0,
            command=command,
        )
        self._write(name, record)
        return set(record['rows'])

    def update(self, name: str, **changes) -> None:
        """Change keys of a part's record; of ``rows`` and ``failures``, add what is given."""
        record = self.parts[name]
        for key, value in changes.items():
            record[key] = {**record[key], **value} if key in ('rows', 'failures') else value
        self._write(name, record)

    def remove(self, name: str) -> None:
        """Forget a part."""
        self._write(name, None)

    def _write(self, name: str, record: dict | None) -> None:
        parts = {**self.parts, name: record}
        content = dict(schema=SCHEMA, dry_run=self.dry_run, parts={key: one for key, one in parts.items() if one})
        write_text(self.path, json.dumps(content, indent=1) + '\n')
