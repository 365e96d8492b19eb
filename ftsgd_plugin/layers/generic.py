"""Layer lists of networks that nobody has written by hand: proposed from what their library says, then verified."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from ..utils.errors import UserError
from .entry import Entry
from .register import LayerList, path_of, written_list
from .sketch import sketch, source
from .trace import owners_of, structure, verify

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


_OURS = f'{__package__}.architectures'
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
        for library in _LIBRARIES:
            if path_of(cls).startswith(f'{library.prefix}.') and library.is_network(module):
                return library
    return None


def layer_list_of(module: nn.Module) -> LayerList | None:
    """The layer list of a network: the one written by hand for its class, else a verified one from its library.

    A list of this package that does not fit a variant of its class (other blocks, another patch embedding) gives way
    to the verified one.

    Args:
        module: Any module.

    Returns:
        Callable: Function ``network -> Entry, Entry, ...``; ``None`` if neither exists.
    """
    written = written_list(module)
    if library_of(module) is None:
        return written
    if written is None:
        return generic_list
    return functools.partial(_written_or_generic, written) if written.__module__ == _OURS else written


def _written_or_generic(written: LayerList, net: nn.Module) -> list[Entry]:
    try:
        entries, refusal = list(written(net)), None
    except UserError as error:
        entries, refusal = [], error
    if len(owners_of(net, entries)) == sum(1 for _ in net.parameters()):
        return entries
    try:
        return generic_list(net)
    except UserError:
        if refusal is None:
            raise
        raise refusal from None


def image_shape(net: nn.Module) -> tuple[int, ...]:
    """Channels, height and width of the images that a network takes; (3, 224, 224) if its library does not say."""
    library = library_of(net)
    return (3, 224, 224) if library is None else tuple(library.shape(net))


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
    return UserError(
        f'no layer list for {path_of(type(net))} ({reason}); paste this list and correct its roles: '
        + source(net, sketch(net))
    )
