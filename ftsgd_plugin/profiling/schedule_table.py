"""A schedule as a table, a drawing and a file; the logic of ``tools/print_layers.py --schedule``."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from ..optim.schedule_document import write_text_of
from ..runner.build import read_config
from ..utils.errors import UserError, check_parent
from ..utils.files import write_text
from ..utils.format import format_bytes
from ..utils.options import TFLOPS
from .schedule_trace import ScheduleTrace, TracedPhase, trace_schedule
from .setup import quieten

_COLUMNS = 60  # of the drawing
_HEADER = ('phase', 'steps', 'opens', 'open blocks', 'parameters', 'learning rate', 'peak memory', 'time')


def print_schedule(
    config: str | os.PathLike,
    write: str | os.PathLike | None = None,
    draw: str | os.PathLike | None = None,
    epoch_length: int | None = None,
) -> ScheduleTrace:
    """Print the whole schedule of a config: what opens when, learning rates, and memory and time of every phase.

    Args:
        config: A config file with a ``GradualUnfreezingLR``.
        write: YAML file for the schedule in phases, to be edited; trained with, it is the same schedule.
        draw: PNG file for the figure. Default: beside ``write``, with its name; without it none.
        epoch_length: Iterations per epoch, if the training data is missing.

    Raises:
        UserError: As :func:`trace_schedule`, a file cannot be written, or ``write`` is not the name of a YAML file.
    """
    if write is not None and Path(write).suffix.lower() not in ('.yaml', '.yml'):  # else the figure may have its name
        raise UserError(f'--write {write}: a schedule is a YAML file; name it FILE.yaml.')
    if draw is None and write is not None:
        draw = Path(write).with_suffix('.png')
    for option, path in (('--write', write), ('--draw', draw)):
        if path is not None:
            check_parent(path, f'{option} {path}')
    quieten()
    trace = trace_schedule(read_config(str(config)), epoch_length)
    print(format_schedule(trace))
    if write is not None:
        write_text(write, written_schedule(trace, str(config)))
        print(f'\nwrote {write}')
    if draw is not None:
        from .schedule_plot import draw_schedule

        print(f'drew {draw_schedule(trace, draw)}')
    return trace


def format_schedule(trace: ScheduleTrace) -> str:
    """The table and the drawing of a schedule as text."""
    rows = [_row(trace, i) for i in range(len(trace.phases))]
    widths = [max(len(column), *(len(row[i]) for row in rows)) for i, column in enumerate(_HEADER)]
    lines = [
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        for row in (_HEADER, ['-' * width for width in widths], *rows)
    ]
    return '\n'.join([*lines, '', *_drawing(trace), '', *_notes(trace)])


def written_schedule(trace: ScheduleTrace, config: str) -> str:
    """The schedule of a trace in phases, as YAML."""
    scheduler, unit = trace.scheduler, 'epochs' if trace.scheduler.by_epoch else 'steps'
    document = scheduler.schedule
    if isinstance(document, str):
        document = scheduler.plan.document(unit)
    counting = 'by_epoch=True' if scheduler.by_epoch else 'by_epoch=False, or convert_to_iter_based=True'
    return write_text_of(
        document,
        f'Schedule of {config}; {scheduler.end - scheduler.begin} {unit}.\n'
        f"param_scheduler = dict(type='GradualUnfreezingLR', schedule='THIS FILE') with {counting}",
    )


def _row(trace: ScheduleTrace, index: int) -> tuple[str, ...]:
    phase, shares = trace.phases[index], trace.shares_of_time
    last = phase.start + phase.steps
    span = f'{phase.start + 1}' if phase.steps == 1 else f'{phase.start + 1}-{last}'
    what = ', '.join(phase.opens) + (f'; closes {", ".join(phase.closes)}' if phase.closes else '')
    first, final = ([values[step] for values in trace.rates.values()] for step in (phase.start, last - 1))
    rate = ' -> '.join(dict.fromkeys((_range(first), _range(final))))
    memory = format_bytes(phase.cost.peak) if phase.cost is not None else ''
    time = f'{shares[index]:.0%}' if shares else ''
    if (flops := trace.flops(phase)) is not None:
        time += f', {_duration(flops)}'
    return (str(index + 1), span, what, str(phase.open_blocks), f'{phase.parameters:,}', rate, memory, time)


def _range(values: Sequence[float]) -> str:
    shown = [f'{value:.3g}' for value in sorted(values) if not math.isnan(value)]
    if not shown:  # the paper's schedule with a frozen head
        return 'nothing trains'
    return shown[0] if shown[0] == shown[-1] else f'{shown[0]} to {shown[-1]}'


def _duration(flops: float) -> str:
    seconds = flops / (TFLOPS * 1e12)
    if seconds >= 360:
        return f'{seconds / 3600:.3g} h'
    return f'{seconds:.3g} s' if seconds >= 0.1 else f'{1000 * seconds:.2g} ms'


def _drawing(trace: ScheduleTrace) -> list[str]:
    """A line per block, from the head down; a column per share of the run."""
    names = trace.names[::-1]
    width = max(len(name) for name in names)
    columns = min(_COLUMNS, trace.steps)
    at = [_phase_of(trace, int((i + 0.5) * trace.steps / columns)) for i in range(columns)]
    stretch = max(1, _COLUMNS // columns)
    lines = []
    for name in names:
        marks = (('#' if name in phase.trained else '.') * stretch for phase in at)
        lines.append(f'{name.rjust(width)}  {"".join(marks)}')
    return [*lines, f'{"".rjust(width)}  {trace.unit} 1 to {trace.steps}; # trains, . is closed']


def _phase_of(trace: ScheduleTrace, step: int) -> TracedPhase:
    return next(phase for phase in reversed(trace.phases) if phase.start <= step)


def _notes(trace: ScheduleTrace) -> list[str]:
    trained = {layer for phase in trace.phases for layer in phase.layers}
    never = [name for name in trace.phases[0].frozen if name not in trained]
    more = f' and {len(never) - 6} more' if len(never) > 6 else ''
    lines = [f'never open: {", ".join(never[:6])}{more}'] if never else []
    for i, ending in enumerate(trace.scheduler.endings, start=1):
        if ending.patience is not None:
            lines.append(
                f'phase {i} ends earlier when {ending.metric} has not improved for {ending.patience} evaluations; the '
                'next ones move up'
            )
    if trace.phases[0].cost is not None:
        lines.append('memory: the most that tensors hold at once in one process, see tools/resources.py')
        lines.append(f'time: share of the operations; at {TFLOPS:g} TFLOP/s, which is not a measurement')
    return lines
