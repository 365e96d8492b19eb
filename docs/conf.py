"""Sphinx: the documentation from docs/*.md and the docstrings.

    python -m sphinx -W --keep-going docs docs/_build

Links into MMEngine, MMPretrain and PyTorch come from their published inventories. Where those cannot be reached, or
with ``FTSGD_DOCS_OFFLINE=1``, they come from `INVENTORIES` below: the build needs no network and has no warnings.
"""

import os
import zlib
from pathlib import Path

from ftsgd_plugin import __version__

project = 'ftsgd_plugin'
version = release = __version__
author = 'the authors of ftsgd_plugin'
exclude_patterns = ['_build']
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.intersphinx', 'sphinx.ext.napoleon']

html_theme = 'furo'
html_title = f'ftsgd_plugin {version}'

myst_heading_anchors = 3
suppress_warnings = ['myst.header']  # an included file starts at the level of its place

autodoc_typehints = 'none'  # Google docstrings have the types
autodoc_member_order = 'bysource'
autodoc_class_signature = 'mixed'
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Project -> address, name of its documentation, object -> (role, page). What the pages and docstrings here refer to.
INVENTORIES = {
    'mmengine': (
        'https://mmengine.readthedocs.io/en/latest/',
        {
            'mmengine.runner.Runner': ('class', 'api/generated/mmengine.runner.Runner.html'),
            'mmengine.hooks.Hook': ('class', 'api/generated/mmengine.hooks.Hook.html'),
            'mmengine.optim.OptimWrapper': ('class', 'api/generated/mmengine.optim.OptimWrapper.html'),
            'mmengine.optim.DefaultOptimWrapperConstructor': (
                'class',
                'api/generated/mmengine.optim.DefaultOptimWrapperConstructor.html',
            ),
        },
    ),
    'mmpretrain': (
        'https://mmpretrain.readthedocs.io/en/latest/',
        {
            'mmpretrain.models.classifiers.ImageClassifier': (
                'class',
                'api/generated/mmpretrain.models.classifiers.ImageClassifier.html',
            ),
        },
    ),
    'torch': (
        'https://docs.pytorch.org/docs/stable/',
        {
            'torch.optim.SGD': ('class', 'generated/torch.optim.SGD.html'),
            'torch.optim.AdamW': ('class', 'generated/torch.optim.AdamW.html'),
            'torch.nn.parallel.DistributedDataParallel': (
                'class',
                'generated/torch.nn.parallel.DistributedDataParallel.html',
            ),
        },
    ),
}


def _write_inventory(name: str, objects: dict[str, tuple[str, str]]) -> str:
    """The objects as an inventory file of Sphinx; returns its path."""
    path = Path(__file__).parent / '_build/inventories' / f'{name}.inv'
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ''.join(f'{name} py:{role} 1 {page}#$ -\n' for name, (role, page) in objects.items())
    header = f'# Sphinx inventory version 2\n# Project: {name}\n# Version: \n# zlib-compressed.\n'
    path.write_bytes(header.encode() + zlib.compress(lines.encode()))
    return str(path)


_online = [] if os.environ.get('FTSGD_DOCS_OFFLINE') else [None]  # None: the published inventory
intersphinx_mapping = {
    name: (address, (*_online, _write_inventory(name, objects))) for name, (address, objects) in INVENTORIES.items()
}
intersphinx_timeout = 5
