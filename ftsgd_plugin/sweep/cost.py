"""What a run will cost: GPU-hours from FLOPs, disk from parameters. An estimate to plan with, no measurement."""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmpretrain.registry import DATASETS

from ..datasets.digits import DIGITS_PER_SPLIT, PICTURES_PER_DIGIT
from .plan import Run

TRAIN_FACTOR = 3  # forward and backward over forward alone
TFLOPS = 60.0  # sustained, in TFLOP/s: an assumption about the GPU, not a measurement
LOG_BYTES = 2**20  # logs and record of a run, about
_STATE_BYTES = {'AdamW': 8, 'Adam': 8, 'Lamb': 8}  # per parameter in float32; others: 4 with momentum, else 0
_TABLE = Path(__file__).with_name('model_costs.csv')  # written by benchmarks/model_costs.py


@dataclass(frozen=True)
class Cost:
    """Of one run.

    Attributes:
        images: Images of all training epochs.
        evaluated: Images of all evaluations.
        flops: Of training and evaluation; freezing is not counted as a saving.
        weights_bytes: Of the best checkpoint.
        state_bytes: Of the optimizer; the last checkpoint has it too.
    """

    images: int
    evaluated: int
    flops: float
    weights_bytes: int
    state_bytes: int

    def hours(self, tflops: float = TFLOPS) -> float:
        """GPU-hours at so many sustained TFLOP/s."""
        return self.flops / (tflops * 1e12) / 3600

    @property
    def running_bytes(self) -> int:
        """Most disk while it runs: the last checkpoint, the best one, and a last one being written."""
        return 3 * self.weights_bytes + 2 * self.state_bytes + LOG_BYTES

    @property
    def kept_bytes(self) -> int:
        """Disk of a finished run whose checkpoints are kept."""
        return 2 * self.weights_bytes + self.state_bytes + LOG_BYTES


@functools.cache
def model_costs() -> dict[str, tuple[float, int]]:
    """FLOPs of one forward pass of one image, and parameters, by model."""
    with open(_TABLE, newline='') as file:
        rows = csv.DictReader(line for line in file if not line.startswith('#'))
        return {row['model']: (float(row['forward_flops']), int(row['parameters'])) for row in rows}


def predict(run: Run, cfg: Config) -> Cost:
    """Predict the cost of a run from its config."""
    forward, parameters = model_costs()[run.model]
    epochs = cfg.train_cfg.max_epochs
    validations = -(-epochs // cfg.train_cfg.get('val_interval', 1))
    images = epochs * _size(run, cfg.train_dataloader.dataset)
    evaluated = validations * sum(_size(run, dataset) for dataset in cfg.val_dataloader.dataset.datasets)
    optimizer = cfg.optim_wrapper.optimizer
    state = _STATE_BYTES.get(optimizer.type, 4 if optimizer.get('momentum') else 0)
    flops = forward * (TRAIN_FACTOR * images + evaluated)
    return Cost(images, evaluated, flops, 4 * parameters, state * parameters)


def _size(run: Run, dataset: dict) -> int:
    """Published number of images of a split; ``indices`` may cut it."""
    if run.dataset == 'digits':
        size = DIGITS_PER_SPLIT[dataset['split']] * PICTURES_PER_DIGIT
    else:
        size = DATASETS.get(dataset['type']).PUBLISHED[dataset['split']]
    indices = dataset.get('indices')
    return min(size, indices) if isinstance(indices, int) and indices > 0 else size
