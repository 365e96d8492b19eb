"""Two ranks of which one meets a loss or a gradient that is not finite."""

import math
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ftsgd_plugin.optim import InBackwardDataParallel, SGDInBackwardOptimWrapper
from ftsgd_plugin.optim.finite import FiniteUpdates

# name -> (model wrapper, optimizer wrapper, its options, optimizer's options)
CASES = {
    'ddp': (DistributedDataParallel, OptimWrapper, {}, dict(momentum=0.9)),
    'ddp, fused': (DistributedDataParallel, OptimWrapper, {}, dict(momentum=0.9, fused=True)),
    'ddp, accumulated': (DistributedDataParallel, OptimWrapper, dict(accumulative_counts=2), dict(momentum=0.9)),
    'in backward': (InBackwardDataParallel, SGDInBackwardOptimWrapper, {}, dict(weight_decay=0.1)),
    'nobody reduces': (nn.Sequential, OptimWrapper, {}, dict(momentum=0.9)),  # as under FSDP: each rank its own part
    'nobody reduces, fused': (nn.Sequential, OptimWrapper, {}, dict(momentum=0.9, fused=True)),
}
STEPS = 6


def train_with_a_bad_rank(rank: int, directory: Path) -> None:
    """Train every case; only rank 1 meets something bad, in its third and its sixth batch."""
    results = {}
    for name, (wrap, wrapper, options, settings) in CASES.items():
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(4, 3))
        model = wrap(inner)
        optim_wrapper = wrapper(optimizer=torch.optim.SGD(inner.parameters(), lr=0.1, **settings), **options)
        guard = FiniteUpdates(optim_wrapper, model)
        outcomes, before = [], None
        for step in range(STEPS):
            images = torch.randn(5, 4, generator=torch.Generator().manual_seed(10 * step + get_rank()))
            with optim_wrapper.optim_context(model):
                loss = nn.functional.cross_entropy(model(images), torch.arange(5) % 3)
            if step % 3 == 2 and rank == 1:
                loss = loss + math.nan if step == 2 else loss * 1e38 * 1e38
            before = [param.detach().clone() for param in inner.parameters()]
            optim_wrapper.update_params(loss)
            outcome = guard.take()
            if outcome is not None:
                same = all(map(torch.equal, before, inner.parameters()))
                outcomes.append((bool(outcome), same))
        results[name] = dict(outcomes=outcomes, weights=[param.detach() for param in inner.parameters()])
    torch.save(results, directory / f'{rank}.pt')
