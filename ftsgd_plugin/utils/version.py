"""The version, which pyproject.toml states."""

import importlib.metadata
import re
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[2] / 'pyproject.toml'


def checkout_project() -> str | None:
    """Text of the ``pyproject.toml`` of the running code; ``None`` if the code is not in a checkout.

    In a checkout it is decisive: an installed version beside it, or the metadata of an editable install, may be older.
    """
    text = _PROJECT.read_text('utf-8') if _PROJECT.is_file() else ''
    return text if re.search(r'^name = "ftsgd_plugin"$', text, re.MULTILINE) else None


def _version() -> str:
    project = checkout_project()
    if project is None:
        return importlib.metadata.version('ftsgd_plugin')
    return re.search(r'^version = "(.+)"$', project, re.MULTILINE).group(1)


__version__ = _version()
