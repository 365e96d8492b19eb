"""Replace an attribute or a module at run time, and restore the earlier one."""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_MISSING = object()


class replaced(contextlib.AbstractContextManager):
    """Replace an attribute of an instance, a class or a module until :meth:`undo` or the end of a ``with`` block.

    Only the target's own attribute is touched: a method replaced on an instance hides the method of its class, and
    undoing it removes the attribute from the instance again.

    Args:
        target: Instance, class or module that holds or inherits the attribute.
        name: Name of the attribute.
        value: New value. A function set on an instance is not bound: it is called without ``self``.

    Raises:
        AttributeError: ``target`` has no such attribute.

    Examples:
        >>> with replaced(torch.cuda, 'set_device', lambda device: None):
        >>>     init_dist('pytorch', backend='gloo')

        For longer than a block:

        >>> patch = replaced(optim_wrapper, 'step', measured_step)
        >>> patch.undo()
    """

    def __init__(self, target: Any, name: str, value: Any) -> None:
        if not hasattr(target, name):
            raise AttributeError(f'{target!r} has no attribute {name!r} to replace')
        self._target, self._name, self._value = target, name, value
        self._earlier = vars(target).get(name, _MISSING)
        self._active = True
        setattr(target, name, value)

    def undo(self) -> None:
        """Restore the earlier attribute; a second call does nothing.

        A value that somebody else has set in the meantime stays.
        """
        if not self._active:
            return
        self._active = False
        if vars(self._target).get(self._name, _MISSING) is not self._value:
            return
        if self._earlier is _MISSING:
            delattr(self._target, self._name)
        else:
            setattr(self._target, self._name, self._earlier)

    def __exit__(self, *exception) -> None:
        self.undo()


@contextlib.contextmanager
def stand_in(name: str, module: ModuleType | None) -> Iterator[None]:
    """Let ``import NAME`` find another module within a ``with`` block, unless the real one is imported already.

    Args:
        name: Name of the module.
        module: The module to find instead; with ``None`` the import raises ``ModuleNotFoundError``.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module
    try:
        yield
    finally:
        if sys.modules.get(name) is module:
            sys.modules.pop(name, None)
