"""Fine-tune vision models with SGD: freeze-embed and its companions for MMPretrain.

Importing the package registers its components in MMPretrain's registries::

    custom_imports = dict(imports=['ftsgd_plugin'])
"""

from .utils.environment import require_stack

require_stack()

from . import datasets, evaluation, hooks, models, optim  # noqa: E402, F401
from .checkpoint import io as checkpoints  # noqa: E402
from .evaluation import group_accuracy  # noqa: E402, F401
from .runner import loops  # noqa: E402, F401
from .utils.paths import config_path  # noqa: E402
from .utils.version import __version__  # noqa: E402

checkpoints.allow_mmengine_globals()

__all__ = ['__version__', 'config_path']
