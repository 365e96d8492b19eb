"""Bytes of tensors and of optimizer state, kept or predicted on the meta device."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import Optimizer

from ..utils.local import local_value
from ..utils.patching import replaced
from .flash import held_optimizer_bytes, is_flash
from .library_optimizers import prepare
from .rates import MEASURED

# Of a group: where its layer stands and what its rate was multiplied by, which no optimizer reads.
_STAGE_KEYS = ('name', 'role', 'block', MEASURED)
_TABLES = ('qmap1', 'qmap2')  # in the state of every parameter of bitsandbytes: one table for all of them


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Total size of tensors in bytes; of those that are divided over the ranks, this rank's part."""
    return sum(part.numel() * part.element_size() for part in map(local_value, tensors))


def state_tensors(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    """The tensors of an optimizer's state, e.g. AdamW's moments, each once; none before the first step."""
    seen = set()
    for state in optimizer.state.values():
        for value in state.values():
            for tensor in stored_tensors(value):
                if id(tensor) not in seen:  # bitsandbytes has one table for all parameters
                    seen.add(id(tensor))
                    yield tensor


def stored_tensors(value: object) -> Iterator[torch.Tensor]:
    """The tensors that hold the numbers of a value: of a compressed tensor its codes and scales."""
    if isinstance(value, torch.Tensor):
        if not hasattr(value, '__tensor_flatten__'):
            yield value
            return
        for name in value.__tensor_flatten__()[0]:
            yield from stored_tensors(getattr(value, name))
    elif is_flash(value):  # moments in an object that is not a tensor
        yield from value.state_dict('', allow_quantized=True).values()


def optimizer_state_bytes(optimizer: Optimizer) -> int:
    """Bytes of optimizer state allocated so far (0 before the first step)."""
    return tensor_bytes(state_tensors(optimizer))


def meta_optimizer(
    build: Callable[[list[list[nn.Parameter]]], Optimizer],
    groups: Sequence[Iterable[nn.Parameter]],
    foreach: bool = False,
) -> Optimizer:
    """Build an optimizer over copies of parameters on the meta device, with gradients, ready to step.

    Args:
        build: Builds the optimizer from the copies, grouped as ``groups``.
        groups: The parameters.
        foreach: Whether the update takes all tensors at once, PyTorch's default on CUDA, and not one by one. An
            optimizer that sets ``foreach`` itself keeps its choice.
    """
    twins = [
        [nn.Parameter(torch.empty(param.shape, dtype=param.dtype, device='meta')) for param in params]
        for params in groups
    ]
    optimizer = build(twins)
    prepare(optimizer)
    for group in optimizer.param_groups:
        for twin in group['params']:
            twin.grad = torch.empty_like(twin)
        if 'foreach' in group and group['foreach'] is None:
            group['foreach'] = foreach
    return optimizer


@contextmanager
def values_of_meta_tensors() -> Iterator[None]:
    """Let ``item()`` of a meta tensor, which has no value, be 1.0: Adafactor reads norms, and sizes depend on none."""
    item = torch.Tensor.item

    def value(tensor: torch.Tensor) -> float:
        return 1.0 if tensor.is_meta else item(tensor)

    with replaced(torch.Tensor, 'item', value):
        yield


def predict_state_bytes(optimizer: Optimizer) -> int | None:
    """Bytes of state that the optimizer will keep, from one step of a copy on the meta device.

    Parameters of one shape and type under the same settings keep the same state: the copy has one of each, as a step
    on the meta device takes milliseconds per parameter.

    Returns:
        int | None: Bytes, or ``None`` for an optimizer that cannot step on meta tensors.
    """
    if is_flash(optimizer):  # its kernels take none
        return held_optimizer_bytes(optimizer)
    alike: Counter[tuple] = Counter()  # (settings, shape, type) -> number of parameters
    settings: list[dict] = []
    kept: list[dict[tuple, nn.Parameter]] = []
    for group in optimizer.param_groups:
        own = {key: value for key, value in group.items() if key not in ('params', 'foreach', 'fused')}
        text = repr([value for key, value in own.items() if key not in _STAGE_KEYS])
        first = {}
        for param in group['params']:
            key = text, param.shape, param.dtype
            if key not in alike:
                first[key] = param
            alike[key] += 1
        if first:
            settings.append(own)
            kept.append(first)

    def build(twins: list[list[nn.Parameter]]) -> Optimizer:
        groups = [{**own, 'params': params} for own, params in zip(settings, twins)]
        return type(optimizer)(groups, lr=settings[0].get('lr', 1e-3))

    try:
        copy = meta_optimizer(build, [first.values() for first in kept])
        with values_of_meta_tensors():
            copy.step()
        keys = [key for first in kept for key in first]
        twins = [twin for group in copy.param_groups for twin in group['params']]
        own = sum(alike[key] * _state_bytes_of(copy, twin) for key, twin in zip(keys, twins, strict=True))
        tables = {name: value for state in copy.state.values() for name, value in state.items() if name in _TABLES}
        return own + tensor_bytes(tables.values())
    except Exception:  # any optimizer may be configured; a missing number must not stop the run
        return None


def _state_bytes_of(optimizer: Optimizer, param: nn.Parameter) -> int:
    state = optimizer.state.get(param, {})
    kept = (value for name, value in state.items() if name not in _TABLES)
    return tensor_bytes(tensor for value in kept for tensor in stored_tensors(value))
