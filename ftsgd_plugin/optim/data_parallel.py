"""A model wrapper for several processes without a reducer."""

import torch
from mmengine.dist import broadcast
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS  # the runner looks in the root registry only
from torch import nn

from ..utils.errors import UserError


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
        """The module's own training step.

        Raises:
            UserError: ``optim_wrapper`` leaves the reduction to the model wrapper, and this one does none.
        """
        if not hasattr(optim_wrapper, 'observe_gradients'):
            raise UserError(
                f"model_wrapper_cfg.type='InBackwardDataParallel' cannot be combined with optim_wrapper.type="
                f'{type(optim_wrapper).__name__!r}: nobody would average the gradients of the ranks; use '
                "type='SGDInBackwardOptimWrapper', or remove model_wrapper_cfg."
            )
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
