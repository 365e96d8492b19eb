"""Low-rank adapters (LoRA) inside a network: finding them, and the network as it is without them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .register import path_of

_ADAPTER = 'mmpretrain.models.peft.lora.LoRALinear'  # by its path: nothing is imported to find one


def _adapters(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, part) for name, part in model.named_modules() if path_of(type(part)) == _ADAPTER]


def has_adapters(model: nn.Module) -> bool:
    """Whether a model has low-rank adapters."""
    return bool(_adapters(model))


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Let a model have its original layers, under their original names, until the context ends."""
    adapters = _adapters(model)

    def put(choose) -> None:
        for name, adapter in adapters:
            parent, _, attribute = name.rpartition('.')
            setattr(model.get_submodule(parent), attribute, choose(adapter))

    put(lambda adapter: adapter.original_layer)
    try:
        yield
    finally:
        put(lambda adapter: adapter)
