"""Measuring learning-rate multipliers on a few random images, in one process and on two ranks."""

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader, Subset

from ftsgd_plugin.optim.measured_rates import measure_lr_mult
from helpers.small_models import batch, small_classifier

ITEMS = 8  # images: the first two batches of ``small_models.batch``


def items() -> list[dict]:
    """Images and labels as a data loader of MMPretrain collates them."""
    found = []
    for step in range(ITEMS // 4):
        for image, label in zip(*batch('vit-b16', step)):
            found.append(dict(inputs=image, data_samples=DataSample().set_gt_label(label)))
    return found


def built(wrapper: str = 'OptimWrapper'):
    """A tiny ViT and its optimizer wrapper, whose rates wait for their measurement."""
    init_default_scope('mmpretrain')
    model = small_classifier('vit-b16')
    return model, wrapper_of(model, wrapper)


def wrapper_of(model, wrapper: str = 'OptimWrapper'):
    cfg = dict(
        type=wrapper,
        optimizer=dict(type='SGD', lr=1e-2),
        constructor='FreezeEmbedOptimWrapperConstructor',
        paramwise_cfg=dict(freeze='none', lr_mult='gradient'),
    )
    return build_optim_wrapper(model, cfg)


def of_items(model, optim_wrapper, batches: int, accumulate: int = 1, rank: int = 0, world: int = 1):
    """The multipliers from batches of four images over all ranks."""
    own = Subset(items(), list(range(rank, ITEMS, world)))
    loader = DataLoader(own, batch_size=4 // world, collate_fn=_collate)
    return measure_lr_mult(getattr(model, 'module', model), optim_wrapper, loader, batches, accumulate)


def _collate(samples: list[dict]) -> dict:
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def measure_on_two_ranks(rank: int) -> dict[str, float]:
    """Measure on half of every batch, then take the gradients of a step under DistributedDataParallel."""
    init_default_scope('mmpretrain')
    model = MMDistributedDataParallel(small_classifier('vit-b16'), device_ids=None)
    optim_wrapper = wrapper_of(model)
    found = of_items(model, optim_wrapper, 1, rank=rank, world=2)
    images, labels = batch('vit-b16', rank)
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    grads = [param.grad for param in model.parameters()]
    summed = torch.stack([grad.sum() for grad in grads])
    torch.distributed.all_reduce(summed.sub_(0), torch.distributed.ReduceOp.MAX)
    assert torch.equal(summed, torch.stack([grad.sum() for grad in grads]))  # reduced as ever
    return found
