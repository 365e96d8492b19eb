"""Which modules of a model are sharded together: one unit per block of the layer list, and the rest of the model."""

from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from ...layers import Layer
from ...utils.errors import UserError

_NOT_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)  # containers without a forward pass


def block_modules(model: nn.Module, layers: Sequence[Layer]) -> dict[str, nn.Module]:
    """The modules that make up the blocks, from input to output; most blocks are one module.

    What is outside the blocks (embedding, position, final norm, head) is not in them.

    Args:
        model: The model, not wrapped.
        layers: Its layer list.

    Returns:
        dict: Name -> module; every parameter of each belongs to one block.

    Raises:
        UserError: A parameter is shared between modules that would be gathered at different times, or has no dimension.
    """
    for name, param in model.named_parameters():
        if param.ndim == 0:
            raise UserError(
                f"model_wrapper_cfg.type='ShardedDataParallel': {name} has no dimension to divide; use "
                "type='MMDistributedDataParallel'."
            )
    blocks: dict[int, set[int]] = defaultdict(set)
    for layer in layers:
        if layer.block is not None:
            blocks[layer.block].update(map(id, layer.params.values()))
    found: dict[str, nn.Module] = {}
    for _, ids in sorted(blocks.items()):
        found.update(_covering('', model, ids))
    _refuse_shared(model, found)
    return found


def _covering(name: str, module: nn.Module, ids: set[int]) -> dict[str, nn.Module]:
    """The largest callable modules all of whose parameters are among ``ids``."""
    own = [id(param) for param in module.parameters()]
    if ids.isdisjoint(own):
        return {}
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    opened = isinstance(module, _NOT_CALLED) or (isinstance(module, nn.Sequential) and len(children) == 1)
    if ids.issuperset(own) and not opened:
        return {name: module}
    found: dict[str, nn.Module] = {}
    for child_name, child in module.named_children():
        found.update(_covering(f'{name}.{child_name}' if name else child_name, child, ids))
    return found


def _refuse_shared(model: nn.Module, units: dict[str, nn.Module]) -> None:
    unit_of = {id(module): name for name, unit in units.items() for module in unit.modules()}
    places: dict[int, tuple[str, str]] = {}  # parameter -> its first name, and the unit there
    for prefix, module in model.named_modules():
        for name, param in module.named_parameters(recurse=False):
            full, unit = f'{prefix}.{name}', unit_of.get(id(module), '')
            first, other = places.setdefault(id(param), (full, unit))
            if other != unit:
                raise UserError(
                    f"model_wrapper_cfg.type='ShardedDataParallel': {full} and {first} are one parameter in two parts "
                    "that are gathered at different times; use type='MMDistributedDataParallel'."
                )
