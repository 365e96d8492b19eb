"""Make small runs cheap: most of their CPU time would go into what grows with the program, not with the run."""

import gc
import os
from pathlib import Path


def make_small_runs_cheap() -> None:
    """Skip yapf and keep the garbage collector from visiting the imported modules.

    MMEngine formats the config five times per run and collects garbage for every data set. Unformatted, the text of a
    config is the same Python. Cold processes do both, see :func:`without_yapf`. Nothing is collected here: in a forked
    child that would copy every page of the imported modules.
    """
    import mmengine.config.config

    mmengine.config.config.FormatCode = lambda text, **options: (text, False)
    gc.freeze()


def without_yapf(directory: Path) -> str:
    """A ``PYTHONPATH`` with a yapf that leaves the text as it is, for cold processes; written into ``directory``."""
    package = directory / 'yapf/yapflib'
    package.mkdir(parents=True)
    (directory / 'yapf/__init__.py').write_text("__version__ = '0.43.0'\n")
    (package / '__init__.py').touch()
    (package / 'yapf_api.py').write_text('def FormatCode(text, **options):\n    return text, False\n')
    return os.pathsep.join([str(directory), *filter(None, [os.environ.get('PYTHONPATH')])])
