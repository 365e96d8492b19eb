"""Predicted and measured cost of every method beside the paper's ratios; the logic of ``tools/resources.py``."""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from statistics import median

import mmengine
import mmpretrain
import torch
from mmengine.config import Config

from ..paper.costs import TIME_RATIOS, memory_ratios
from ..runner.build import read_config
from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.format import format_bytes
from ..utils.paths import config_path
from .measure import MethodMeasure, measure_methods
from .phases import COMPARED_METHODS
from .plots import draw_resources
from .predict import MethodPrediction, predict_methods
from .setup import quieten
from .sharded import plan_sharded, sharded_table

RESOURCES_HEADER = (
    'method',
    'predicted peak',
    'measured peak',
    'predicted / measured',
    'AdamW / method, predicted',
    'measured',
    'paper',
    'GFLOP / image',
    'time / image',
    'time / AdamW',
    'paper',
)
PHASES_HEADER = (
    'method',
    'open blocks',
    'share of steps',
    'bytes / parameter, planned',
    'measured',
    'peak, planned',
    'measured',
    'planned peak in',
    'time / step',
)


def compare_resources(
    configs: Iterable[str | os.PathLike] = (),
    models: Iterable[str] = (),
    methods: Sequence[str] = COMPARED_METHODS,
    batch_sizes: Iterable[int] = (32,),
    autocast: str | None = None,
    steps: int = 20,
    rounds: int = 2,
    device: str | None = None,
    predict_only: bool = False,
    out: str | os.PathLike | None = None,
    command: str = '',
    ranks: int | None = None,
) -> list[dict]:
    """Predict, and measure on this machine, the cost of every method on the models of some configs; print tables.

    No weights are loaded: sizes and times do not depend on them.

    Args:
        configs: Config files; their own method is ignored.
        models: Model parts, e.g. ``'clip-vit-b16'``.
        methods: Names of ``configs/_base_/methods/``.
        batch_sizes: Images per step, one table for each.
        autocast: ``None`` (float32), ``'bfloat16'`` or ``'float16'``.
        steps, rounds: See :func:`ftsgd_plugin.profiling.measure.measure_methods`.
        device: ``'cpu'`` or ``'cuda'``. Default: CUDA if the machine has it.
        predict_only: Measure nothing.
        out: Directory for ``resources.json``, ``resources.md`` and ``resources.png``. Default: print only.
        command: Recorded in the files.
        ranks: Plan the bytes of one of so many ranks of sharded training instead, and measure nothing.

    Returns:
        list[dict]: Per model and batch size, the numbers in ``resources.json``.

    Raises:
        UserError: There is no model, a config or method is missing, or there is no GPU to measure on.
    """
    if device == 'cuda' and not (predict_only or ranks) and not torch.cuda.is_available():
        raise UserError('--device cuda: this machine has no GPU; leave it out, or add --plan-only.')
    quieten()
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    facts = _facts(command, device, 0 if predict_only or ranks else steps)
    results, drawn, texts = [], [], []
    for name, cfg in _find_models(configs, models).items():
        for batch_size in batch_sizes:
            title = f'{name}, batch {batch_size}, {autocast or "float32"}'
            settings = dict(methods=methods, batch_size=batch_size, autocast=autocast, device=device)
            left_out: dict[str, str] = {}
            if ranks is not None:
                plans = plan_sharded(cfg, ranks, left_out=left_out, **settings)
                text = f'## {title}, one of {ranks} ranks, sharded\n\n{sharded_table(plans)}\n'
                text += ''.join(f'\n- {method}: left out: {reason}\n' for method, reason in left_out.items())
                print(text, flush=True)
                texts.append(text)
                planned = [plan.to_dict() for plan in plans]
                results.append(dict(model=name, batch_size=batch_size, autocast=autocast, ranks=ranks, sharded=planned))
                continue
            predictions, measures = predict_methods(cfg, left_out=left_out, **settings), []
            if not predictions:
                raise UserError(next(iter(left_out.values())))
            settings['methods'] = [method.name for method in predictions]
            if not predict_only:
                print(title, file=sys.stderr)
                measures = measure_methods(cfg, steps=steps, rounds=rounds, report=_report, **settings)
            text = f'## {title}\n\n{resources_table(name, predictions, measures)}\n'
            text += f'\nBy phase; bytes are weights, gradients and state.\n\n{phases_table(predictions, measures)}\n'
            text += ''.join(f'\n- {method}: left out: {reason}\n' for method, reason in left_out.items())
            print(text, flush=True)
            texts.append(text)
            drawn.append((title, predictions, measures))
            results.append(
                dict(
                    model=name,
                    batch_size=batch_size,
                    autocast=autocast,
                    planned=[method.to_dict() for method in predictions],
                    measured=[measure.to_dict() for measure in measures],
                )
            )
    if out:
        out = Path(out)
        write_text(out / 'resources.json', json.dumps({**facts, 'results': results}, indent=1) + '\n')
        write_text(out / 'resources.md', '\n'.join([f'`{facts}`\n', *texts]))
        if drawn:
            draw_resources(drawn, out / 'resources.png')
        print(f'written: {out}/resources.json, resources.md{", resources.png" * bool(drawn)}')
    return results


def _report(line: str) -> None:
    print(f'  {line}', file=sys.stderr)


def _find_models(configs: Iterable[str | os.PathLike], models: Iterable[str]) -> dict[str, Config]:
    """The configs and model parts by name."""
    found = {Path(path).stem: read_config(str(path)) for path in configs}
    for name in models:
        found[name] = Config.fromfile(config_path(f'_base_/models/{name}.py'))
    if not found:
        raise UserError('nothing to measure; name a config, or model parts with --models.')
    return found


def resources_table(name: str, predictions: Sequence[MethodPrediction], measures: Sequence[MethodMeasure]) -> str:
    """Predicted, measured and the paper's numbers of one model as a Markdown table.

    Args:
        name: Name of the config or model part; the paper has numbers for two networks.
        predictions: Predicted costs of the methods.
        measures: Measured costs of the same methods; empty without a measurement.
    """
    predicted = {method.name: method for method in predictions}
    measured = {measure.name: measure for measure in measures}
    ratios = memory_ratios(name)
    lines = [RESOURCES_HEADER, ['---', *['--:'] * (len(RESOURCES_HEADER) - 1)]]
    for method in predictions:
        real = measured.get(method.name)
        row = [method.name, format_bytes(method.peak)]
        row.append(format_bytes(real.peak) if real else '')
        row.append(f'{method.peak / real.peak:.3f}' if real else '')
        row.append(_ratio(predicted.get('adamw'), method, lambda item: item.peak))
        row.append(_ratio(measured.get('adamw'), real, lambda item: item.peak))
        row.append(f'{ratios[method.name]:.2f}' if method.name in ratios else '')
        row.append(f'{method.mean_flops_per_image / 1e9:.3g}')
        row.append(f'{1e3 * real.seconds_per_step / real.batch_size:.3g} ms' if real else '')
        row.append(_ratio(real, measured.get('adamw'), lambda item: item.seconds_per_step))
        row.append(f'{TIME_RATIOS[method.name]:.2f}' if method.name in TIME_RATIOS and ratios else '')
        lines.append(row)
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def phases_table(predictions: Sequence[MethodPrediction], measures: Sequence[MethodMeasure]) -> str:
    """Bytes per parameter, peak memory and time of every phase as a Markdown table; arguments as above."""
    measured = {measure.name: measure.phases for measure in measures}
    lines = [PHASES_HEADER, ['---', *['--:'] * (len(PHASES_HEADER) - 1)]]
    for method in predictions:
        reals = measured.get(method.name, [None] * len(method.phases))
        for phase, real in zip(method.phases, reals, strict=True):
            row = [method.name, str(phase.open_blocks), f'{phase.fraction_of_steps:.0%}']
            row += [f'{phase.bytes_per_parameter:.2f}', f'{real.bytes_per_parameter:.2f}' if real else '']
            row += [format_bytes(phase.peak), format_bytes(real.peak) if real else '', phase.peak_in]
            row.append(f'{1e3 * median(real.step_seconds):.3g} ms' if real else '')
            lines.append(row)
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _ratio(over, under, key: Callable) -> str:
    return f'{key(over) / key(under):.2f}' if over and under else ''


def _facts(command: str, device: str, steps: int) -> dict:
    """Command, device and versions that the numbers belong to."""
    name = f'{_processor()}, {torch.get_num_threads()} threads'
    if device == 'cuda' and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    return dict(
        date=date.today().isoformat(),
        command=command,
        device=name,
        steps=steps,
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmpretrain=mmpretrain.__version__,
        python=platform.python_version(),
    )


def _processor() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else ():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()
