"""Predicted cost of whole runs: GPU-hours and disk space of a sweep before it starts."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from mmengine.config import Config

from ..records import run_names
from ..utils.options import TFLOPS
from .fake_step import image_size, model_config
from .phases import method_of, run_length
from .predict import MethodPrediction, Predictor
from .split_sizes import split_size

LOG_BYTES = 2**20  # logs and record of a run, about


@dataclass(frozen=True)
class RunCost:
    """Predicted cost of a whole run.

    Attributes:
        images: Images of all training epochs.
        evaluated: Images of all evaluations.
        flops: FLOPs of training, by the method's phases, and of evaluation.
        weights_bytes: Size of the model with its buffers, and so of the best checkpoint.
        state_bytes: Largest size of the optimizer's state; the last checkpoint holds it too.
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
        """Most disk space while it runs: the last checkpoint, the best one, and a new last one being written."""
        return 3 * self.weights_bytes + 2 * self.state_bytes + LOG_BYTES

    @property
    def kept_bytes(self) -> int:
        """Disk space of a finished run whose checkpoints are kept."""
        return 2 * self.weights_bytes + self.state_bytes + LOG_BYTES


class RunCosts:
    """Predict the cost of runs. Runs of one model share its traces, those of one method its prediction.

    The first run of a large model takes seconds, as do the phases of gradual unfreezing.

    Args:
        report: Called with the model's name before it is traced.
    """

    def __init__(self, report: Callable[[str], None] | None = None) -> None:
        self._report = report
        self._predictors: dict[str, dict[int, Predictor]] = {}
        self._methods: dict[tuple[int, str], MethodPrediction] = {}

    def __call__(self, cfg: Config) -> RunCost:
        """Predict the cost of the run of a full config.

        Raises:
            UserError: As :func:`predict_methods`.
        """
        names = run_names(cfg)
        predictor = self._predictor(cfg, names['model'])
        method, length = method_of(cfg, names['method']), run_length(cfg)
        optimizer = {key: value for key, value in method.optim_wrapper['optimizer'].items() if key != 'lr'}
        wrapper = {**method.optim_wrapper, 'optimizer': optimizer}
        key = (id(predictor), _key({'wrapper': wrapper, 'scheduler': method.scheduler, 'length': length}))
        if key not in self._methods:
            self._methods[key] = predictor.predict(method, length)
        predicted = self._methods[key]
        epochs = cfg.train_cfg.max_epochs
        validations = -(-epochs // cfg.train_cfg.get('val_interval', 1))
        images = epochs * split_size(names['dataset'], cfg.train_dataloader.dataset)
        splits = cfg.val_dataloader.dataset.get('datasets', [cfg.val_dataloader.dataset])
        evaluated = validations * sum(split_size(names['dataset'], split) for split in splits)
        return RunCost(
            images,
            evaluated,
            predicted.mean_flops_per_image * images + predictor.forward_flops_per_image() * evaluated,
            max(phase.weights + phase.buffers for phase in predicted.phases),
            max(phase.state for phase in predicted.phases),
        )

    def _predictor(self, cfg: Config, name: str) -> Predictor:
        # One trace for every number of classes: the head makes less than 0.1 % of a backbone.
        settings = model_config(cfg)
        if settings.get('head'):
            settings['head'].pop('num_classes', None)
        known = self._predictors.setdefault(_key(settings), {})  # by image size
        if known and (size := image_size(cfg, next(iter(known.values())).fake.model)) in known:
            return known[size]
        if self._report is not None:
            self._report(name)
        # As on a GPU, whose updates of all tensors at once are also traced faster, but with the CPU's operators: fake
        # CUDA tensors would open a CUDA context on GPU 0, which belongs to the runs. FLOPs per image do not depend on
        # the batch size.
        predictor = Predictor(cfg, 'cuda', batch_size=2, autocast=None, operators='cpu')
        known[predictor.fake.size] = predictor
        return predictor


def _key(settings: dict) -> str:
    return json.dumps(settings, sort_keys=True, default=str)
