"""A diagnosis as text for the terminal, as JSON and as a self-contained HTML page."""

import json
import os
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from ..runner.build import merge_cfg_options, read_config
from ..utils.errors import check_parent
from ..utils.files import write_text
from ..utils.format import format_bytes
from ..utils.pages import render_page
from ..utils.plotting import import_pyplot
from ..utils.version import __version__
from .choice import Diagnosis
from .diagnosis import diagnose
from .own_points import OwnPoint
from .phases import ALL_METHODS
from .plots import draw_evidence, draw_layer_gradients
from .setup import quieten

COST_HEADER = ('method', 'memory', 'of AdamW', 'ms per image', 'of AdamW', 'fits')
OWN_HEADER = ('measured with this project', 'ratio', 'ID gain', 'OOD gain', 'OOD AUROC gain', 'AdamW: ID gain',
              'AdamW: OOD gain', 'seeds', 'device, date')  # fmt: skip
_TEMPLATE = Path(__file__).with_name('templates') / 'diagnosis.html.j2'


def write_diagnosis(
    config: str | os.PathLike,
    out: str | os.PathLike | None = None,
    json_path: str | os.PathLike | None = None,
    batches: int = 8,
    memory: int | None = None,
    device: str | None = None,
    cfg_options: dict | None = None,
    command: str = '',
    points: Sequence[str | os.PathLike] = (),
    include_own: bool = False,
) -> Diagnosis:
    """Diagnose a config and write the page; print a summary.

    Args:
        config: The config file.
        out: Directory for ``diagnosis.html`` and its figures. Default: ``work_dirs/diagnose/CONFIG_NAME``.
        json_path: Write the answer as data to this file too.
        batches, memory, device: See :func:`ftsgd_plugin.profiling.diagnosis.diagnose`.
        cfg_options: Overrides of the config.
        command: Shown in the page's footer.
        points, include_own: See :func:`ftsgd_plugin.profiling.diagnosis.diagnose`.

    Returns:
        Diagnosis: The answer.

    Raises:
        UserError: The directory of ``json_path`` is missing, Matplotlib is missing, or as
            :func:`ftsgd_plugin.profiling.diagnosis.diagnose`.
    """
    start, name = time.perf_counter(), Path(config).stem
    cfg = read_config(str(config))
    merge_cfg_options(cfg, str(config), cfg_options)
    if json_path:
        check_parent(json_path, f'--json {json_path}')
    import_pyplot()  # a missing Matplotlib is reported before the measurement
    quieten()
    out = Path(out or Path('work_dirs/diagnose') / name)
    out.mkdir(parents=True, exist_ok=True)
    answer = diagnose(cfg, name, batches, memory, device, methods=ALL_METHODS, points=points, include_own=include_own)
    page = write_page(answer, name, out, command)
    if json_path:
        write_text(json_path, json.dumps(answer.to_dict(), indent=1) + '\n')
    print(summary_text(answer))
    print(f'\nwritten: {page} ({time.perf_counter() - start:.0f} s)')
    return answer


def cost_rows(answer: Diagnosis) -> list[tuple[str, ...]]:
    """The costs as text under ``COST_HEADER``, one row per method."""
    adamw = answer.methods['adamw']
    fits = {True: 'yes', False: 'no', None: '?'}
    return [
        (
            name,
            format_bytes(cost.bytes),
            f'{cost.bytes / adamw.bytes:.2f}',
            f'{1000 * cost.seconds_per_image:.3g}',
            f'{cost.seconds_per_image / adamw.seconds_per_image:.2f}',
            fits[cost.fits],
        )
        for name, cost in answer.methods.items()
    ]


def own_rows(points: Sequence[OwnPoint]) -> list[tuple[str, ...]]:
    """Points of our own as text under ``OWN_HEADER``."""

    def gain(value: float | None) -> str:
        return '–' if value is None else f'{value:+.1f}'

    return [
        (
            point.label,
            f'{point.ratio:.2f}',
            *(gain(getattr(point, key)) for key in ('gain_id', 'freeze_embed_gain', 'gain_auroc')),
            *(gain(getattr(point, key)) for key in ('adamw_gain_id', 'adamw_gain')),
            str(point.seeds),
            f'{point.device}, {point.date}',
        )
        for point in points
    ]


def summary_text(answer: Diagnosis) -> str:
    """The recommendation, its reasons and the table of costs for the terminal."""
    lines = [COST_HEADER, *cost_rows(answer)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COST_HEADER))]
    table = [
        ('> ' if line[0] == answer.recommendation else '  ')
        + '  '.join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in lines
    ]
    reasons = [f'  - {reason}' for reason in answer.reasons]
    return '\n'.join(
        [
            f'\n{answer.headline} (configs/_base_/methods/{answer.recommendation}.py)',
            *reasons,
            f'\npredicted at batch {answer.batch_size}:',
            *table,
            *(f'  {name}: left out: {reason}' for name, reason in answer.left_out.items()),
        ]
    )


def write_page(answer: Diagnosis, name: str, out: Path, command: str = '') -> Path:
    """Write ``diagnosis.html`` and its figures; returns the page's path.

    Args:
        answer: The diagnosis.
        name: Name of the model, for title and figures.
        out: Directory.
        command: Shown in the footer.
    """
    figures = {'gradients': out / 'gradients.png', 'evidence': out / 'evidence.png'}
    draw_layer_gradients([answer.profile], figures['gradients'])
    draw_evidence(answer.paper, answer.ratio, name, figures['evidence'], answer.ours, answer.evidence.own > 0)
    facts = [command, str(date.today()), f'torch {torch.__version__}', f'ftsgd_plugin {__version__}']
    text = render_page(
        _TEMPLATE,
        title=f'Which method for {name}?',
        footer=' · '.join(filter(None, facts)),
        answer=answer,
        header=COST_HEADER,
        rows=cost_rows(answer),
        chosen=list(answer.methods).index(answer.recommendation),
        own_header=OWN_HEADER,
        own_rows=own_rows(answer.ours),
        **figures,
    )
    return write_text(out / 'diagnosis.html', text)
