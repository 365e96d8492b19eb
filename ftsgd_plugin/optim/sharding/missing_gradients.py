"""A trained parameter without a gradient on one rank, found before the ranks reduce.

``fully_shard`` reduces the gradients that a rank has, and gathers the units that a rank computes: ranks with different
ones would wait for each other for ever, or mix up the values of different parameters without a word. Every unit is
looked at when its backward pass has ended and its reduction has not begun.
"""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_rank
from torch import nn
from torch.autograd import Variable
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...utils.errors import UserError


class GradientCheck:
    """Refuse a step that leaves out a unit, or a trained parameter without gradient.

    Args:
        model: The model, after ``fully_shard``: the hooks of this class must run within those of torch.
        units: Its sharded modules by name; the model itself, whose parameters are those in none of them, is not one.
    """

    def __init__(self, model: nn.Module, units: Mapping[str, nn.Module]) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        inside = {id(module) for unit in units.values() for module in unit.modules()}
        outside = [module for module in model.modules() if id(module) not in inside]
        self._members = {name: list(unit.modules()) for name, unit in units.items()} | {'': outside}
        self._units = set(units)
        self._computed: set[str] = set()
        self._checked: set[str] = set()
        self._queued = False
        for name, unit in units.items():
            unit.register_forward_pre_hook(self._mark_inputs(name), with_kwargs=True)
        model.register_forward_hook(self._mark_outputs, prepend=True)  # before torch's, which queues its reduction

    def _mark_inputs(self, unit: str):
        """A hook on a unit: the backward pass comes to its inputs when it has all its gradients."""

        def mark(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            self._computed.add(unit)
            if not torch.is_grad_enabled():
                return None
            leaves, structure = tree_flatten((args, kwargs))
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
            if not places:
                return None  # its lower end: looked at when the whole pass has ended
            marked = _Mark.apply(lambda: self._look_at(unit), *(leaves[i] for i in places))
            for i, tensor in zip(places, marked):
                leaves[i] = tensor
            return tree_unflatten(leaves, structure)

        return mark

    def _mark_outputs(self, module: nn.Module, args: tuple, output: Any) -> None:
        left_out, self._computed = sorted(self._units - self._computed), set()
        if not torch.is_grad_enabled():
            return
        if left_out:
            raise UserError(
                f'{left_out[0]} was not computed in this step on rank {get_rank()}; sharded training computes every '
                "block on all ranks: use model_wrapper_cfg=dict(type='MMDistributedDataParallel', "
                'find_unused_parameters=True).'
            )
        self._checked.clear()
        self._queued = False
        for tensor in tree_flatten(output)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                tensor.register_hook(self._queue)

    def _queue(self, grad: torch.Tensor) -> None:
        if not self._queued:
            self._queued = True
            Variable._execution_engine.queue_callback(self._look_at_the_rest)

    def _look_at_the_rest(self) -> None:
        for unit in self._members:
            self._look_at(unit)

    def _look_at(self, unit: str) -> None:
        if unit in self._checked:
            return
        self._checked.add(unit)
        for module in self._members[unit]:
            for name, param in module.named_parameters(recurse=False):
                if param.requires_grad and param.grad is None:
                    prefix = self._names[id(module)]
                    raise UserError(
                        f'{prefix}.{name} trains and got no gradient in this step on rank {get_rank()}; sharded '
                        'training reduces those of all ranks together: freeze it (paramwise_cfg.freeze), or use '
                        "model_wrapper_cfg=dict(type='MMDistributedDataParallel', find_unused_parameters=True)."
                    )


class _Mark(torch.autograd.Function):
    """The identity; calls a function in the backward pass."""

    @staticmethod
    def forward(ctx, function, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.function = function
        return tensors

    @staticmethod
    def backward(ctx, *grads: torch.Tensor) -> tuple:
        ctx.function()
        return None, *grads
