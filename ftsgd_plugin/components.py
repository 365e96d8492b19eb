"""Importing this module registers every component of the package; :mod:`ftsgd_plugin.registration` says when.

Raises:
    StackError: A requirement is missing or of an unsupported version.
"""

from .utils.environment import check_stack

check_stack()

from . import datasets, hooks, models, optim  # noqa: E402, F401
from .checkpoint import io  # noqa: E402, F401
from .evaluation import group_accuracy  # noqa: E402, F401
from .inference.inferencer import support_inferencer  # noqa: E402
from .runner import loops  # noqa: E402, F401

for _name in optim.__all__:
    getattr(optim, _name)  # its names are imported on first use
support_inferencer()
