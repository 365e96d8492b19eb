"""Planned against allocated memory of every method, and the time of gradual unfreezing over a run."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from ftsgd_plugin.profiling.measure import MethodMeasure, measure_methods
from ftsgd_plugin.profiling.phases import ALL_METHODS, load_method, run_length
from ftsgd_plugin.profiling.predict import Predictor
from ftsgd_plugin.utils.errors import UserError

from .networks import Network

# The methods of the paper's ratios of memory, AdamW first.
PAPERS = ('adamw', 'freeze-embed', 'freeze-embed-no-momentum')
# Batches at which the prediction has about the paper's ratios (benchmarks/resources.md): it names none.
PAPERS_BATCH = {'vit-b16': 12, 'vit-l14': 8}
IN_BACKWARD = ('adamw', 'freeze-embed', 'freeze-embed-no-momentum', 'sgd-in-backward')


def every_method() -> Sequence[str]:
    """All methods, those of the paper's ratios first."""
    return [*PAPERS, *(name for name in ALL_METHODS if name not in PAPERS)]


class Bill:
    """Rows of methods on one network at one batch size, float32; the methods share the traces of the prediction."""

    def __init__(self, network: Network, batch: int, device: str, steps: int) -> None:
        self.batch, self.device, self.steps = batch, device, steps
        # The first and the last phase of gradual unfreezing: the largest peak is the last one's.
        self.cfg = network.config(train_cfg=dict(max_epochs=2))
        self._predictor: Predictor | None = None

    def rows(self, methods: Sequence[str]) -> dict[str, Callable[[], dict]]:
        """Functions that measure a method, by its name."""
        return {name: partial(self._row, name) for name in methods}

    def _row(self, name: str) -> dict:
        """Bytes planned, and measured of a real step; on a GPU also what the allocator reserves and CUDA adds."""
        try:
            method = load_method(name)
            if self._predictor is None:
                self._predictor = Predictor(self.cfg, self.device, self.batch, None)
            planned = self._predictor.predict(method, run_length(self.cfg))
            measured = _measure(self.cfg, [name], self.batch, self.steps, 1, None, self.device)[name]
        except UserError as error:  # its library is missing, or it cannot be predicted
            return dict(left_out=str(error))
        return dict(
            method=name,
            batch=self.batch,
            planned=planned.peak,
            allocated=measured.allocated,
            reserved=measured.reserved,
            step_seconds=measured.phases[-1].step_seconds,
            outside=_outside_the_allocator() if self.device == 'cuda' else None,
        )


def unfreezing_row(
    network: Network, autocast: str | None, device: str, batch: int, steps: int, epochs: int | None = None
) -> dict:
    """Seconds per step over a run: gradual unfreezing, all its phases weighted by their length, against AdamW.

    Args:
        network: The network.
        autocast: ``None`` (float32) or ``'bfloat16'``.
        device: ``'cuda'`` or ``'cpu'``.
        batch: Images per step.
        steps: Timed steps of each phase and method, half of them in each of two turns.
        epochs: Length of the run. Default: the paper's 20.
    """
    cfg = network.config(**(dict(train_cfg=dict(max_epochs=epochs)) if epochs else {}))
    measured = _measure(cfg, ['adamw', 'freeze-embed', 'gradual-unfreezing'], batch, steps, 2, autocast, device)
    seconds = {name: measure.seconds_per_step for name, measure in measured.items()}
    return dict(
        batch=batch,
        phases=len(measured['gradual-unfreezing'].phases),
        seconds_per_step=seconds,
        over_adamw=seconds['gradual-unfreezing'] / seconds['adamw'],
    )


def _measure(cfg, methods, batch, steps, rounds, autocast, device) -> dict[str, MethodMeasure]:
    said: list[str] = []
    measured = measure_methods(cfg, methods, batch, steps, rounds, autocast, device, report=said.append)
    if len(measured) < len(methods):
        raise UserError(said[0])
    return {measure.name: measure for measure in measured}


def _outside_the_allocator() -> int:
    """Bytes in use on the device beyond PyTorch's allocator: the CUDA context and the libraries' own memory.

    Other programs on the device count too; there should be none.
    """
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()
