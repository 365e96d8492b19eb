"""The register of layer lists that are written by hand."""

from collections.abc import Callable, Iterator

from torch import nn

from .entry import Entry

LayerList = Callable[[nn.Module], Iterator[Entry]]
_LAYER_LISTS: dict[str, LayerList] = {}


def register_layer_list(*backbones: str | type[nn.Module]) -> Callable[[LayerList], LayerList]:
    """Register the layer list of one or more backbone classes (subclasses included).

    Args:
        *backbones: Classes, or their import paths (``'package.module.Class'``), which are not imported.

    Returns:
        Callable: Decorator for a generator function ``backbone -> Entry, Entry, ...`` in order from input to output.
    """

    def register(function: LayerList) -> LayerList:
        for backbone in backbones:
            _LAYER_LISTS[backbone if isinstance(backbone, str) else path_of(backbone)] = function
        return function

    return register


def written_list(module: nn.Module) -> LayerList | None:
    """The list that is registered for a module's class or one of its base classes, if there is one."""
    return next((_LAYER_LISTS[path_of(cls)] for cls in type(module).__mro__ if path_of(cls) in _LAYER_LISTS), None)


def path_of(cls: type) -> str:
    """A class's import path."""
    return f'{cls.__module__}.{cls.__qualname__}'
