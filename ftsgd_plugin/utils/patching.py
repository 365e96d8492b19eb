"""Replace an attribute at run time, and put the earlier one back."""

from contextlib import AbstractContextManager
from typing import Any

_MISSING = object()


class replaced(AbstractContextManager):
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
