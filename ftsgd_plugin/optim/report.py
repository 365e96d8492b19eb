"""Counts of what trains, and the size of the optimizer state, at the start of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer

from ..freezing import Freeze, frozen_by_us
from ..layers import Layer
from ..utils.format import format_bytes
from .state import predict_state_bytes


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
        rates: The lowest and the highest learning rate of a group.
        train: The ``train`` option.
    """

    freeze: Freeze
    trained: tuple[int, int, int]
    frozen: tuple[int, int, int]
    state_bytes: int | None
    optimizer: str
    groups: int
    self_frozen: int = 0
    rates: tuple[float, float] = (0.0, 0.0)
    train: str = 'all'

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        freeze: Freeze,
        selected: Sequence[Layer],
        optimizer: Optimizer,
        train: str = 'all',
    ) -> 'FreezeReport':
        """Count what trains now. A layer counts as frozen when none of its parameters trains.

        Args:
            layers: All layers of the model.
            freeze: The ``freeze`` option.
            selected: The layers that it selected.
            optimizer: The optimizer over the trained parameters.
            train: The ``train`` option. Defaults to ``'all'``.
        """
        trained, frozen, self_frozen = [0, 0, 0], [0, 0, 0], 0
        chosen = {layer.name for layer in selected}
        rates = [float(group['lr']) for group in optimizer.param_groups if 'lr' in group] or [0.0]
        for layer in layers:
            trains = any(param.requires_grad for param in layer.params.values())
            (trained if trains else frozen)[0] += 1
            for param in layer.params.values():
                count = trained if param.requires_grad else frozen
                count[1] += param.numel()
                count[2] += param.numel() * param.element_size()
                if not param.requires_grad and layer.name not in chosen and not frozen_by_us(param):
                    self_frozen += param.numel()
        return cls(
            freeze=freeze,
            trained=tuple(trained),
            frozen=tuple(frozen),
            state_bytes=predict_state_bytes(optimizer),
            optimizer=type(optimizer).__name__,
            groups=len(optimizer.param_groups),
            self_frozen=self_frozen,
            rates=(min(rates), max(rates)),
            train=train,
        )

    def __str__(self) -> str:
        total = self.trained[1] + self.frozen[1]
        lines = [f'freeze={self.freeze!r}' + (f', train={self.train!r}' if self.train != 'all' else '')]
        for word, (count, params, size) in (('trained', self.trained), ('frozen', self.frozen)):
            share = f'{params:>13,} parameters {params / total:>8.2%}'
            lines.append(f'  {word:<8} {count:>4} layers {share} {format_bytes(size)}')
        if self.self_frozen:
            lines.append(f'           of these {self.self_frozen:,} parameters are frozen by the model itself')
        state = 'unknown before the first step'
        if self.state_bytes is not None:
            state = f'{format_bytes(self.state_bytes)} of state, {self.state_bytes / total:.2f} bytes per parameter'
        lines.append(f'  {self.optimizer}: {self.groups} parameter groups, {state}')
        if self.rates[0] != self.rates[1]:
            lines.append(f'  learning rates: {self.rates[0]:.3g} to {self.rates[1]:.3g}')
        return '\n'.join(lines)
