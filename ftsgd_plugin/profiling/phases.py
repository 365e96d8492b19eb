"""The methods of `configs/_base_/methods/` and the layers that train in each of their phases."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmengine.config import Config

from ..freezing import select_layers
from ..layers import Layer
from ..methods import OTHER_METHODS, WISE_FT
from ..optim.flash import casts_weights
from ..optim.places import places_of_layers
from ..optim.schedule import probe_steps
from ..optim.schedule_document import read_document
from ..optim.schedules import PAPER, make_schedule
from ..utils.errors import UserError
from ..utils.names import type_name
from ..utils.paths import config_path

COMPARED_METHODS = (  # the paper's, and SGD in backward
    'adamw',
    'adamw-freeze-embed',
    'sgd',
    'freeze-embed',
    'freeze-embed-no-momentum',
    'sgd-in-backward',
    'gradual-unfreezing',
)
# Without freeze-embed followed by interpolation, which trains as freeze-embed does.
ALL_METHODS = (*COMPARED_METHODS, *(name for name in OTHER_METHODS if not name.endswith(WISE_FT)))
_LENGTHS = ('length', 'lr_warmup', 'warmup', 'cooldown')  # keys of a phase, and of the rate of a schedule
_GRADUAL, _PROBE = 'GradualUnfreezingLR', 'ProbeThenFineTuneLR'
DEFAULT_EPOCHS = 20  # the paper's on Living-17 and Waterbirds; for configs that are only a model part


@dataclass(frozen=True)
class Method:
    """A method part.

    Attributes:
        name: As in the config's name.
        optim_wrapper: Config of the optimizer wrapper.
        scheduler: Config of its parameter scheduler; of several, of the one that opens blocks, else of the first.
    """

    name: str
    optim_wrapper: dict
    scheduler: dict

    @property
    def freeze(self) -> str | list[str]:
        """The method's ``freeze`` option: the layers that never train."""
        return (self.optim_wrapper.get('paramwise_cfg') or {}).get('freeze', 'embed')

    @property
    def train(self) -> str:
        """The method's ``train`` option: which parameters of the other layers train."""
        return (self.optim_wrapper.get('paramwise_cfg') or {}).get('train', 'all')

    @property
    def adapters(self) -> dict | None:
        """The method's ``lora`` option: the adapters that it puts into the model."""
        return (self.optim_wrapper.get('paramwise_cfg') or {}).get('lora')

    @property
    def casts_weights(self) -> bool:
        """Whether the method keeps the weights in bfloat16."""
        return casts_weights(self.optim_wrapper.get('optimizer', {}))

    @property
    def in_backward(self) -> bool:
        """Whether a gradient is applied and freed as soon as it is complete."""
        return type_name(self.optim_wrapper) in ('FlashReleaseOptimWrapper', 'SGDInBackwardOptimWrapper')

    @property
    def gradual(self) -> bool:
        """Whether blocks open one after another."""
        return type_name(self.scheduler) == _GRADUAL

    @property
    def needs_epoch_length(self) -> bool:
        """Whether lengths in steps stand in a schedule whose length is in epochs."""
        schedule = self.scheduler.get('schedule', 'paper')
        if not self.scheduler.get('convert_to_iter_based') or isinstance(schedule, str):
            return False
        document = schedule if isinstance(schedule, dict) else {'phases': schedule}
        parts = [*document['phases'], document.get('lr')]
        given = [part.get(key) for part in parts if isinstance(part, dict) for key in _LENGTHS]
        return any(isinstance(length, str) and 'step' in length for length in given)

    @property
    def probes(self) -> bool:
        """Whether a linear probe comes first."""
        return type_name(self.scheduler) == _PROBE


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which the same parameters train.

    Attributes:
        open_blocks: Number of blocks that train, from the top.
        fraction_of_steps: Its share of the run's steps, 0 to 1.
        frozen: The layers that do not train.
        train: Which parameters of the others train, see :func:`ftsgd_plugin.freezing.left_out`.
    """

    open_blocks: int
    fraction_of_steps: float
    frozen: tuple[Layer, ...]
    train: str = 'all'


def load_method(name: str) -> Method:
    """Read a method part.

    Args:
        name: One of `configs/_base_/methods/`, e.g. ``'freeze-embed'``.

    Raises:
        UserError: No such part exists.
    """
    return method_of(Config.fromfile(config_path(f'_base_/methods/{name}.py')), name)


def method_of(cfg: Config, name: str) -> Method:
    """The method of a full config, with its own optimizer and schedule.

    Args:
        cfg: A config with ``optim_wrapper``.
        name: Name of the method.
    """
    schedulers = cfg.get('param_scheduler') or {}
    if isinstance(schedulers, list):
        opening = [scheduler for scheduler in schedulers if type_name(scheduler) in (_GRADUAL, _PROBE)]
        schedulers = (opening or schedulers or [{}])[0]
    return Method(name, cfg.optim_wrapper.to_dict(), dict(schedulers))


def run_length(cfg: Config) -> int:
    """Length of the run of ``cfg`` in the unit of its schedule: epochs, or iterations if its loop counts those."""
    loop = cfg.get('train_cfg') or {}
    return loop.get('max_epochs') or loop.get('max_iters') or DEFAULT_EPOCHS


def list_phases(method: Method, layers: Sequence[Layer], length: int, epoch_length: int | None = None) -> list[Phase]:
    """The phases of a method's run.

    Gradual unfreezing follows :func:`ftsgd_plugin.optim.schedules.make_schedule`, a probe before fine-tuning
    :func:`ftsgd_plugin.optim.schedule.probe_steps`; every other method has one phase.

    Args:
        method: The method.
        layers: Layers of the model, from ``list_layers``.
        length: Number of epochs (or of iterations, if the schedule counts those), all of the same number of steps.
        epoch_length: Iterations per epoch, for phases in steps of a schedule whose length is in epochs.

    Returns:
        list[Phase]: In order of time; shares add up to 1.

    Raises:
        UserError: ``length`` is below 1, the model has no block to open, or a schedule does not fit the model or the
            length.
    """
    if length < 1:
        raise UserError(f'a run of {length} epochs has no phase; give a positive number.')
    total = len({layer.block for layer in layers if layer.role == 'block'})
    always = tuple(select_layers(layers, method.freeze))
    if method.probes:
        first = probe_steps(length, method.scheduler.get('probe', 0.5))
        probe = Phase(0, first / length, tuple(layer for layer in layers if layer.role != 'head'), method.train)
        return [*([probe] if first else []), Phase(total, 1 - first / length, always, method.train)]
    if not method.gradual:
        return [Phase(total, 1.0, always, method.train)]
    if not total:
        raise UserError(f'{method.name}: the model has no blocks to open; choose another method.')
    given, fixed = method.scheduler, {layer.name for layer in always}
    options = {key: given[key] for key in PAPER if key in given}
    options['schedule'] = read_document(options.get('schedule', PAPER['schedule']), f'{method.name}: schedule')
    unit = epoch_length or 1
    schedule = make_schedule(
        _GRADUAL,
        places_of_layers(layer for layer in layers if layer.name not in fixed),
        length * unit,
        options,
        warmup=given.get('warmup', 0) * unit,
        cooldown=given.get('cooldown', 0) * unit,
        by_epoch=given.get('by_epoch', True) and epoch_length is None,
        epoch_length=epoch_length,
    )
    phases = []
    for start, steps in schedule.stretches():
        is_open = schedule.trains(start)
        closed = tuple(
            layer for layer, [place] in zip(layers, places_of_layers(layers))
            if layer.name in fixed or not is_open(place)
        )  # fmt: skip
        phases.append(Phase(schedule.open_blocks(start), steps / (length * unit), closed, method.train))
    return phases
