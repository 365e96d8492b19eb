"""Gradient norms of several configs as a table, CSV, JSON and a figure; the logic of ``tools/layer_grads.py``."""

import csv
import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from mmengine.device import get_device

from ..runner.build import merge_cfg_options, read_config
from ..utils.files import write_text
from ..utils.plotting import import_pyplot
from .gradients import Gradient, GradientProfile, measure_gradients
from .plots import draw_layer_gradients
from .setup import pretrained_model, quieten, training_loader

CSV_COLUMNS = ('config', 'batches', 'batch_size', *(field.name for field in fields(Gradient)))


def layer_grads(
    configs: Sequence[str | os.PathLike],
    out: str | os.PathLike = 'work_dirs/layer_grads',
    batches: int | None = 20,
    device: str | None = None,
    cfg_options: dict | None = None,
) -> list[GradientProfile]:
    """Measure the gradient norm of every layer of pretrained models on their training data, before any update.

    Args:
        configs: Config files; what they freeze is measured too.
        out: Directory for ``layer_grads.json``, ``layer_grads.csv`` and ``layer_grads.png``.
        batches: Batches of each config; ``None`` for one epoch.
        device: E.g. ``'cuda:1'`` or ``'cpu'``. Default: the GPU if there is one.
        cfg_options: Overrides of every config.

    Returns:
        list[GradientProfile]: One per config.

    Raises:
        UserError: A config, its weights or its data are missing, the device cannot be used, or Matplotlib is missing.
    """
    import_pyplot()  # a missing Matplotlib is reported before the measurement
    quieten()
    out, device = Path(out), device or get_device()
    out.mkdir(parents=True, exist_ok=True)
    profiles = [
        _measure(str(path), name, batches, device, cfg_options) for path, name in zip(configs, _unique_names(configs))
    ]
    draw_layer_gradients(profiles, out / 'layer_grads.png')
    write_text(out / 'layer_grads.csv', format_csv(profiles))
    write_text(out / 'layer_grads.json', json.dumps([profile.to_dict() for profile in profiles], indent=1) + '\n')
    print(f'\n{gradients_table(profiles)}\n\nwritten: {out}/layer_grads.{{json,csv,png}}')
    return profiles


def _measure(path: str, name: str, batches: int | None, device: str, cfg_options: dict | None) -> GradientProfile:
    """The gradients of one config, with a line per batch."""
    cfg = read_config(path)
    merge_cfg_options(cfg, path, cfg_options)
    print(f'{name}: loading', flush=True)
    model, loader = pretrained_model(cfg, device), training_loader(cfg)
    accumulate = cfg.get('optim_wrapper', {}).get('accumulative_counts', 1)
    total = len(loader) // accumulate
    total = total if batches is None else min(batches, total)
    start = time.perf_counter()

    def progress(done: int) -> None:
        left = int((time.perf_counter() - start) / done * (total - done))
        print(f'{name}: batch {done}/{total}  eta {left // 60}:{left % 60:02d}', flush=True)

    return measure_gradients(model, loader, total or None, accumulate, name, progress)


def _unique_names(paths: Sequence[str | os.PathLike]) -> list[str]:
    """The files' names without suffix; equal ones are numbered."""
    stems = [Path(path).stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f'{stem} ({stems[: i + 1].count(stem)})' for i, stem in enumerate(stems)
    ]


def format_csv(profiles: Sequence[GradientProfile]) -> str:
    """One line per config and layer."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator='\n')
    writer.writeheader()
    for profile in profiles:
        head = dict(config=profile.name, batches=profile.batches, batch_size=profile.batch_size)
        writer.writerows({**head, **asdict(layer)} for layer in profile.layers)
    return text.getvalue()


def gradients_table(profiles: Sequence[GradientProfile]) -> str:
    """One line per config: the paper's three parts and the ratio."""
    width = max(len('config'), *(len(profile.name) for profile in profiles))
    lines = [f'{"config":<{width}}  embedding  largest middle layer            head  embedding / middle']
    for profile in profiles:
        middle = profile.largest_middle
        lines.append(
            f'{profile.name:<{width}}  {profile.embed:9.4g}  {middle.norm:8.4g} {middle.name:<18}'
            f' {profile.head:8.4g}  {profile.ratio:.3g}'
        )
    return '\n'.join(lines)
