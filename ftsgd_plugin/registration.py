"""How the components of this package reach MMPretrain's registries.

With MMEngine in the process, which is always so for ``custom_imports``, importing the package imports the components at
once. Without it, the import must not load torch: two import hooks wait instead.

- When ``mmpretrain.registry`` has been imported, :mod:`ftsgd_plugin.components` joins the locations of its registries.
  MMEngine imports these at the first lookup, as it does with MMPretrain's own components. Importing the components in
  the hook itself would be a circular import: ``import mmpretrain`` imports its registries halfway.
- When ``mmengine.runner`` has been imported, ``torch.load`` is allowed to read MMEngine's checkpoints.
"""

import importlib
import sys
from types import ModuleType

import wrapt

COMPONENTS = 'ftsgd_plugin.components'
# Registries of mmpretrain.registry that hold a component of this package.
REGISTRIES = (
    'DATASETS',
    'HOOKS',
    'LOOPS',
    'METRICS',
    'MODELS',
    'MODEL_WRAPPERS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'PARAM_SCHEDULERS',
    'TRANSFORMS',
)


def register_components() -> None:
    """Register all components now if MMEngine is in the process, else when MMPretrain is."""
    if 'mmengine' in sys.modules:
        importlib.import_module(COMPONENTS)
    else:
        wrapt.register_post_import_hook(_add_location, 'mmpretrain.registry')
        wrapt.register_post_import_hook(_allow_checkpoints, 'mmengine.runner')


def _add_location(registry_module: ModuleType) -> None:
    # The runner looks up model wrappers in MMEngine's own registry, the parent.
    registries = [getattr(registry_module, name) for name in REGISTRIES]
    for registry in (*registries, registry_module.MODEL_WRAPPERS.parent):
        # Not in place: registries that were made without locations share one default list.
        registry._locations = [*registry._locations, COMPONENTS]
        registry._imported = False  # an earlier lookup has closed the list


def _allow_checkpoints(runner_module: ModuleType) -> None:
    # The import is enough; that module may itself be the one which is importing mmengine.runner.
    importlib.import_module('ftsgd_plugin.checkpoint.io')
