"""Layer lists for schedules without a model, and the rates of torch's schedulers."""

import torch

from ftsgd_plugin.optim.places import Place

VIT = [
    [Place('pos_embed', 'position', None, 'pos_embed')],
    *([Place(f'blocks.{i}.{part}', 'block', i, f'trans{i}_{part}') for part in ('attn', 'mlp')] for i in range(4)),
    [Place('post_norm', 'norm', None, 'post_norm')],
    [Place('head', 'head', None, 'head')],
]
STAGES = [0, 0, 1, 1, 1, 2]
CONVNET = [
    *([Place(f'stages.{stage}.blocks.{i}', 'block', i, f'stage{stage}')] for i, stage in enumerate(STAGES)),
    [Place('head', 'head', None, 'head')],
]


def open_layers(found, step: int, places=VIT) -> set[str]:
    return {place.layer for group in places for place in group if found.trains(step)(place)}


def torch_rates(make, steps: int, first: float = 1.0) -> list[float]:
    """The rate at every step under one of torch's own schedulers, which ``make`` builds over an optimizer."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=first)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return found
