"""Which method for this model and this data, and will it fit? One command and a few batches, before any training.

    python tools/diagnose.py configs/vit-tiny_freeze-embed_digits.py
    python tools/diagnose.py configs/clip-vit-l14_freeze-embed_fmow.py --memory 16GiB --batches 20 --json answer.json

Measures the gradient of every layer of the pretrained model on the config's own training batches, sets the ratio of
the embedding's to the middle layers' beside the paper's models, plans memory and time of every method for the config's
model and batch size, and recommends one. Prints a summary; --out DIR receives diagnosis.html (self-contained) and its
pictures.
"""

# isort: off
import os

os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # PyTorch's profiler reports a missing GPU as an error
import ftsgd_plugin
# isort: on

import argparse
import json
import logging
import re
import shlex
import sys
import time
from datetime import date
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger

from ftsgd_plugin.profiling.diagnosis import Diagnosis, diagnose, full_step_seconds, gib
from ftsgd_plugin.profiling.evidence_plot import draw_evidence
from ftsgd_plugin.profiling.gradients import GradientProfile, measure_gradients
from ftsgd_plugin.profiling.plots import draw_layer_gradients
from ftsgd_plugin.profiling.predict import plan_config
from ftsgd_plugin.profiling.setup import pretrained_model, training_loader
from ftsgd_plugin.results.html_page import bullets, page, paragraph, picture, table
from ftsgd_plugin.runner.build import merge_cfg_options, read_config
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.options import add_cfg_options
from ftsgd_plugin.utils.plotting import import_pyplot

UNITS = {'': 1, 'B': 1, 'MB': 10**6, 'GB': 10**9, 'MIB': 2**20, 'GIB': 2**30}
HEADER = ('method', 'memory', 'of AdamW', 'ms per image', 'of AdamW', 'fits')


def memory_size(text: str) -> int:
    """``'8GiB'``, ``'8.5 GB'`` or a number of bytes."""
    found = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*', text)
    if not found or found[2].upper() not in UNITS or not float(found[1]):
        raise argparse.ArgumentTypeError(f'{text!r} is no memory size; write it like 8GiB or 16GB')
    return int(float(found[1]) * UNITS[found[2].upper()])


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive whole number')
    return int(text)


def memory_at_hand(args: argparse.Namespace) -> int | None:
    """Bytes given by --memory, else the GPU's."""
    if args.memory or not args.device.startswith('cuda'):
        return args.memory
    return torch.cuda.get_device_properties(args.device).total_memory


def examine(cfg: Config, name: str, args: argparse.Namespace) -> Diagnosis:
    """Measure, plan, decide."""
    print('loading the model and the data', file=sys.stderr, flush=True)
    model, loader = pretrained_model(cfg, args.device), training_loader(cfg)
    batches = min(args.batches, len(loader))

    def progress(done: int) -> None:
        print(f'gradients: batch {done}/{batches}', file=sys.stderr, flush=True)

    wrapper = cfg.get('optim_wrapper', {})
    autocast = wrapper.get('dtype') or ('float16' if wrapper.get('type') == 'AmpOptimWrapper' else None)

    def measure() -> tuple[GradientProfile, float]:
        profile = measure_gradients(model, loader, batches, name=name, progress=progress)
        return profile, full_step_seconds(model, next(iter(loader)), autocast=autocast)

    try:
        profile, seconds = measure()
    except torch.OutOfMemoryError:
        print('full fine-tuning does not fit the GPU at this batch size; measuring on the CPU', file=sys.stderr)
        model.zero_grad()
        model.cpu()
        torch.cuda.empty_cache()
        profile, seconds = measure()
    print('planning every method', file=sys.stderr, flush=True)
    plans = plan_config(cfg, autocast=autocast, device=args.device.split(':')[0])
    return diagnose(profile, plans, seconds, memory_at_hand(args))


def rows(answer: Diagnosis) -> list[tuple[str, ...]]:
    """The costs, one line per method."""
    adamw = answer.methods['adamw']
    fits = {True: 'yes', False: 'no', None: '?'}
    return [
        (
            name,
            gib(cost.bytes),
            f'{cost.bytes / adamw.bytes:.2f}',
            f'{1000 * cost.seconds_per_image:.3g}',
            f'{cost.seconds_per_image / adamw.seconds_per_image:.2f}',
            fits[cost.fits],
        )
        for name, cost in answer.methods.items()
    ]


def summary(answer: Diagnosis) -> str:
    """For the terminal."""
    lines = [HEADER, *rows(answer)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    body = [
        '  '.join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    ]
    mark = [('> ' if line[0] == answer.recommendation else '  ') + text for line, text in zip(lines, body)]
    reasons = '\n'.join(f'  - {reason}' for reason in answer.reasons)
    return (
        f'\n{answer.headline} (configs/_base_/methods/{answer.recommendation}.py)\n{reasons}\n\n'
        f'predicted at batch {answer.batch_size}:\n' + '\n'.join(mark)
    )


def write_page(answer: Diagnosis, name: str, out: Path) -> Path:
    """diagnosis.html and the pictures in it."""
    draw_layer_gradients([answer.profile], out / 'gradients.png')
    draw_evidence(answer.paper, answer.ratio, name, out / 'evidence.png')
    names = list(answer.methods)
    limit = '' if answer.memory is None else f' Memory at hand: {gib(answer.memory)}; 10 % are kept free.'
    text = page(
        f'Which method for {name}?',
        [
            paragraph(f'{answer.headline} {answer.reasons[0]}', lead=True),
            bullets(answer.reasons[1:]),
            '<h2>What each method costs</h2>',
            table(HEADER, rows(answer), names.index(answer.recommendation)),
            paragraph(
                f'Predicted before training, at {answer.batch_size} pictures per step: memory from one traced step of '
                'this model (weights, gradients, optimizer state, activations); time from a measured step on this '
                f"machine and each method's FLOPs.{limit}"
            ),
            '<h2>Gradients of the layers</h2>',
            picture(out / 'gradients.png', 'gradient norm of every layer, from input to output'),
            "<h2>Among the paper's models</h2>",
            picture(out / 'evidence.png', "gain of freeze-embed against the ratio, the paper's models and this one"),
        ],
        f'{shlex.join(["python", "tools/diagnose.py", *sys.argv[1:]])} · {date.today()} · torch {torch.__version__} · '
        f'ftsgd_plugin {ftsgd_plugin.__version__}',
    )
    unfinished = out / '.diagnosis.html'
    unfinished.write_text(text)
    os.replace(unfinished, out / 'diagnosis.html')
    return out / 'diagnosis.html'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--batches', type=positive, default=8, metavar='N', help='batches to measure (default: 8)')
    parser.add_argument('--memory', type=memory_size, metavar='SIZE', help='e.g. 8GiB (default: that of the GPU)')
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the answer as data')
    parser.add_argument('--out', type=Path, help='folder of the page (default: work_dirs/diagnose/CONFIG_NAME)')
    parser.add_argument('--device', default=get_device(), help='e.g. cuda:1 or cpu (default: the GPU if there is one)')
    add_cfg_options(parser)
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args, start = parse_args(), time.perf_counter()
    name = Path(args.config).stem
    cfg = read_config(args.config)
    merge_cfg_options(cfg, args.config, args.cfg_options)
    if args.json and not args.json.absolute().parent.is_dir():
        raise UserError(f'--json {args.json}: there is no such folder; make it first.')
    import_pyplot()  # before the work, not after it
    out = args.out or Path('work_dirs/diagnose') / name
    out.mkdir(parents=True, exist_ok=True)
    MMLogger.get_instance('diagnose').setLevel(logging.WARNING)
    answer = examine(cfg, name, args)
    where = write_page(answer, name, out)
    if args.json:
        unfinished = args.json.with_name(f'.{args.json.name}')
        unfinished.write_text(json.dumps(answer.to_dict(), indent=1) + '\n')
        os.replace(unfinished, args.json)
    print(summary(answer))
    print(f'\nwritten: {where} ({time.perf_counter() - start:.0f} s)')


if __name__ == '__main__':
    main()
