"""Flashoptim's release of gradients: each parameter is updated within the backward pass, and its gradient freed."""

import importlib
import weakref
from contextlib import AbstractContextManager

import torch
from mmengine.dist import get_world_size
from mmpretrain.registry import OPTIM_WRAPPERS
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..utils.errors import UserError
from ..utils.norms import has_non_finite
from .flash import is_flash
from .in_backward import InBackwardOptimWrapper

_NAME = "optim_wrapper.type='FlashReleaseOptimWrapper'"


@OPTIM_WRAPPERS.register_module()
class FlashReleaseOptimWrapper(InBackwardOptimWrapper):
    """Let an optimizer of flashoptim update each parameter as soon as its gradient is complete.

    The library's ``enable_gradient_release``, called again whenever what trains or the optimizer's groups have changed.
    2 bytes per parameter less: gradients never exist together. As the library says, it excludes several processes,
    accumulation, clipping and loss scaling. ``DivergenceHook`` asks every gradient on the host whether it is finite, a
    wait each on a GPU; layers that were updated in the same backward pass before the first that is not keep that
    update.

    Args:
        optimizer (Optimizer): Of flashoptim.
        **unsupported: Options of other wrappers, refused by name.

    Raises:
        UserError: An option needs all gradients at once, the optimizer is of another library, or several processes
            train.

    Examples:
        >>> optim_wrapper = dict(type='FlashReleaseOptimWrapper', optimizer=dict(type='flashoptim.FlashSGD', lr=1e-3))
    """

    def __init__(self, optimizer: Optimizer, **unsupported) -> None:
        if not is_flash(optimizer):
            raise UserError(
                f'{_NAME} cannot be combined with optim_wrapper.optimizer.type={type(optimizer).__name__!r}, which '
                "does not release gradients; use 'flashoptim.FlashSGD' or another of flashoptim."
            )
        super().__init__(optimizer, unsupported)
        self._released: tuple[int, ...] = ()  # what trains and its groups, as the library was told last
        self._handle = None

    @staticmethod
    def check_model(model: nn.Module) -> None:
        """Refuse several processes: nothing here averages gradients, and ``DistributedDataParallel`` keeps them.

        Raises:
            UserError: Several train, or a model is wrapped for that.
        """
        if get_world_size() > 1 or any(isinstance(module, DistributedDataParallel) for module in model.modules()):
            raise UserError(
                f'{_NAME} trains in one process: flashoptim releases no gradients that ranks average; use '
                'type="OptimWrapper".'
            )

    def optim_context(self, model: nn.Module) -> AbstractContextManager:
        """That of other wrappers, in one process."""
        self.check_model(model)
        return super().optim_context(model)

    def backward(self, loss: torch.Tensor, **kwargs) -> None:
        """Run the backward pass and, within it, the updates."""
        self._enable()
        super().backward(loss, **kwargs)

    def step(self, **kwargs) -> None:
        """Nothing: the backward pass has updated."""

    def zero_grad(self, **kwargs) -> None:
        """Nothing: the backward pass has freed the gradients."""

    def release(self) -> None:
        """Take the library's hooks off the parameters, as at the end of a training; a backward pass puts them back."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._released = None, ()

    def _enable(self) -> None:
        groups = self.optimizer.param_groups
        trained = [param for group in groups for param in group['params'] if param.requires_grad]
        current = (*map(id, groups), *map(id, trained))  # loading a state replaces the groups
        if current == self._released:
            return
        self.release()
        before = weakref.WeakMethod(self._before_update)  # a parameter holds its hooks where no collector sees a cycle
        library = importlib.import_module('flashoptim')
        self._handle = library.enable_gradient_release(
            nn.ParameterList(trained), self.optimizer, pre_step=lambda param, group: before()(param)
        )
        self._released = current

    def _before_update(self, param: nn.Parameter) -> bool:
        """Whether to update."""
        if self.skip_non_finite:
            self._non_finite = self._non_finite or has_non_finite([param.grad])
            if self._non_finite:
                return False
        for callback in self._observers.values():
            callback(param, param.grad)
        return True
