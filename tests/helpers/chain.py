"""A tiny network with its own layer list, for runs in two processes."""

import torch
from torch import nn

from ftsgd_plugin.layers import Entry, register_layer_list


class Chain(nn.Module):
    """A stem, two blocks and a head: small enough to train in two processes within a second."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.blocks = nn.Linear(8, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(x)


@register_layer_list(Chain)
def _chain(net):
    yield Entry('stem', 'embed', 'stem')
    for i in range(len(net.blocks)):
        yield Entry(f'blocks.{i}', 'block', f'blocks.{i}', block=i)
    yield Entry('head', 'head', 'head')


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (8, 8) and labels (8,) of a step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 8, generator=generator), torch.randint(3, (8,), generator=generator)
