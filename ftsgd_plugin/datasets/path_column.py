"""The paths of a table: relative to the root, normal, each once."""

from array import array
from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import UserError
from .csv_reader import Unique, shown

# Where a batch of paths, one a line, holds one of these, they are looked at one by one: the path may not be normal.
_ODD = ('//', '/.', '\n.', '\n/', '/\n', '\n\n', ' \n', '\\')


class PathColumn:
    """Paths relative to ``root``, batch by batch.

    Args:
        root: The directory that holds every image.
        suffix: Added to every path.
    """

    def __init__(self, root: str, suffix: str = '') -> None:
        self.root, self.suffix = root, suffix
        self.paths: list[str] = []
        self._seen: set[int] = set()  # an image in two tables is listed twice as well

    def extend(self, place: str, lines: array, written: Sequence[str], prefix: str) -> None:
        """Append paths.

        Args:
            place: The table, for messages.
            lines: Their lines.
            written: As the table has them.
            prefix: Directory that they are relative to, below ``root``; empty or with ``/`` at its end.

        Raises:
            UserError: One is blank, occurs twice or lies outside ``root``.
        """
        text = '\n'.join(['', *written, ''])
        lines_only = text.count('\n') == len(written) + 1 and text.replace('\n', '').isprintable()
        odd = not lines_only or any(part in text for part in _ODD) or any(part in f'\n{prefix}' for part in _ODD)
        if not odd and (prefix or self.suffix):
            written = [f'{prefix}{name}{self.suffix}' for name in written]
        if not odd:
            new = set(map(hash, written))
            if len(new) == len(written) and self._seen.isdisjoint(new):
                self._seen |= new
                self.paths += written
                return
            prefix, suffix = '', ''
        else:
            suffix = self.suffix
        unique = Unique(place)
        unique.seen = self._seen
        for line, name in zip(lines, written):
            path = f'{prefix}{name}{suffix}' if name.strip() else ''
            if path[:1] == '/' or name[:1] == '/' or '..' in path or '\\' in path:
                path = self._inside(f'{place}:{line}' if line else place, path, name, suffix)
            self.paths.append(unique.check(line, path))

    def _inside(self, where: str, path: str, written: str, suffix: str) -> str:
        """A path that is absolute, or leads upwards, relative to the root; refuse it if it leaves the root."""
        if '\\' in path and not Path(self.root, path).is_file():
            raise UserError(f'{where}: {shown(written)} has the separators of Windows; write / instead of \\.')
        for base in (Path(self.root).absolute(), Path(self.root).resolve()):  # the root may be reached by a link
            absolute = Path(f'{written}{suffix}') if written[:1] == '/' else base / path
            if absolute.parts[: len(base.parts)] != base.parts:
                continue
            parts: list[str] = []
            for part in absolute.parts[len(base.parts) :]:
                if part != '..':
                    parts.append(part)
                elif parts:
                    parts.pop()
                else:
                    break
            else:
                return '/'.join(parts)
        raise UserError(
            f'{where}: {shown(written)} lies outside {self.root}; set data_root to a directory that holds every image.'
        )
