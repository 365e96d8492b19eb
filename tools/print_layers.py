"""Print the layer list of a config's model: what freeze-embed and its relatives see.

    python tools/print_layers.py configs/vit-tiny_freeze-embed_digits.py
    python tools/print_layers.py configs/_base_/models/clip-vit-l14.py --json layers.json

No weights are loaded, and none are needed: the model is built on the meta device where its code allows that.
"""

# isort: off
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
import json
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ftsgd_plugin.freezing import select_layers
from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.runner.build import read_config
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError

COLUMNS = ('layer', 'role', 'block', 'group', 'tensors', 'parameters', 'bytes', 'state')


def build_model(cfg: Config) -> torch.nn.Module:
    """The model of a config on the meta device, or on the CPU if its constructor reads values."""
    model = cfg.model.copy()
    if model.get('head') is not None:
        model.head.setdefault('num_classes', 1000)
    try:
        with torch.device('meta'):
            return MODELS.build(model)
    except (RuntimeError, NotImplementedError):
        return MODELS.build(model)


def layer_rows(model: torch.nn.Module, freeze) -> list[dict]:
    """One dict per layer, keyed by ``COLUMNS``."""
    layers = list_layers(model)
    frozen = {layer.name for layer in select_layers(layers, freeze)}
    rows = []
    for layer in layers:
        fixed = layer.name in frozen or not any(param.requires_grad for param in layer.params.values())
        values = (layer.name, layer.role, layer.block, layer.group, len(layer.params), layer.num_params)
        rows.append(dict(zip(COLUMNS, (*values, layer.num_bytes, 'frozen' if fixed else 'trained'))))
    return rows


def format_rows(rows: list[dict]) -> str:
    """A text table with totals of what trains and what is frozen."""
    cells = [
        [('' if row[c] is None else f'{row[c]:,}' if isinstance(row[c], int) else row[c]) for c in COLUMNS]
        for row in rows
    ]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(COLUMNS)]
    numeric = {i for i, column in enumerate(COLUMNS) if column in ('block', 'tensors', 'parameters', 'bytes')}

    def line(values) -> str:
        aligned = (v.rjust(w) if i in numeric else v.ljust(w) for i, (v, w) in enumerate(zip(values, widths)))
        return '  '.join(aligned).rstrip()

    lines = [line(COLUMNS), line(['-' * width for width in widths]), *map(line, cells), '']
    for state in ('trained', 'frozen'):
        chosen = [row for row in rows if row['state'] == state]
        count, size = (sum(row[key] for row in chosen) for key in ('parameters', 'bytes'))
        lines.append(f'{state}: {len(chosen)} layers, {count:,} parameters, {size:,} bytes')
    return '\n'.join(lines)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or a model part')
    parser.add_argument(
        '--freeze', nargs='+', help="'embed', 'stem', 'none' or names (default: the config's, else embed)"
    )
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the table as a list of objects')
    args = parser.parse_args()
    if args.json and not args.json.absolute().parent.is_dir():
        raise UserError(f'--json {args.json}: there is no such folder; make it first.')
    if args.json and args.json.is_dir():
        raise UserError(f'--json {args.json}: is a folder; name a file.')
    cfg = read_config(args.config)
    if 'model' not in cfg:
        raise UserError(f'{args.config}: has no model; name a config with one.')
    freeze = cfg.get('optim_wrapper', {}).get('paramwise_cfg', {}).get('freeze', 'embed')
    if args.freeze:
        single = len(args.freeze) == 1 and args.freeze[0] in ('embed', 'stem', 'none')
        freeze = args.freeze[0] if single else args.freeze
    init_default_scope('mmpretrain')
    rows = layer_rows(build_model(cfg), freeze)
    print(format_rows(rows))
    if args.json:
        unfinished = args.json.with_name(f'.{args.json.name}')
        unfinished.write_text(json.dumps(rows, indent=1) + '\n')
        unfinished.replace(args.json)


if __name__ == '__main__':
    main()
