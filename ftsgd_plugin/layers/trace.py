"""The order in which a network uses its parameters, by a forward pass without computation; the checks built on it."""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ..utils.errors import UserError, one_line
from .entry import Entry

# The largest share of the parameters that a list which nobody has read may call embedding. The paper freezes less than
# 1 % and the constructor warns above 2 %; by the paper's rule for convnets stem and first stage are up to 13 % in timm
# (LeViT, benchmarks/backbones.py). A list above this limit has taken blocks for a stem.
MAX_EMBEDDING = 0.15
MIN_BLOCKS = 4  # fewer leave nothing to unfreeze gradually, and point at a list of stages, not of blocks
# Operations of ATen whose (first) result has the shape of their first argument.
_SAME_SHAPE = {'gelu', 'hardsigmoid', 'hardswish', 'relu', 'sigmoid', 'silu', '_safe_softmax', '_softmax', 'tanh'}
_ELEMENTWISE = {'add', 'mul', 'sub'}
_NORMS = {
    '_native_batch_norm_legit',
    '_native_batch_norm_legit_no_training',
    'cudnn_batch_norm',
    'native_batch_norm',
    'native_group_norm',
    'native_layer_norm',
}
_HOOKS = (
    '_forward_hooks',
    '_forward_pre_hooks',
    '_forward_hooks_with_kwargs',
    '_forward_pre_hooks_with_kwargs',
    '_forward_hooks_always_called',
    '_backward_hooks',
    '_backward_pre_hooks',
)


@dataclass(frozen=True)
class Trace:
    """When a forward pass uses each parameter.

    Attributes:
        first: Parameter name -> index of the first operation that reads it. Parameters that are never used are absent.
        last: Parameter name -> index of the last such operation.
        positions: Parameter name -> number of positions (pixels, tokens) that its convolution or norm works on, for
            parameters of such layers.
        output: The pass's result, on the meta device: a tensor, or whatever the network returns.
    """

    first: dict[str, int]
    last: dict[str, int]
    positions: dict[str, int]
    output: object

    def span(self, names: Iterable[str]) -> tuple[int, int] | None:
        """Indices of the first and last operation that use any of these parameters; ``None`` if none is used."""
        used = [name for name in names if name in self.first]
        if not used:
            return None
        return min(self.first[name] for name in used), max(self.last[name] for name in used)


_CACHE: WeakKeyDictionary[nn.Module, tuple[tuple, Trace]] = WeakKeyDictionary()


def trace(net: nn.Module, shape: Sequence[int] = (3, 224, 224)) -> Trace:
    """Trace a forward pass of a network in evaluation mode on a copy without memory (the meta device).

    The network itself is not touched: neither its buffers, its mode and hooks, nor the random state. The result is
    kept for the network, so that listing a model again costs little.

    Args:
        net: The network; called with one batch of images.
        shape: Channels, height and width of the images. Defaults to (3, 224, 224).

    Raises:
        UserError: The forward pass fails.
    """
    key = (*structure(net), *shape)
    if net not in _CACHE or _CACHE[net][0] != key:
        _CACHE[net] = key, _trace(net, shape)
    return _CACHE[net][1]


def structure(net: nn.Module) -> tuple:
    """Classes, names and shapes: by this a network that has changed since it was traced is known."""
    modules = tuple((name, type(module)) for name, module in net.named_modules())
    return modules, tuple((name, tuple(param.shape)) for name, param in net.named_parameters())


def _trace(net: nn.Module, shape: Sequence[int]) -> Trace:
    with _disable_current_modes(), torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device('meta'):
        try:
            twin = on_meta(net)
            twin.eval()
            for module in twin.modules():
                if getattr(module, 'grad_checkpointing', False) is True:
                    module.grad_checkpointing = False  # needs the random state of a real device
            dtype = next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.float32)
            recorder = _Recorder(twin)
            with recorder:
                output = twin(torch.empty(1, *shape, dtype=dtype))
        except Exception as error:
            raise UserError(
                f'its forward pass on {"x".join(map(str, shape))} cannot be traced ({_why(error)})'
            ) from error
    return Trace(recorder.first, recorder.last, recorder.positions, output)


def _why(error: Exception) -> str:
    return f'{type(error).__name__}: {one_line(error, first=True, limit=160)}'


def on_meta(net: nn.Module) -> nn.Module:
    """A copy of a network on the meta device, without memory and without the hooks of its modules."""
    memo: dict[int, object] = {}
    for tensor in [*net.parameters(), *net.buffers()]:
        twin = torch.empty(tensor.shape, dtype=tensor.dtype, device='meta')
        memo[id(tensor)] = nn.Parameter(twin, False) if isinstance(tensor, nn.Parameter) else twin
    for module in net.modules():
        for name in _HOOKS:
            hooks = module.__dict__.get(name)
            if hooks:
                memo[id(hooks)] = OrderedDict()
    return copy.deepcopy(net, memo)


class _Recorder(TorchDispatchMode):
    """Note which parameters every operation reads, by their identity."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.names = {id(param): name for name, param in net.named_parameters()}
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.positions: dict[str, int] = {}
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        operation = func.overloadpacket.__name__
        # What these return is known from their arguments; their own code for the meta device is slow.
        if operation in _SAME_SHAPE or (operation in _ELEMENTWISE and _agree(*args[:2])):
            out = torch.empty_like(args[0])
        elif operation == 'addmm':
            out = args[1].new_empty(args[1].shape[0], args[2].shape[1])
        elif operation in _NORMS:
            out = (torch.empty_like(args[0]), *(args[0].new_empty(0) for _ in func._schema.returns[1:]))
        else:
            out = func(*args, **(kwargs or {}))
        self.count += 1
        used = [self.names[id(x)] for x in _flat((*args, *(kwargs or {}).values())) if id(x) in self.names]
        for name in used:
            self.first.setdefault(name, self.count)
            self.last[name] = self.count
        if used and (positions := _positions(operation, args, out)):
            self.positions.update(dict.fromkeys(used, positions))
        return out


def _flat(values: Iterable) -> Iterator:
    """The values and those inside lists, as operations take them."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _agree(first: object, second: object) -> bool:
    """Whether the result of two operands is like the first."""
    if not isinstance(first, torch.Tensor):
        return False
    if not isinstance(second, torch.Tensor):
        return first.is_floating_point()
    return (first.shape, first.dtype) == (second.shape, second.dtype)


def _positions(operation: str, args: tuple, out: object) -> int | None:
    """Pixels or tokens that a 2-d convolution writes, or that a norm works on."""
    if operation == 'convolution':
        return out.shape[2:].numel() if out.ndim == 4 else None
    if operation == 'native_layer_norm' and len(args[1]) == 1:
        return args[0].numel() // args[0].shape[-1]
    if operation in _NORMS and operation != 'native_layer_norm':
        return args[0].shape[2:].numel() if args[0].ndim > 2 else args[0].shape[0]
    return None


def verify(net: nn.Module, entries: Sequence[Entry], shape: Sequence[int] = (3, 224, 224)) -> None:
    """Check a layer list that nobody has read against the network itself.

    Args:
        net: The network.
        entries: Its list, from input to output.
        shape: Channels, height and width of images that it takes. Defaults to (3, 224, 224).

    Raises:
        UserError: (a) a parameter is in no layer; (b) by a traced forward pass the first operation with a parameter is
            not the embedding's, a block runs before the one listed ahead of it, or a layer that is listed later runs
            before the last block; (c) the embedding has more than ``MAX_EMBEDDING`` of the parameters; (d) there are
            fewer than ``MIN_BLOCKS`` blocks.
    """
    owners = owners_of(net, entries)
    forgotten = [name for name, _ in net.named_parameters() if name not in owners]
    if forgotten:
        raise UserError(f'no layer has {", ".join(forgotten[:3])}{" and more" if len(forgotten) > 3 else ""}')
    sizes = {name: param.numel() for name, param in net.named_parameters()}
    embedding = sum(sizes[name] for name, entry in owners.items() if entry.role == 'embed')
    blocks = {entry.block: [] for entry in owners.values() if entry.role == 'block'}
    if sorted(blocks) != list(range(len(blocks))):
        raise UserError(f'the blocks are numbered {sorted(blocks)}')
    if len(blocks) < MIN_BLOCKS:
        raise UserError(f'only {len(blocks)} blocks are found, and {MIN_BLOCKS} are needed')
    share = embedding / sum(sizes.values())
    if share > MAX_EMBEDDING:
        raise UserError(f'the embedding would be {share:.0%} of the parameters, and {MAX_EMBEDDING:.0%} is the limit')
    _verify_order(trace(net, shape), owners)


def owners_of(net: nn.Module, entries: Iterable[Entry]) -> dict[str, Entry]:
    """Parameter name -> its entry: the first that names it. Parameters that no entry names are absent."""
    names = {id(param): name for name, param in net.named_parameters()}
    owners = {}
    for entry in entries:
        for path in entry.members:
            part = net
            for attribute in path.split('.'):
                part = getattr(part, attribute, None)
            params = part.parameters() if isinstance(part, nn.Module) else [part]
            for param in params:
                if id(param) in names:
                    owners.setdefault(names[id(param)], entry)
    return owners


def _verify_order(found: Trace, owners: dict[str, Entry]) -> None:
    ordered = sorted(found.first, key=found.first.get)
    first = next((name for name in ordered if owners[name].role != 'position'), None)
    if first is None or owners[first].role != 'embed':
        raise UserError(f'the first parameter in use is {first}, which is not in the embedding')
    members: dict[int, list[str]] = {}
    for name, entry in owners.items():
        if entry.role == 'block':
            members.setdefault(entry.block, []).append(name)
    end, previous = 0, ''
    for block in sorted(members):
        span = found.span(members[block])
        if span is None:
            raise UserError(f'block {block} ({members[block][0]}, ...) is never used')
        if span[0] <= end:
            raise UserError(f'block {block} ({members[block][0]}, ...) runs before {previous} has ended')
        end, previous = span[1], f'block {block}'
    start = found.span(members[0])[0]
    for name, entry in owners.items():
        if entry.role == 'embed' and found.last.get(name, 0) > start:
            raise UserError(f'{name} of the embedding is used after the first block has begun')
        if entry.role in ('norm', 'projection', 'head') and found.first.get(name, end + 1) <= end:
            raise UserError(f'{name} ({entry.role}) is used before the last block has ended')
