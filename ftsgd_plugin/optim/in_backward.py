"""What optimizer wrappers share that update each parameter within the backward pass."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ..utils.errors import UserError
from .measured_rates import require_measured


class InBackwardOptimWrapper(OptimWrapper):
    """A parameter is updated as soon as its gradient is complete, and the gradient freed: none sees all of them.

    Args:
        optimizer: The optimizer.
        unsupported: Options of other wrappers, refused by name.

    Raises:
        UserError: An option needs all gradients at once.
    """

    updates_in_backward = True

    def __init__(self, optimizer: Optimizer, unsupported: dict) -> None:
        accumulate = unsupported.pop('accumulative_counts', 1)
        for key, value in (('accumulative_counts', None if accumulate == 1 else accumulate), *unsupported.items()):
            if value is not None:
                raise UserError(
                    f'optim_wrapper.type={type(self).__name__!r} cannot be combined with '
                    f'optim_wrapper.{key}={value!r}: an update in the backward pass never sees all gradients; remove '
                    f'{key}, or use type="OptimWrapper".'
                )
        super().__init__(optimizer)
        self.skip_non_finite = False  # set by FiniteUpdates: leave out updates with a gradient of NaN or Inf
        self._non_finite: bool | torch.Tensor = False  # whether this backward pass has met such a gradient
        self._observers: OrderedDict[int, Callable[[nn.Parameter, torch.Tensor], None]] = OrderedDict()

    def observe_gradients(self, callback: Callable[[nn.Parameter, torch.Tensor], None]) -> RemovableHandle:
        """Call ``callback(param, grad)`` for each gradient, averaged over the ranks, before its update.

        The gradient is freed afterwards: keep a norm or a copy, not the tensor.

        Returns:
            RemovableHandle: Its ``remove()`` ends the calls.
        """
        handle = RemovableHandle(self._observers)
        self._observers[handle.id] = callback
        return handle

    def backward(self, loss: torch.Tensor, **kwargs) -> None:
        """Run the backward pass and, within it, the updates.

        Raises:
            UserError: Learning rates wait for their measurement.
        """
        require_measured(self.optimizer)
        super().backward(loss, **kwargs)

    def take_non_finite(self) -> bool | torch.Tensor:
        """Whether a gradient since the last call was not finite; on a GPU it may be a scalar tensor there."""
        found, self._non_finite = self._non_finite, False
        return found
