"""The gradient norm of every layer per update, as a mean over an interval; needs PyTorch alone.

:class:`LayerGradNorms` is for a loop of one's own; ``LayerGradNormHook`` collects with the same :class:`GradNormSums`.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..layers import Layer, list_layers, weight_norms
from ..utils.norms import scaled_norms, stacked_norms

QUANTITIES = ('norm', 'norm_per_sqrt_n', 'norm_per_weight_norm')
COLUMNS = ('layer', 'role', 'block', 'parameters', 'updates', 'skipped', *QUANTITIES)


@dataclass
class _Segment:
    """Sums over the steps of an interval in which the same layers had gradients.

    Attributes:
        layers: Indices of these L layers.
        total: Sums of their norms over the updates, then the number of updates (L + 1,); on the device.
        steps: Number of steps; more than updates if the loss scaler skipped some.
    """

    layers: tuple[int, ...]
    total: torch.Tensor
    steps: int = 0


class GradNormSums:
    """Sums of gradient norms on the device, fetched once per interval.

    Args:
        layers: All layers of the model.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self._segments: list[_Segment] = []
        self._weights: torch.Tensor | None = None  # at the start of the interval (L,)

    def start(self) -> None:
        """Compute the norms of the weights if this is the start of an interval."""
        if self._weights is None:
            self._weights = weight_norms(self._layers)

    @torch._dynamo.disable
    def measure(self, held: Collection[int] | None = None) -> tuple[tuple[int, ...], torch.Tensor]:
        """Indices of the layers with a gradient, and its norm in each.

        Args:
            held: ``id`` of the parameters that count. Gradients of parameters outside the optimizer are never zeroed
                and belong to no update. Defaults to all.
        """
        grads = {}
        for i, layer in enumerate(self._layers):
            own = [p.grad for p in layer.params.values() if p.grad is not None and (held is None or id(p) in held)]
            if own:
                grads[i] = own
        if not grads:
            return (), torch.zeros(0)
        return tuple(grads), stacked_norms(list(grads.values()))

    @torch._dynamo.disable
    def add(self, layers: tuple[int, ...], norms: torch.Tensor, stepped: bool | torch.Tensor) -> None:
        """Add one step to the interval.

        Args:
            layers: Indices of the layers.
            norms: Their norms (L,).
            stepped: Whether it was an update; a scalar tensor if only the device has the answer.
        """
        row = torch.cat((norms, torch.ones_like(norms[:1])))
        if not self._segments or self._segments[-1].layers != layers:
            self._segments.append(_Segment(layers, torch.zeros_like(row)))
        segment = self._segments[-1]
        segment.steps += 1
        if isinstance(stepped, torch.Tensor):
            segment.total += torch.where(stepped, row, 0.0)
        elif stepped:
            segment.total += row

    def take(self) -> list[dict[str, Any]]:
        """End the interval.

        Returns:
            list[dict]: ``COLUMNS`` of each layer that had a gradient, in the order of the network; the three quantities
            are ``None`` without an update, and ``norm_per_weight_norm`` also with zero weights.
        """
        segments, self._segments = [segment for segment in self._segments if segment.layers], []
        weights, self._weights = self._weights, None
        if not segments:
            return []
        values = torch.cat([weights, *(segment.total for segment in segments)]).tolist()  # the one synchronisation
        weights, values = values[: len(weights)], values[len(weights) :]
        sums = {}  # layer -> sum of norms, updates, skipped steps
        for segment in segments:
            *norms, updates = values[: len(segment.layers) + 1]
            values = values[len(segment.layers) + 1 :]
            for i, norm in zip(segment.layers, norms):
                total = sums.setdefault(i, [0.0, 0, 0])
                total[0] += norm
                total[1] += round(updates)
                total[2] += segment.steps - round(updates)
        return [self._row(i, *sums[i], weights[i]) for i in sorted(sums)]

    def _row(self, i: int, total: float, updates: int, skipped: int, weight: float) -> dict[str, Any]:
        layer = self._layers[i]
        values = (None, None, None)
        if updates:
            norm = total / updates
            values = (norm, *scaled_norms(norm, layer.num_params, weight))
        head = (layer.name, layer.role, layer.block, layer.num_params, updates, skipped)
        return dict(zip(COLUMNS, (*head, *values)))


def was_update(optimizer: Optimizer) -> bool | torch.Tensor:
    """Whether a call of ``step`` was an update; a fused optimizer reads on the device whether to skip."""
    found_inf = getattr(optimizer, 'found_inf', None)
    return True if found_inf is None else found_inf == 0


class LayerGradNorms:
    """Record the gradient norm of every layer of a model in a loop of one's own.

    Within the ``with`` block every ``step`` of an optimizer over parameters of the model is measured, by PyTorch's
    global optimizer hooks, as :class:`~ftsgd_plugin.LayerGradNormHook` measures: the accumulated, reduced and unscaled
    gradients of the update. Clip after a call of :meth:`measure`: the hooks would see clipped gradients. Norms stay on
    the device until :meth:`read`.

    Args:
        model: A classifier with a layer list, wrapped or not.

    Raises:
        UserError: The model has no layer list.

    Examples:
        >>> with LayerGradNorms(model) as norms:
        >>>     for step, (images, labels) in enumerate(loader, 1):
        >>>         loss_of(model(images), labels).backward()
        >>>         optimizer.step()
        >>>         optimizer.zero_grad()
        >>>         if step % 50 == 0:
        >>>             log(norms.read())
    """

    def __init__(self, model: nn.Module) -> None:
        layers = list_layers(model)
        self._own = {id(param) for layer in layers for param in layer.params.values()}
        self._sums = GradNormSums(layers)
        self._by_hand = False  # whether the loop calls ``measure``
        self._waiting: tuple[tuple[int, ...], torch.Tensor] | None = None  # measured, and not yet followed by a step
        self._undo = ExitStack()

    def __enter__(self) -> 'LayerGradNorms':
        self._undo.callback(register_optimizer_step_pre_hook(self._before_step).remove)
        self._undo.callback(register_optimizer_step_post_hook(self._after_step).remove)
        return self

    def __exit__(self, *exception) -> None:
        self._undo.close()
        self._skip_waiting()

    def measure(self) -> None:
        """Measure the gradients now, before they are clipped; the next ``step`` is their update.

        From the first call on only these calls measure. Under a loss scaler call ``scaler.unscale_(optimizer)`` before.
        A measurement that no step follows before the next is a skipped update.
        """
        self._by_hand = True
        self._measure(None)

    def read(self) -> list[dict[str, Any]]:
        """The means over the updates since the last call; waits for the device once.

        Returns:
            list[dict]: Per layer with a gradient, from input to output: ``layer``, ``role``, ``block`` (``None``
            outside blocks), ``parameters``, ``updates`` in the mean, ``skipped`` steps, ``norm`` (L2, over all
            parameters of the layer), ``norm_per_sqrt_n`` (over the square root of ``parameters``) and
            ``norm_per_weight_norm`` (over the L2 norm of the weights before the first of the updates; ``None`` where
            that is zero).
        """
        rows = self._sums.take()
        if self._waiting is not None:  # its update opens the next interval, with the present weights
            self._sums.start()
        return rows

    def _measure(self, optimizer: Optimizer | None) -> None:
        self._skip_waiting()
        self._sums.start()
        held = None
        if optimizer is not None:
            held = {id(param) for group in optimizer.param_groups for param in group['params']}
        layers, norms = self._sums.measure(held)
        scale = getattr(optimizer, 'grad_scale', None)  # set by the loss scaler if a fused optimizer divides itself
        self._waiting = layers, norms if scale is None else norms / scale

    def _skip_waiting(self) -> None:
        if self._waiting is not None:
            self._sums.add(*self._waiting, False)
            self._waiting = None

    def _is_ours(self, optimizer: Optimizer) -> bool:
        return any(id(param) in self._own for group in optimizer.param_groups for param in group['params'])

    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Measure, or where a closure computes the gradients (Lightning), let it measure."""
        if self._by_hand or not self._is_ours(optimizer):
            return None
        itself, *rest = args
        closure = kwargs.get('closure', rest[0] if rest else None)
        if not callable(closure):
            self._measure(optimizer)
            return None
        measured = self._measured(closure, optimizer)
        return ((itself, measured, *rest[1:]), kwargs) if rest else (args, {**kwargs, 'closure': measured})

    def _measured(self, closure: Callable, optimizer: Optimizer) -> Callable:
        """The closure, which measures after its first call; a line search calls it again."""
        called = []

        def measured() -> Any:
            result = closure()
            if not called and not self._by_hand:
                self._measure(optimizer)
            called.append(True)
            return result

        return measured

    def _after_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if self._waiting is not None and self._is_ours(optimizer):
            self._sums.add(*self._waiting, was_update(optimizer))
            self._waiting = None
