"""Counts of what trains, and the size of the optimizer state, at the start of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from ..freezing import Freeze
from ..layers import Layer
from ..utils.format import format_bytes


def optimizer_state_bytes(optimizer: Optimizer) -> int:
    """Bytes of optimizer state allocated so far (0 before the first step)."""
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


def predict_state_bytes(optimizer: Optimizer) -> int | None:
    """Bytes of state that the optimizer will keep, from one step of a copy on the meta device.

    Returns:
        int | None: Bytes, or ``None`` for an optimizer that cannot step on meta tensors.
    """
    groups = []
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key not in ('params', 'foreach', 'fused')}
        twins = [nn.Parameter(torch.empty_like(param, device='meta')) for param in group['params']]
        for twin in twins:
            twin.grad = torch.empty_like(twin)
        groups.append({**options, 'params': twins, 'foreach': False})
    try:
        twin_optimizer = type(optimizer)(groups, lr=optimizer.param_groups[0].get('lr', 1e-3))
        twin_optimizer.step()
    except Exception:  # any optimizer may be configured; a missing number must not stop the run
        return None
    return optimizer_state_bytes(twin_optimizer)


@dataclass(frozen=True)
class FreezeReport:
    """Counts of layers, parameters and bytes that train and that are frozen.

    Attributes:
        freeze: The ``freeze`` option.
        trained, frozen: Layers, parameters and bytes of each.
        state_bytes: Optimizer state in bytes; ``None`` if unknown before the first step.
        optimizer: Class name of the optimizer.
        groups: Number of its parameter groups.
        self_frozen: Number of parameters that the model itself freezes (counted in ``frozen``).
    """

    freeze: Freeze
    trained: tuple[int, int, int]
    frozen: tuple[int, int, int]
    state_bytes: int | None
    optimizer: str
    groups: int
    self_frozen: int = 0

    @classmethod
    def of(
        cls, layers: Sequence[Layer], freeze: Freeze, selected: Sequence[Layer], optimizer: Optimizer
    ) -> 'FreezeReport':
        """Count what trains now. A layer counts as frozen when none of its parameters trains.

        Args:
            layers: All layers of the model.
            freeze: The ``freeze`` option.
            selected: The layers that it selected.
            optimizer: The optimizer over the trained parameters.
        """
        trained, frozen, self_frozen = [0, 0, 0], [0, 0, 0], 0
        chosen = {layer.name for layer in selected}
        for layer in layers:
            trains = any(param.requires_grad for param in layer.params.values())
            (trained if trains else frozen)[0] += 1
            for param in layer.params.values():
                count = trained if param.requires_grad else frozen
                count[1] += param.numel()
                count[2] += param.numel() * param.element_size()
                if not param.requires_grad and layer.name not in chosen:
                    self_frozen += param.numel()
        return cls(
            freeze=freeze,
            trained=tuple(trained),
            frozen=tuple(frozen),
            state_bytes=predict_state_bytes(optimizer),
            optimizer=type(optimizer).__name__,
            groups=len(optimizer.param_groups),
            self_frozen=self_frozen,
        )

    def __str__(self) -> str:
        total = self.trained[1] + self.frozen[1]
        lines = [f'freeze={self.freeze!r}']
        for word, (count, params, size) in (('trained', self.trained), ('frozen', self.frozen)):
            share = f'{params:>13,} parameters {params / total:>8.2%}'
            lines.append(f'  {word:<8} {count:>4} layers {share} {format_bytes(size)}')
        if self.self_frozen:
            lines.append(f'           of these {self.self_frozen:,} parameters are held fixed by the model itself')
        state = 'unknown before the first step'
        if self.state_bytes is not None:
            state = f'{format_bytes(self.state_bytes)} of state, {self.state_bytes / total:.2f} bytes per parameter'
        lines.append(f'  {self.optimizer}: {self.groups} parameter groups, {state}')
        return '\n'.join(lines)
