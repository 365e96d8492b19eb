"""Where the parameters of an optimizer are in the model, as far as a schedule must know. Needs PyTorch alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..layers import Layer

_LAYER = '_ftsgd_layer'  # on a parameter: name and group of its layer, because schedules know no model


@dataclass(frozen=True)
class Place:
    """The place of a parameter in the layer list.

    Attributes:
        layer: Name of its layer, such as ``'blocks.3.attn'``.
        role: The layer's role, one of :data:`ftsgd_plugin.layers.ROLES`.
        block: The layer's block, counted from the input; ``None`` outside blocks.
        stage: The authors' coarser name of the layer; all layers of a convnet's stage have the same.
    """

    layer: str
    role: str
    block: int | None
    stage: str

    @property
    def block_name(self) -> str:
        """``'blocks.3'``, whatever the architecture calls its blocks; the layer's name outside blocks."""
        return self.layer if self.block is None else f'blocks.{self.block}'


def mark_layers(layers: Iterable[Layer]) -> None:
    """Note on every parameter which layer it is in, for :func:`places_of`."""
    for layer in layers:
        for param in layer.params.values():
            setattr(param, _LAYER, (layer.name, layer.group))


def places_of(groups: Iterable[Mapping[str, Any]]) -> list[list[Place]]:
    """The place of every parameter, by group of the optimizer.

    Args:
        groups: The groups, with ``name``, ``role`` and ``block``.
    """
    found = []
    for group in groups:
        name = str(group.get('name', group['role']))
        marks = [getattr(param, _LAYER, (name, name)) for param in group['params']]
        found.append([Place(layer, group['role'], group['block'], stage) for layer, stage in marks])
    return found


def places_of_layers(layers: Iterable[Layer]) -> list[list[Place]]:
    """The place of every layer, as if each had a group of the optimizer to itself."""
    return [[Place(layer.name, layer.role, layer.block, layer.group)] for layer in layers]


def matching(pattern: str, places: Iterable[Place]) -> set[str]:
    """Names of the layers that a name or glob means; ``blocks.3`` is the whole block of that index."""
    return {place.layer for place in places if fnmatchcase(place.layer, pattern) or _names_block(pattern, place)}


def _names_block(pattern: str, place: Place) -> bool:
    return place.block is not None and fnmatchcase(place.block_name, pattern)


def short_names(names: Iterable[str], places: Iterable[Place]) -> list[str]:
    """The shortest list that means these layers: a block by its name where all its layers are among them.

    Args:
        names: Names of layers.
        places: All places that there are, in the order of the layer list.
    """
    names, blocks = set(names), {}
    places = list(places)
    for place in places:
        blocks.setdefault(place.block_name, set()).add(place.layer)
    return list(
        dict.fromkeys(
            place.block_name if blocks[place.block_name] <= names else place.layer
            for place in places
            if place.layer in names
        )
    )


def units_of(places: Iterable[Place], per: str) -> dict[int, int]:
    """The units that open one after another: block -> index of its unit, from the input.

    Args:
        places: All places.
        per: ``'block'``, or ``'stage'``: blocks that follow each other in one stage. The blocks of a ViT are stages of
            their own.
    """
    stages: dict[int, str] = {}
    for place in places:
        if place.block is not None:
            stages.setdefault(place.block, place.stage)
    if per == 'block':
        return {block: block for block in range(max(stages, default=-1) + 1)}
    units: dict[int, int] = {}
    index, before = -1, None
    for block in sorted(stages):
        index += stages[block] != before
        units[block], before = index, stages[block]
    return units


def flat(places: Sequence[Sequence[Place]]) -> list[Place]:
    """All places, group after group."""
    return [place for group in places for place in group]
