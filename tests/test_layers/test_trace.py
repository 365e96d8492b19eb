"""The verification of a layer list that nobody has read: each of its conditions, and that it leaves no mark."""

import copy

import pytest
import torch
from torch import nn

from ftsgd_plugin.layers import Entry
from ftsgd_plugin.layers.trace import trace, verify
from ftsgd_plugin.utils.errors import UserError

SHAPE = (3, 16, 16)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.register_buffer('calls', torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x + torch.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    """Stem, blocks in the order ``order``, a norm and a classifier."""

    def __init__(self, order=(0, 1, 2, 3)) -> None:
        super().__init__()
        self.stem, self.pos_embed = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(1, 8, 1, 1))
        self.blocks = nn.ModuleList(Block(8) for _ in range(4))
        self.norm, self.head = nn.GroupNorm(1, 8), nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)
        self.order = order

    def forward(self, x):
        x = self.stem(x) + self.pos_embed
        for i in self.order:
            x = self.blocks[i](x)
        return self.head(self.norm(x).mean((2, 3)))


def entries(**changes) -> list[Entry]:
    parts = dict(
        stem=('embed', 'stem'),
        pos_embed=('position', 'pos_embed'),
        norm=('norm', 'norm', 'unused'),
        head=('head', 'head'),
    )
    blocks = {f'blocks.{i}': ('block', f'blocks.{i}') for i in range(4)}
    listed = {**{key: parts[key] for key in ('stem', 'pos_embed')}, **blocks, **parts, **changes}
    found, block = [], 0
    for name, value in listed.items():
        if value is None:
            continue
        role, *members = value
        found.append(Entry(name, role, *members, block=block if role == 'block' else None))
        block += role == 'block'
    return found


def test_a_right_list_is_accepted():
    verify(Net(), entries(), SHAPE)


@pytest.mark.parametrize(
    'order, changes, reason',
    [
        (range(4), dict(norm=('norm', 'norm')), r'no layer has unused\.weight, unused\.bias$'),
        (range(4), {'head': None}, r'no layer has head\.weight, head\.bias$'),
        (range(4), dict(stem=('projection', 'stem')), r'first parameter in use is stem\.\w+, which is not in'),
        (range(4), {'stem': ('block', 'stem')}, r'first parameter in use is stem\.\w+, which is not in'),
        ((0, 2, 1, 3), {}, r'block 2 \(blocks\.2\.conv\.weight, \.\.\.\) runs before block 1 has ended$'),
        ((0, 1, 2, 3, 1), {}, r'block 2 \(blocks\.2\.conv\.weight, \.\.\.\) runs before block 1 has ended$'),
        ((0, 1, 2), {}, r'block 3 \(blocks\.3\.conv\.weight, \.\.\.\) is never used$'),
        (range(4), {'blocks.3': ('norm', 'blocks.3'), 'norm': ('block', 'norm', 'unused')},
         r'blocks\.3\.conv\.weight \(norm\) is used before the last block has ended$'),
        (range(4), {'blocks.3': ('norm', 'blocks.3')}, r'only 3 blocks are found, and 4 are needed$'),
        (range(4), {'blocks.0': ('embed', 'blocks.0'), 'norm': ('block', 'norm', 'unused')},
         r'the embedding would be 3\d% of the parameters, and 15% is the limit$'),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused_with_the_reason(order, changes, reason):
    with pytest.raises(UserError, match=reason):
        verify(Net(tuple(order)), entries(**changes), SHAPE)


def test_embedding_that_runs_again_among_the_blocks_is_refused():
    class Tied(Net):
        def forward(self, x):
            return super().forward(x) + self.stem(x).mean()

    with pytest.raises(UserError, match=r'stem\.weight of the embedding is used after the first block has begun'):
        verify(Tied(), entries(), SHAPE)


def test_first_and_last_use_are_those_of_the_forward_pass():
    found = trace(Net((3, 0, 1, 2)), SHAPE)
    order = sorted(found.first, key=found.first.get)
    modules = list(dict.fromkeys(name.rpartition('.')[0] for name in order))
    blocks = [f'blocks.{i}.{part}' for i in (3, 0, 1, 2) for part in ('conv', 'norm')]
    assert modules == ['stem', '', *blocks, 'norm', 'head']
    assert 'unused.weight' not in found.first and found.last['stem.weight'] < found.first['blocks.3.conv.weight']
    assert found.positions['blocks.3.conv.weight'] == 4 * 4


def test_a_network_that_cannot_be_traced_is_refused_with_its_error():
    with pytest.raises(UserError, match=r'its forward pass on 4x16x16 cannot be traced \(RuntimeError: '):
        verify(Net(), entries(), (4, 16, 16))


def test_tracing_leaves_no_mark_on_the_network():
    net, calls = Net(), []
    net.register_forward_hook(lambda *args: calls.append(args))
    net.blocks[0].register_forward_pre_hook(lambda *args: calls.append(args))
    net.train()
    net.blocks[1].eval()
    net.stem.weight.requires_grad_(False)
    net.head(torch.ones(1, 8)).sum().backward()
    before = copy.deepcopy(net.state_dict())
    modes, rng = [module.training for module in net.modules()], torch.get_rng_state()
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    with torch.autograd.set_grad_enabled(True):
        trace(net, (3, 20, 20))
    assert not calls and [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng) and torch.is_grad_enabled()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not net.stem.weight.requires_grad and net.norm.weight.requires_grad
    for name, param in net.named_parameters():
        assert (param.grad is None) == (grads[name] is None) and param.device.type == 'cpu'
        assert param.grad is None or torch.equal(param.grad, grads[name])
