"""A schedule as a user writes it: its keys, its numbers, its file. Needs neither PyTorch nor a model.

A document is a dict; a list is short for ``dict(phases=[...])``::

    lr: paper                     # learning rate over the run: constant (default), paper, linear, cosine
    phases:                       # one after another
    - layers: [head]              # open from here on; names and globs, blocks.3 is a whole block, rest is what is left
      length: 2 epochs            # or: 300 steps, 25%
      lr: 10                      # instead of the run's: a factor of the base rate
      lr_warmup: 100 steps        # from near zero, linearly
    - layers: [blocks.11, norm]
      length: 25%
      lr: [10, 1]                 # from 10 to 1
      curve: cosine               # or linear (default), exponential
      lr_mult: {head: 0.1}        # for these layers, in this phase
    - layers: rest
      close: [head]               # closed again

``only`` instead of ``layers`` names all that trains in the phase. The last phase lasts to the end of the run. A phase
ends before its length with ``patience``, and with ``restore_best`` the next one starts from its best weights
(:mod:`.phase_ends`).
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from ..utils.errors import UserError, one_line
from ..utils.names import did_you_mean
from .phase_ends import ENDING_KEYS, check_ending
from .schedule import CURVES

RUN_CURVES = ('constant', *CURVES)
PHASE_CURVES = ('linear', 'cosine', 'exponential')
REST = 'rest'
FILES = ('.yaml', '.yml', '.json')
_KEYS = ('phases', 'lr')
_LR_KEYS = ('curve', 'decay', 'warmup', 'cooldown')
_PHASE_KEYS = ('layers', 'only', 'close', 'length', 'lr', 'curve', 'lr_mult', 'lr_warmup', *ENDING_KEYS)
_LENGTH = re.compile(r'(\d+(?:\.\d+)?)\s*(steps?|epochs?|%)')


@dataclass(frozen=True)
class Length:
    """A stretch of training as written: ``unit`` is ``'steps'``, ``'epochs'`` or ``'fraction'`` (of the run)."""

    amount: float
    unit: str

    def in_steps(self, total: int, by_epoch: bool, epoch_length: int | None, label: str) -> float:
        """Convert into steps of a schedule, which are epochs or iterations.

        Args:
            total: Steps of the run.
            by_epoch: Whether its steps are epochs.
            epoch_length: Iterations per epoch, if known.
            label: What messages begin with.

        Raises:
            UserError: The schedule does not know the unit.
        """
        if self.unit == 'fraction':
            return self.amount * total
        if self.unit == 'steps' and by_epoch:
            raise UserError(
                f'{label} is in steps and the schedule counts epochs; set convert_to_iter_based=True beside '
                'by_epoch=True.'
            )
        if self.unit == 'epochs' and not by_epoch:
            if epoch_length is None:
                raise UserError(
                    f'{label} is in epochs and the schedule counts steps; set by_epoch=True and '
                    'convert_to_iter_based=True (GradualUnfreezing: epoch_length=len(loader)).'
                )
            return self.amount * epoch_length
        return self.amount


def is_file(schedule: Any) -> bool:
    """Whether a ``schedule`` option names a file."""
    return isinstance(schedule, str) and Path(schedule).suffix.lower() in FILES


def read_document(schedule: Any, label: str) -> str | dict[str, Any]:
    """The ``schedule`` option of a scheduler as plain values: the name of a curve, or a checked document.

    Args:
        schedule: A name of :data:`ftsgd_plugin.optim.schedule.CURVES`, a YAML or JSON file, a list of phases, or a
            document.
        label: How messages name the option; a file is named itself.

    Raises:
        UserError: It is none of these, a file cannot be read, a key is unknown, or a value is not what it has to be.
    """
    if is_file(schedule):
        label, schedule = str(schedule), _read_file(Path(schedule))
    if isinstance(schedule, str):
        if schedule not in CURVES:
            raise UserError(
                f'{label}={schedule!r} is none of {", ".join(map(repr, CURVES))}, a file ({", ".join(FILES)}) or a '
                'list of phases; correct it.'
            )
        return schedule
    schedule = plain(schedule)
    if isinstance(schedule, list):
        schedule = {'phases': schedule}
    if not isinstance(schedule, dict):
        raise UserError(f'{label}={schedule!r} is neither a name, a file nor a list of phases; correct it.')
    _check_keys(schedule, _KEYS, label)
    if 'lr' in schedule:
        _check_run_curve(schedule['lr'], f'{label}: lr')
    phases = schedule.get('phases')
    if not isinstance(phases, list) or not phases:
        raise UserError(f'{label}: phases={phases!r} is not a list of phases; write at least one.')
    for i, phase in enumerate(phases, start=1):
        _check_phase(phase, f'{label}: phase {i}')
        check_ending(phase, f'{label}: phase {i}', last=i == len(phases))
    for i, phase in enumerate(phases[:-1], start=1):
        if 'length' not in phase:
            raise UserError(f'{label}: phase {i} has no length; only the last phase lasts to the end of the run.')
    return schedule


def plain(value: Any) -> Any:
    """Dicts, lists and scalars as Python's own types, which a checkpoint can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def parse_length(value: Any, label: str) -> Length:
    """Read ``'2 epochs'``, ``'300 steps'``, ``'25%'`` or ``0.25``.

    Raises:
        UserError: It is something else.
    """
    if is_finite(value) and 0 < value < 1:
        return Length(float(value), 'fraction')
    match = _LENGTH.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not float(match[1]):
        raise UserError(f"{label}={value!r} is not a length; write '2 epochs', '300 steps' or '25%'.")
    amount = float(match[1])
    if match[2] == '%':
        return Length(amount / 100, 'fraction')
    unit = 'steps' if match[2].startswith('step') else 'epochs'
    if unit == 'steps' and amount % 1:
        raise UserError(f'{label}={value!r} is not a whole number of steps; correct it.')
    return Length(amount, unit)


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number; ``True`` and ``False`` are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def names_in(value: Any) -> list[str]:
    """Layer names as a list; one alone may be a string."""
    return [value] if isinstance(value, str) else list(value)


def write_text_of(document: Mapping[str, Any], comment: str) -> str:
    """A document as YAML with a comment above it."""
    yaml = _import_yaml()
    body = yaml.safe_dump(plain(document), sort_keys=False, default_flow_style=None, width=110)
    return ''.join(f'# {line}\n' for line in comment.splitlines()) + body


def _read_file(path: Path) -> Any:
    yaml = _import_yaml()
    try:
        return yaml.safe_load(path.read_text('utf-8'))
    except FileNotFoundError:
        raise UserError(
            f'{path}: no such schedule; tools/print_layers.py CONFIG --schedule --write writes one.'
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: cannot be read ({one_line(error)}); correct it.') from None
    except yaml.YAMLError as error:
        raise UserError(f'{path}: is not YAML ({one_line(error, limit=120)}); correct it.') from None


def _import_yaml() -> ModuleType:
    try:
        import yaml  # MMEngine requires it, the part for plain loops does not
    except ImportError as error:
        raise UserError('PyYAML, which reads and writes schedules, is missing; pip install pyyaml.') from error
    return yaml


def _check_keys(value: Mapping, known: Sequence[str], label: str) -> None:
    for key in value:
        if key not in known:
            raise UserError(f'{label}: does not know {key!r}; {did_you_mean(str(key), known)}')


def _check_run_curve(value: Any, label: str) -> None:
    if isinstance(value, dict):
        _check_keys(value, _LR_KEYS, label)
        if 'decay' in value and not is_finite(value['decay']):
            raise UserError(f'{label}.decay={value["decay"]!r} is not a finite number; the paper uses 3.73.')
        for key in ('warmup', 'cooldown'):
            if key in value:
                parse_length(value[key], f'{label}.{key}')
        value, label = value.get('curve'), f'{label}.curve'
    if value not in RUN_CURVES:
        raise UserError(f'{label}={value!r} is none of {", ".join(map(repr, RUN_CURVES))}; correct it.')


def _check_phase(phase: Any, label: str) -> None:
    if not isinstance(phase, dict):
        raise UserError(f'{label}={phase!r} is not a dict; write dict(layers=[...], length=...).')
    _check_keys(phase, _PHASE_KEYS, label)
    if 'layers' in phase and 'only' in phase:
        raise UserError(f'{label}: has layers (what opens) and only (all that trains); keep one.')
    for key in ('layers', 'only', 'close'):
        names = phase.get(key, REST)
        if not (isinstance(names, str) or (isinstance(names, list) and all(isinstance(name, str) for name in names))):
            raise UserError(f'{label}: {key}={names!r} is not a list of layer names and globs; correct it.')
    for key in ('length', 'lr_warmup'):
        if key in phase:
            parse_length(phase[key], f'{label}: {key}')
    _check_rate(phase, label)


def _check_rate(phase: Mapping, label: str) -> None:
    rate = phase.get('lr')
    for value in rate if isinstance(rate, list) else [] if rate is None else [rate]:
        if not is_finite(value) or value <= 0:
            raise UserError(
                f'{label}: lr={value!r} is not a finite number above 0, a factor of the base rate; to stop layers name '
                'them in close.'
            )
    if isinstance(rate, list) and len(rate) != 2:
        raise UserError(f'{label}: lr={rate!r} is not a pair; write [first, last].')
    if 'curve' in phase and phase['curve'] not in PHASE_CURVES:
        raise UserError(
            f'{label}: curve={phase["curve"]!r} is none of {", ".join(map(repr, PHASE_CURVES))}; correct it.'
        )
    if 'curve' in phase and not isinstance(rate, list):
        raise UserError(f'{label}: curve={phase["curve"]!r} needs two rates to go between; write lr=[first, last].')
    multipliers = phase.get('lr_mult', {})
    if not isinstance(multipliers, dict):
        raise UserError(f'{label}: lr_mult={multipliers!r} is not a dict; write {{head: 0.1}}.')
    for name, value in multipliers.items():
        if not is_finite(value) or value <= 0:
            raise UserError(
                f'{label}: lr_mult[{name!r}]={value!r} is not a finite number above 0; to stop layers name them in '
                'close.'
            )


def locate(schedule: Any, directories: Sequence[str | os.PathLike]) -> Any:
    """A schedule's file as the first that exists: by its path, else in these directories; anything else as it is."""
    if not is_file(schedule) or Path(schedule).is_file():
        return schedule
    found = [path for directory in directories if (path := Path(directory, schedule)).is_file()]
    return str(found[0]) if found else schedule
