"""What one line of a layer list says."""

from collections.abc import Iterable
from dataclasses import dataclass

ROLES = ('embed', 'position', 'block', 'norm', 'projection', 'head')


@dataclass(frozen=True, init=False)
class Entry:
    """One layer in a layer list: its name, its role, and the attribute paths of its parts inside the backbone.

    Args:
        name: Layer name.
        role: One of ``ROLES``.
        *members: Attribute paths (``'patch_embed.proj'``, ``'pos_embed'``) of modules or parameters. Paths that do not
            exist or have no parameter are skipped, and so is an entry without any parameter.
        block: Block index, from the input; ``None`` outside blocks.
        group: The authors' coarser name. Defaults to ``name``.
        earlier: Those of ``members`` that layer-wise learning-rate decay counts with the block before: the merging of
            patches that Swin stores in the stage before.

    Raises:
        ValueError: ``role`` is not one of ``ROLES``.
    """

    name: str
    role: str
    members: tuple[str, ...]
    block: int | None
    group: str
    earlier: tuple[str, ...]

    def __init__(
        self,
        name: str,
        role: str,
        *members: str,
        block: int | None = None,
        group: str | None = None,
        earlier: Iterable[str] = (),
    ) -> None:
        if role not in ROLES:
            raise ValueError(f'layer {name!r}: role {role!r} is not one of {", ".join(ROLES)}.')
        group = name if group is None else group
        for field_name, value in zip(self.__dataclass_fields__, (name, role, members, block, group, tuple(earlier))):
            object.__setattr__(self, field_name, value)  # frozen; the paths are positional, so __init__ is our own
