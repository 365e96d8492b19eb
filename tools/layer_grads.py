"""Measure the gradient norm of every layer of pretrained models on their training data, before any update.

    python tools/layer_grads.py configs/vit-tiny_freeze-embed_digits.py
    python tools/layer_grads.py configs/clip-vit-b16_sgd_living17.py configs/bit-r50_sgd_living17.py --batches 100

The analysis of the paper's section 3: pretrained backbone, fresh head, training mode, the config's training pipeline
and batch size; per batch the L2 norm of every layer's gradient of the mean loss, then the mean over batches. All layers
are measured, whatever the config freezes. The paper took one epoch (--batches all). Writes layer_grads.json,
layer_grads.csv and layer_grads.png into --out.
"""

# isort: off
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
import csv
import io
import json
import logging
import os
import time
from dataclasses import asdict, fields
from pathlib import Path

from mmengine.device import get_device
from mmengine.logging import MMLogger

from ftsgd_plugin.profiling.gradients import Gradient, GradientProfile, measure_gradients
from ftsgd_plugin.profiling.plots import draw_layer_gradients
from ftsgd_plugin.profiling.setup import pretrained_model, training_loader
from ftsgd_plugin.runner.build import merge_cfg_options, read_config
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.options import add_cfg_options
from ftsgd_plugin.utils.plotting import import_pyplot

COLUMNS = ('config', 'batches', 'batch_size', *(field.name for field in fields(Gradient)))


def measure(path: str, name: str, args: argparse.Namespace) -> GradientProfile:
    """Gradients of one config, with a line per batch."""
    cfg = read_config(path)
    merge_cfg_options(cfg, path, args.cfg_options)
    print(f'{name}: loading', flush=True)
    model, loader = pretrained_model(cfg, args.device), training_loader(cfg)
    accumulate = cfg.get('optim_wrapper', {}).get('accumulative_counts', 1)
    total = len(loader) // accumulate
    total = total if args.batches is None else min(args.batches, total)
    start = time.perf_counter()

    def progress(done: int) -> None:
        left = int((time.perf_counter() - start) / done * (total - done))
        print(f'{name}: batch {done}/{total}  eta {left // 60}:{left % 60:02d}', flush=True)

    return measure_gradients(model, loader, total or None, accumulate, name, progress)


def unique_names(paths: list[str]) -> list[str]:
    """The files' names without suffix, numbered where two are alike."""
    stems = [Path(path).stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f'{stem} ({stems[: i + 1].count(stem)})' for i, stem in enumerate(stems)
    ]


def format_csv(profiles: list[GradientProfile]) -> str:
    """One line per config and layer."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    for profile in profiles:
        head = dict(config=profile.name, batches=profile.batches, batch_size=profile.batch_size)
        writer.writerows({**head, **asdict(layer)} for layer in profile.layers)
    return text.getvalue()


def format_table(profiles: list[GradientProfile]) -> str:
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


def write(path: Path, text: str) -> None:
    """Write whole or not at all."""
    unfinished = path.with_name(f'.{path.name}')
    unfinished.write_text(text)
    os.replace(unfinished, path)


def _batches(text: str) -> int | None:
    if text == 'all':
        return None
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a positive whole number nor all')
    return int(text)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files, one panel each')
    parser.add_argument(
        '--batches', type=_batches, default=20, metavar='N', help='batches of each, or all: one epoch (default: 20)'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/layer_grads'), help='folder (default: work_dirs/layer_grads)'
    )
    parser.add_argument('--device', default=get_device(), help='e.g. cuda:1 or cpu (default: the GPU if there is one)')
    add_cfg_options(parser)
    args = parser.parse_args()
    import_pyplot()  # before the work, not after it
    args.out.mkdir(parents=True, exist_ok=True)
    MMLogger.get_instance('layer_grads').setLevel(logging.WARNING)
    profiles = [measure(path, name, args) for path, name in zip(args.configs, unique_names(args.configs))]
    draw_layer_gradients(profiles, args.out / 'layer_grads.png')
    write(args.out / 'layer_grads.csv', format_csv(profiles))
    write(args.out / 'layer_grads.json', json.dumps([profile.to_dict() for profile in profiles], indent=1) + '\n')
    print(f'\n{format_table(profiles)}\n\nwritten: {args.out}/layer_grads.{{json,csv,png}}')


if __name__ == '__main__':
    main()
