"""Where the config files and programs are, in a checkout and in an installed wheel; where caches are."""

import os
from difflib import get_close_matches
from pathlib import Path

from .errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]

PREVIOUS = 'previous'  # directory in a work_dir: the checkpoint before the last, where only one is kept


def config_path(name: str) -> str:
    """Absolute path of a config of this project, for use in other projects.

    A foreign config inherits ours with one line (MMEngine evaluates ``_base_`` before it imports anything)::

        _base_ = __import__('ftsgd_plugin').config_path('vit-tiny_freeze-embed_digits.py')

    Args:
        name: Path below ``configs/``, with or without ``.py``, e.g. ``'_base_/methods/freeze-embed.py'``.

    Raises:
        UserError: There is no such config; the message names the nearest three.
    """
    name = name if name.endswith('.py') else f'{name}.py'
    roots = (_PACKAGE / '.mim/configs', _PACKAGE.parent / 'configs')  # wheel, checkout
    for root in roots:
        if (root / name).is_file():
            return str(root / name)
    root = next((root for root in roots if root.is_dir()), roots[0])
    known = sorted(file.relative_to(root).as_posix() for file in root.rglob('*.py'))
    nearest = ', '.join(get_close_matches(name, known, n=3, cutoff=0.0)) or 'none'
    raise UserError(f'{name}: no such config in {root}; the nearest are: {nearest}.')


def tool_path(name: str) -> str:
    """Absolute path of a program of ``tools/``, e.g. ``'train'``."""
    roots = (_PACKAGE / '.mim/tools', _PACKAGE.parent / 'tools')  # wheel, checkout
    return str(next((root for root in roots if root.is_dir()), roots[-1]) / f'{name}.py')


def cache_directory() -> Path:
    """``ftsgd_plugin`` in ``XDG_CACHE_HOME``, by default ``~/.cache``; it need not exist."""
    root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(root).expanduser() / 'ftsgd_plugin'
