"""What a user asks ``tools/finetune.py`` for."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..profiling.phases import COMPARED_METHODS
from ..utils.errors import UserError
from ..utils.metrics import ID_METRIC, METRIC_NAMES
from ..utils.names import did_you_mean

AUTO = 'auto'


@dataclass(frozen=True)
class Options:
    """The options of a fine-tuning; those that are ``None`` are chosen by the command.

    Attributes:
        data: Directory or file of the data.
        model: ``'timm/NAME'``, ``'open_clip/NAME/TAG'``, ``'torchvision/NAME'``, ``'mmpretrain/NAME'``, or a part of
            ``configs/_base_/models``.
        method: A method part, or ``'auto'``.
        hold_out: Domains that are held out.
        memory: Bytes that training has to fit.
        time: Seconds for everything.
        epochs: The most epochs of the training.
        lr: Learning rate; no search.
        batch_size: Images per step.
        image_size: Side of the network's input in pixels.
        seed: Of the splits that are drawn, the head and the order.
        metric: The metric that selects; in distribution.
        pretrained: ``True``: the published weights; ``False``: none; a file.
        split_fractions: Shares of training, validation and, optionally, test images, where splits are drawn.
        path_column, label_column, split_column, group_column: Columns of a table.
        split_names: ``(name in the data, name here)`` of splits.
        whole: Column whose values stay in one split.
        workers: Processes that load images.

    Raises:
        UserError: A value cannot be meant.
    """

    data: str
    model: str
    method: str = AUTO
    hold_out: tuple[str, ...] = ()
    memory: int | None = None
    time: float | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int = 32
    image_size: int | None = None
    seed: int = 0
    metric: str = ID_METRIC
    pretrained: bool | str = True
    split_fractions: tuple[float, ...] | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    split_names: tuple[tuple[str, str], ...] = ()
    whole: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        known = (AUTO, *COMPARED_METHODS)
        if self.method not in known:
            raise UserError(f'--method {self.method}: no such method; {did_you_mean(self.method, known)}')
        where, _, name = self.metric.partition('/')
        if where != 'id':
            raise UserError(
                f'--metric {self.metric}: selection sees in-distribution data only; give a metric that begins with id/.'
            )
        if name not in METRIC_NAMES:
            known = [f'id/{one}' for one in METRIC_NAMES]
            raise UserError(f'--metric {self.metric}: no such metric; {did_you_mean(self.metric, known)}')
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f'--lr {self.lr}: is not a positive number; correct it.')
        if isinstance(self.pretrained, str) and not Path(self.pretrained).is_file():
            raise UserError(f'--pretrained {self.pretrained}: no such file; name a weight file, or none.')

    def as_data(self) -> dict:
        """JSON data that two starts of the same command share wherever they are started."""
        values = {**asdict(self), 'data': str(Path(self.data).expanduser().absolute())}
        if isinstance(self.pretrained, str):
            values['pretrained'] = str(Path(self.pretrained).expanduser().absolute())
        return values

    def columns(self) -> Mapping[str, str]:
        """The columns that are named, as an argument of ``recognise``."""
        names = ('path', 'label', 'split', 'group')
        return {name: value for name in names if (value := getattr(self, f'{name}_column')) is not None}
