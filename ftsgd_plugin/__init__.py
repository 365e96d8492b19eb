"""Fine-tune vision models with SGD: freeze-embed and its companions for MMPretrain.

Importing the package registers its components in MMPretrain's registries::

    custom_imports = dict(imports=['ftsgd_plugin'])

Public names, listed in ``__init__.pyi``, are imported on first use. In a process without MMEngine the import itself
loads neither torch nor MMEngine, see :mod:`ftsgd_plugin.registration`.
"""

try:
    import lazy_loader

    from .registration import register_components
    from .utils.environment import explain_import_errors
except ModuleNotFoundError as error:  # a checkout that was updated without being installed again
    missing = (error.name or '').partition('.')[0]
    if missing not in ('lazy_loader', 'packaging', 'wrapt'):
        raise
    raise ImportError(
        f'ftsgd_plugin needs {missing} and it is not installed; run: pip install lazy_loader packaging wrapt'
    ) from None

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = explain_import_errors(__getattr__)

register_components()
