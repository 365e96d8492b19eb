"""SGD whose updates happen inside the backward pass, so that gradients never exist together."""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from mmengine.dist import broadcast, get_world_size
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS  # the runner looks in the root registry only
from mmengine.runner.amp import autocast
from mmpretrain.registry import OPTIM_WRAPPERS
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.sgd import sgd
from torch.utils.hooks import RemovableHandle

from ..utils.errors import UserError
from ..utils.local import local_value
from ..utils.norms import has_non_finite, non_finite
from .in_backward import InBackwardOptimWrapper

_NAME = "optim_wrapper.type='SGDInBackwardOptimWrapper'"


@OPTIM_WRAPPERS.register_module()
class SGDInBackwardOptimWrapper(InBackwardOptimWrapper):
    """Update each parameter, and free its gradient, as soon as the gradient is complete.

    Results are bit-identical to ``torch.optim.SGD`` without momentum in float32. Memory is 4 bytes per parameter plus
    the gradient of the largest layer, instead of 8 bytes per parameter. Learning rates are read at the time of
    the update, so schedulers work as usual; frozen parameters get no gradient and no update. Only the backward passes
    of this wrapper update: other optimizers on the same model, before, after or beside it, work as on a fresh one.

    With several processes the gradient is averaged over the ranks before the update, parameter by parameter in the
    order of the backward pass. ``DistributedDataParallel`` would keep every gradient in its buckets: the model is
    wrapped by ``model_wrapper_cfg=dict(type='InBackwardDataParallel')`` instead, which ``tools/train.py`` sets.

    Args:
        optimizer (torch.optim.SGD): With ``momentum=0``.
        dtype (str, optional): ``'bfloat16'`` runs the forward pass under autocast; weights and updates stay as they
            are. Defaults to ``None``.
        **unsupported: Options of other wrappers, refused by name.

    Raises:
        UserError: An option needs all gradients at once (``clip_grad``, ``accumulative_counts``, ``loss_scale``), the
            optimizer is not SGD without momentum, or the model is wrapped in ``DistributedDataParallel``.

    Examples:
        >>> optim_wrapper = dict(type='SGDInBackwardOptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
    """

    def __init__(self, optimizer: torch.optim.SGD, dtype: str | None = None, **unsupported) -> None:
        if type(optimizer) is not torch.optim.SGD:
            raise UserError(
                f'{_NAME} cannot be combined with optim_wrapper.optimizer.type={type(optimizer).__name__!r}; use SGD.'
            )
        momenta = sorted({group['momentum'] for group in optimizer.param_groups})
        if momenta != [0]:
            raise UserError(
                f'{_NAME} cannot be combined with optim_wrapper.optimizer.momentum={momenta[-1]}: it keeps no state; '
                'set momentum=0.'
            )
        if dtype not in (None, 'bfloat16'):
            raise UserError(
                f'{_NAME} cannot be combined with optim_wrapper.dtype={dtype!r}, which needs a loss scale; use '
                "'bfloat16' or None."
            )
        super().__init__(optimizer, unsupported)
        self.dtype = dtype
        self._in_backward = False  # other optimizers on the same parameters call their hooks too
        # By index: loading a state replaces the groups.
        self._group_of = {param: i for i, group in enumerate(optimizer.param_groups) for param in group['params']}
        self._hooks: dict[nn.Parameter, RemovableHandle] = {}
        weakref.finalize(self, _remove, self._hooks)

    def backward(self, loss: torch.Tensor, **kwargs) -> None:
        """Run the backward pass and, within it, the updates."""
        # A parameter holds its hooks from C++, where the garbage collector sees no cycle: a hook that held the wrapper
        # would keep it, and the parameters with it, for ever.
        update = weakref.WeakMethod(self._update)
        for param in self._group_of:
            if param.requires_grad and param not in self._hooks:  # closed blocks open later
                self._hooks[param] = param.register_post_accumulate_grad_hook(lambda param: update()(param))
        self._in_backward = True
        try:
            super().backward(loss, **kwargs)
        finally:
            self._in_backward = False

    def release(self) -> None:
        """Take the hooks off the parameters, as at the end of a training; the next backward pass puts them back."""
        _remove(self._hooks)

    def replace_parameters(self, parts: Mapping[nn.Parameter, nn.Parameter]) -> None:
        """Update other parameters in the place of those that the optimizer was built with (sharded training)."""
        self.release()
        self._group_of = {parts[param]: i for param, i in self._group_of.items()}

    @torch.no_grad()
    def _update(self, param: nn.Parameter) -> None:
        if not self._in_backward:
            return
        world, is_part = get_world_size(), hasattr(param.grad, 'to_local')  # sharded gradients are averaged already
        if world > 1 and not is_part:
            param.grad.div_(world)
            torch.distributed.all_reduce(param.grad)
        on_device = self.skip_non_finite and self._answers_on_device(param)
        if self.skip_non_finite and not on_device:
            self._non_finite = self._non_finite or has_non_finite([param.grad])
            if is_part:  # the ranks hold different parts of a gradient
                self._non_finite = bool(_on_any_rank(torch.tensor(self._non_finite)))
            if self._non_finite:
                param.grad = None
                return
        for callback in self._observers.values():
            callback(param, param.grad)
        group = self.optimizer.param_groups[self._group_of[param]]
        weight, grad = local_value(param), local_value(param.grad)
        if on_device:
            bad = non_finite([grad])
            self._non_finite = (_on_any_rank(bad) if is_part else bad) | self._non_finite
            self._masked_sgd(weight, grad, group)
            param.grad = None
            return
        sgd(
            [weight],
            [grad],
            [None],
            foreach=False,
            weight_decay=group['weight_decay'],
            momentum=0,
            lr=group['lr'],
            dampening=group['dampening'],
            nesterov=group['nesterov'],
            maximize=group['maximize'],
        )
        param.grad = None

    @staticmethod
    def _answers_on_device(param: nn.Parameter) -> bool:
        """Whether asking a gradient on the host would wait for the device."""
        return param.device.type != 'cpu'

    def _masked_sgd(self, param: torch.Tensor, direction: torch.Tensor, group: dict) -> None:
        """SGD without momentum in the order of ``torch.optim.SGD``, with a direction of zero if a gradient was bad."""
        if group['maximize']:
            direction.neg_()
        if group['weight_decay']:
            direction.add_(param, alpha=group['weight_decay'])
        param.add_(direction.masked_fill_(self._non_finite, 0.0), alpha=-group['lr'])

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast if ``dtype`` is set.

        Raises:
            UserError: ``model`` is wrapped in ``DistributedDataParallel``.
        """
        refuse_reducer(model)
        cast = nullcontext() if self.dtype is None else autocast(dtype=torch.bfloat16)
        with super().optim_context(model), cast:
            yield


def _on_any_rank(bad: torch.Tensor) -> torch.Tensor:
    bad = bad.int()
    torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
    return bad.bool()


def _remove(hooks: dict[nn.Parameter, RemovableHandle]) -> None:
    for hook in hooks.values():
        hook.remove()
    hooks.clear()


def refuse_reducer(model: nn.Module) -> None:
    """Raise a ``UserError`` if ``DistributedDataParallel``, which keeps all gradients, reduces those of the model."""
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise UserError(
            f'{_NAME} cannot be combined with model_wrapper_cfg.type={type(model).__name__!r}, which keeps every '
            "gradient and reduces it after the update; use model_wrapper_cfg=dict(type='InBackwardDataParallel')."
        )


@MODEL_WRAPPERS.register_module()
class InBackwardDataParallel(nn.Module):
    """Model wrapper of ``SGDInBackwardOptimWrapper`` for several processes; it does not reduce gradients itself.

    All ranks start with the weights of rank 0; the optimizer wrapper averages the gradients. There are no buckets, so
    gradients never exist together.

    Args:
        module (BaseModel): The model; its parameters and buffers are broadcast from rank 0.
    """

    has_no_reducer = True  # nothing to keep in step with what trains

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        for tensor in [*module.parameters(), *module.buffers()]:
            broadcast(tensor.data, src=0)

    def train_step(self, data: dict | tuple | list, optim_wrapper: OptimWrapper) -> dict[str, torch.Tensor]:
        """Run the training step of the module.

        Raises:
            UserError: ``optim_wrapper`` leaves the reduction to the model wrapper, and this one does none.
        """
        if not isinstance(optim_wrapper, SGDInBackwardOptimWrapper):
            raise UserError(
                f"model_wrapper_cfg.type='InBackwardDataParallel' cannot be combined with optim_wrapper.type="
                f'{type(optim_wrapper).__name__!r}: the gradients of the ranks would not be averaged; use '
                "type='SGDInBackwardOptimWrapper', or remove model_wrapper_cfg."
            )
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: dict | tuple | list) -> list:
        """Run the validation step of the module."""
        return self.module.val_step(data)

    def test_step(self, data: dict | tuple | list) -> list:
        """Run the test step of the module."""
        return self.module.test_step(data)

    def forward(self, *args, **kwargs):
        """Run the forward pass of the module."""
        return self.module(*args, **kwargs)
