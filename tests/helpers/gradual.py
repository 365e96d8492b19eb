"""What the tests of gradual unfreezing share."""

import io
import math

import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper

BASE = 1e-3


def build(model, freeze='embed', accumulate=1, **optimizer) -> OptimWrapper:
    return build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=BASE, momentum=0.9, **optimizer),
            constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
            paramwise_cfg=dict(freeze=freeze),
            accumulative_counts=accumulate,
        ),
    )


def factor(step: int, total: int) -> float:
    return math.exp(3.73 * (1 - step / (total - 1)))


def saved(content):
    buffer = io.BytesIO()
    torch.save(list(content), buffer)
    buffer.seek(0)
    return buffer
