"""A model wrapper for several processes without a reducer."""

import torch
from mmengine.dist import broadcast
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODEL_WRAPPERS
from torch import nn


@MODEL_WRAPPERS.register_module()
class InBackwardDataParallel(nn.Module):
    """Equal weights on all ranks at the start; gradients are averaged by ``SGDInBackwardOptimWrapper``.

    It holds no buckets, so that gradients need not exist together.

    Args:
        module (BaseModel): The model; its parameters and buffers are taken from rank 0.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        for tensor in [*module.parameters(), *module.buffers()]:
            broadcast(tensor.data, src=0)

    def train_step(self, data: dict | tuple | list, optim_wrapper: OptimWrapper) -> dict[str, torch.Tensor]:
        """The module's own training step."""
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: dict | tuple | list) -> list:
        """The module's own validation step."""
        return self.module.val_step(data)

    def test_step(self, data: dict | tuple | list) -> list:
        """The module's own test step."""
        return self.module.test_step(data)

    def forward(self, *args, **kwargs):
        """The module's own forward pass."""
        return self.module(*args, **kwargs)
