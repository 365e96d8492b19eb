"""Fine-tune vision models with SGD: freeze-embed and its companions for MMPretrain.

Importing the package registers its components in MMPretrain's registries::

    custom_imports = dict(imports=['ftsgd_plugin'])
"""

from .stack import require_stack

require_stack()

from . import checkpoints, datasets, evaluation, hooks, loops, models, optim  # noqa: E402, F401
from .configs import config_path  # noqa: E402
from .version import __version__  # noqa: E402

checkpoints.allow_mmengine_globals()

__all__ = ['__version__', 'config_path']
