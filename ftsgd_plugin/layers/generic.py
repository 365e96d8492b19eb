"""Layer lists of networks that nobody has written by hand: proposed from what their library says, then verified."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from ..utils.errors import UserError
from .entry import Entry
from .sketch import sketch, source
from .trace import structure, verify

Proposal = Callable[[nn.Module], Iterator[Entry]]
Shape = Callable[[nn.Module], Sequence[int]]


@dataclass(frozen=True)
class Library:
    """How the networks of a library are listed.

    Attributes:
        prefix: Import path that the classes of its networks begin with, e.g. ``'timm.models'``.
        propose: Generator function ``network -> Entry, Entry, ...`` from input to output.
        is_network: Whether a module of the library is a whole network and not a part of one.
        shape: Channels, height and width of the images that a network takes.
    """

    prefix: str
    propose: Proposal
    is_network: Callable[[nn.Module], bool]
    shape: Shape


_LIBRARIES: list[Library] = []
# What a run lists several times.
_ACCEPTED: WeakKeyDictionary[nn.Module, tuple[tuple, list[Entry]]] = WeakKeyDictionary()


def register_generic(
    *prefixes: str,
    network: Callable[[nn.Module], bool] = lambda module: True,
    shape: Shape = lambda net: (3, 224, 224),
) -> Callable[[Proposal], Proposal]:
    """Register a proposal of layer lists for all networks of a library; hand-written lists come before it.

    A proposed list is used only if :func:`ftsgd_plugin.layers.trace.verify` accepts it.

    Args:
        *prefixes: Import paths that the classes of the library's networks begin with (``'timm.models'``). They are
            not imported.
        network: Whether a module whose class has such a path is a whole network. Defaults to all.
        shape: Channels, height and width of the images that a network takes. Defaults to (3, 224, 224).

    Returns:
        Callable: Decorator for a generator function ``network -> Entry, Entry, ...`` in order from input to output.
    """

    def register(propose: Proposal) -> Proposal:
        _LIBRARIES.extend(Library(prefix, propose, network, shape) for prefix in prefixes)
        return propose

    return register


def library_of(module: nn.Module) -> Library | None:
    """The library that a network is from, if it has a proposal; a user's subclass counts as the library's."""
    for cls in type(module).__mro__:
        path = f'{cls.__module__}.{cls.__qualname__}'
        for library in _LIBRARIES:
            if path.startswith(f'{library.prefix}.') and library.is_network(module):
                return library
    return None


def generic_list(net: nn.Module) -> list[Entry]:
    """The verified list of a network of a known library.

    Args:
        net: A network for which :func:`library_of` finds a library.

    Returns:
        list[Entry]: From input to output.

    Raises:
        UserError: The proposal is refused, with the reason and a list to start from.
    """
    library, key = library_of(net), structure(net)
    if net not in _ACCEPTED or _ACCEPTED[net][0] != key:
        try:
            entries = list(library.propose(net))
            verify(net, entries, library.shape(net))
        except UserError as error:
            raise no_list(net, str(error)) from error
        _ACCEPTED[net] = key, entries
    return _ACCEPTED[net][1]


def no_list(net: nn.Module, reason: str) -> UserError:
    """The error for a network without a layer list: its class, why, and a list to paste, correct and run."""
    cls = type(net)
    return UserError(
        f'no layer list for {cls.__module__}.{cls.__qualname__} ({reason}); paste this list and correct its roles: '
        + source(net, sketch(net))
    )
