"""The config file of a fine-tuning: written again whenever something is decided, unless the user has edited it."""

import hashlib
from pathlib import Path

from mmengine.config import Config

from ..runner.build import read_config
from ..utils.errors import UserError
from ..utils.files import write_text
from .state import State

CONFIG = 'config.py'  # in the work directory


class WrittenConfig:
    """``config.py`` of a work directory; the state knows the texts that were written.

    Args:
        state: The state of the work directory.
    """

    def __init__(self, state: State) -> None:
        self.path: Path = state.directory / CONFIG
        self._state = state

    def check(self) -> None:
        """Find that the user has changed the file.

        Raises:
            UserError: The user has: it would be overwritten.
        """
        if self._digests() and self.path.is_file() and _digest(self.path.read_text('utf-8')) not in self._digests():
            raise UserError(
                f'{self.path}: has been edited since this command wrote it; train it with `python tools/train.py '
                f'{self.path}`, or move it away to continue.'
            )

    def write(self, text: str) -> Config:
        """Write the file and read it back as any tool reads it."""
        digests = [digest for digest in self._digests() if digest != _digest(text)]
        self._state.put('config', {'written': [*digests, _digest(text)]})  # first: a kill may come before the file
        write_text(self.path, text)
        return read_config(str(self.path))

    def _digests(self) -> list[str]:
        return (self._state.get('config') or {}).get('written', [])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
