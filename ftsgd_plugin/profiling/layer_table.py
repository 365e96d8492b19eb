"""The layer list of a config's model as a table; the logic of ``tools/print_layers.py``."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ..freezing import Freeze, select_layers
from ..layers import list_layers
from ..models.catalog import find_model
from ..models.lora import with_adapters
from ..runner.build import read_config
from ..utils.errors import UserError, check_parent
from ..utils.files import write_text
from ..utils.format import format_bytes
from .fake_step import model_config

LAYER_COLUMNS = ('layer', 'role', 'block', 'group', 'tensors', 'parameters', 'bytes', 'state')


def print_layers(
    config: str | os.PathLike | None,
    freeze: Freeze | None = None,
    json_path: str | os.PathLike | None = None,
    model: str | None = None,
) -> list[dict]:
    """Print the layers of a config's model, with totals of what trains and what is frozen.

    Args:
        config: A config file, or a model part; ``None`` with ``model``.
        freeze: See :func:`layer_table`.
        json_path: Write the rows as a list of objects to this file.
        model: A model of a library instead of a config, see :func:`ftsgd_plugin.models.catalog.find_model`.

    Returns:
        list[dict]: The rows of :func:`layer_table`.

    Raises:
        UserError: The config has no model, ``freeze`` names no layer, or ``json_path`` cannot be written.
    """
    if json_path:
        check_parent(json_path, f'--json {json_path}')
    if json_path and Path(json_path).is_dir():
        raise UserError(f'--json {json_path}: is a directory; name a file.')
    rows = layer_table(read_config(str(config)) if model is None else classifier_config(model), freeze)
    print(format_rows(rows))
    if json_path:
        write_text(json_path, json.dumps(rows, indent=1) + '\n')
    return rows


def classifier_config(model: str, num_classes: int = 1000) -> Config:
    """The config of a linear classifier on a model of a library.

    Args:
        model: Its name, see :func:`ftsgd_plugin.models.catalog.find_model`.
        num_classes: Number of classes. Defaults to 1000.
    """
    source = find_model(model)
    head = dict(type='LinearClsHead', num_classes=num_classes, in_channels=source.num_features, init_cfg=None)
    preprocessor = dict(mean=list(source.mean), std=list(source.std), to_rgb=True)
    return Config(
        dict(
            model=dict(
                type='ImageClassifier', data_preprocessor=preprocessor, backbone=dict(source.backbone), head=head
            )
        )
    )


def layer_table(cfg: Config, freeze: Freeze | None = None) -> list[dict]:
    """One row per layer of a config's model, from input to output. No weights are loaded.

    Args:
        cfg: A config, or a model part.
        freeze: ``'embed'``, ``'stem'``, ``'none'`` or a list of layer names and globs. Default: the config's, else
            ``'embed'``.

    Returns:
        list[dict]: Rows with the keys ``LAYER_COLUMNS``.

    Raises:
        UserError: The config has no model, or ``freeze`` names no layer.
    """
    if freeze is None:
        freeze = cfg.get('optim_wrapper', {}).get('paramwise_cfg', {}).get('freeze', 'embed')
    layers = list_layers(build_model(cfg))
    frozen = {layer.name for layer in select_layers(layers, freeze)}
    rows = []
    for layer in layers:
        fixed = layer.name in frozen or not any(param.requires_grad for param in layer.params.values())
        values = (layer.name, layer.role, layer.block, layer.group, len(layer.params), layer.num_params)
        rows.append(dict(zip(LAYER_COLUMNS, (*values, layer.num_bytes, 'frozen' if fixed else 'trained'))))
    return rows


def build_model(cfg: Config, adapters: bool = False) -> torch.nn.Module:
    """The model on the meta device, or on the CPU if its constructor reads values; without its weights.

    Args:
        cfg: A config, or a model part.
        adapters: Whether to add the adapters that its method asks for. Defaults to False.
    """
    settings = model_config(cfg)
    if adapters:
        settings = with_adapters(settings, cfg.get('optim_wrapper'))
    init_default_scope('mmpretrain')
    try:
        with torch.device('meta'):
            return MODELS.build(settings)
    except (RuntimeError, NotImplementedError):
        return MODELS.build(settings)


def format_rows(rows: Sequence[dict]) -> str:
    """The rows as a text table, with totals of what trains and what is frozen."""
    cells = [
        [('' if row[c] is None else f'{row[c]:,}' if isinstance(row[c], int) else row[c]) for c in LAYER_COLUMNS]
        for row in rows
    ]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(LAYER_COLUMNS)]
    numeric = {i for i, column in enumerate(LAYER_COLUMNS) if column in ('block', 'tensors', 'parameters', 'bytes')}

    def line(values) -> str:
        aligned = (v.rjust(w) if i in numeric else v.ljust(w) for i, (v, w) in enumerate(zip(values, widths)))
        return '  '.join(aligned).rstrip()

    lines = [line(LAYER_COLUMNS), line(['-' * width for width in widths]), *map(line, cells), '']
    for state in ('trained', 'frozen'):
        chosen = [row for row in rows if row['state'] == state]
        count, size = (sum(row[key] for row in chosen) for key in ('parameters', 'bytes'))
        lines.append(f'{state}: {len(chosen)} layers, {count:,} parameters, {size:,} bytes ({format_bytes(size)})')
    return '\n'.join(lines)
