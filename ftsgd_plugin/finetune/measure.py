"""What a fine-tuning measures before it decides: gradients, memory and time of the methods, time per image."""

import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from mmengine.config import Config

from ..profiling.diagnosis import diagnose
from ..profiling.diagnosis_page import write_page
from ..profiling.setup import training_loader
from ..utils.errors import UserError
from ..utils.format import format_bytes
from .options import AUTO
from .runs import free_memory
from .time_plan import image_costs

_LOADED_BATCHES = 3


@dataclass(frozen=True)
class Measured:
    """The outcome of the measurements.

    Attributes:
        method: The method that will train.
        headline: The diagnosis in a sentence.
        reason: Its first reason.
        ratio: Gradient norm of the embedding over that of the largest middle layer.
        bytes: Predicted peak of the method.
        memory: The limit in bytes, if there is one.
        train_image, eval_image: Seconds per image.
        seconds: What measuring has taken.
    """

    method: str
    headline: str
    reason: str
    ratio: float
    bytes: int
    memory: int | None
    train_image: float
    eval_image: float
    seconds: float

    def to_dict(self) -> dict:
        """Plain JSON data."""
        return asdict(self)


def measure(cfg: Config, name: str, method: str, memory: int | None, out: Path, command: str = '') -> Measured:
    """Diagnose a config, write the page, and choose the method.

    Args:
        cfg: The config; its own method is ignored.
        name: Name of the model and data, for the page.
        method: A method part, or ``'auto'`` for the recommended one.
        memory: Bytes that training has to fit. Default: the memory of the GPU.
        out: Directory of the page.
        command: Shown on it.

    Raises:
        UserError: The method does not fit the memory, or none does; or as
            :func:`ftsgd_plugin.profiling.diagnosis.diagnose`.
    """
    start = time.perf_counter()
    answer = diagnose(cfg, name, memory=memory, report=lambda line: None)
    free_memory()
    out.mkdir(parents=True, exist_ok=True)
    write_page(answer, name, out, command)
    chosen = answer.recommendation if method == AUTO else method
    cost = answer.methods[chosen]
    if cost.fits is False:
        limit, size = format_bytes(answer.memory), answer.batch_size
        least = min(one.bytes for one in answer.methods.values())
        which = 'no method fits' if method == AUTO else f'--method {method} does not fit'
        needs = f'{chosen} needs {format_bytes(cost.bytes)}'
        other = '' if method == AUTO or least > answer.memory else ', another method'
        raise UserError(
            f'--memory {limit}: {which} with 10 % to spare at --batch-size {size} ({needs}); give a smaller '
            f'--batch-size{other} or a smaller --image-size.'
        )
    loading = loading_seconds(cfg)
    train_image, eval_image = image_costs(
        cost.seconds_per_image,
        answer.methods['sgd'].seconds_per_image,
        loading,
        cfg.train_dataloader.get('num_workers', 0),
    )
    return Measured(
        chosen,
        answer.headline,
        answer.reasons[0],
        answer.ratio,
        cost.bytes,
        answer.memory,
        train_image,
        eval_image,
        time.perf_counter() - start,
    )


def loading_seconds(cfg: Config, batches: int = _LOADED_BATCHES) -> float:
    """Seconds per image that reading and transforming training images takes in one process.

    Args:
        cfg: A config with a ``train_dataloader``.
        batches: How many are read at most.
    """
    cfg = cfg.copy()
    cfg.train_dataloader = {**cfg.train_dataloader, 'num_workers': 0}
    loader = training_loader(cfg)
    start, images = time.perf_counter(), 0
    for batch in islice(loader, batches):
        images += len(batch['inputs'])
    return (time.perf_counter() - start) / max(images, 1)
