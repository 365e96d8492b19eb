"""The version, which pyproject.toml states."""

import importlib.metadata
import re
from pathlib import Path


def _version() -> str:
    try:
        return importlib.metadata.version('ftsgd_plugin')
    except importlib.metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        project = (Path(__file__).parents[2] / 'pyproject.toml').read_text()
        return re.search(r'^version = "(.+)"$', project, re.MULTILINE).group(1)


__version__ = _version()
