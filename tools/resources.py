"""What each method costs on a config's model: planned before training, measured on this machine, and the paper's ratio.

    python tools/resources.py configs/vit-tiny_freeze-embed_digits.py
    python tools/resources.py --models clip-vit-b16 clip-vit-l14 --batch-size 32 --autocast bfloat16 --out resources
    python tools/resources.py --models clip-vit-l14 --batch-size 1 128 --plan-only

Prints a Markdown table for each model; --out DIR receives resources.json, resources.md and resources.png.
No weights are loaded: sizes and times do not depend on them.
"""

# isort: off
import os

os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # PyTorch's profiler reports a missing GPU as an error
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
import json
import platform
import shlex
import sys
from datetime import date
from pathlib import Path

import mmengine
import mmpretrain
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from ftsgd_plugin.profiling.measure import MethodMeasure, measure_config
from ftsgd_plugin.profiling.phases import METHODS
from ftsgd_plugin.profiling.predict import MethodPlan, plan_config
from ftsgd_plugin.profiling.resource_plot import draw_resources
from ftsgd_plugin.runner.build import read_config
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.paths import config_path

# arXiv 2211.09359, section 4: memory of AdamW over that of the method, and gradual unfreezing's share of the time.
PAPER = {
    'ViT-B/16': {'freeze-embed': 1.16, 'freeze-embed-no-momentum': 1.36},
    'ViT-L/14': {'freeze-embed': 1.18, 'freeze-embed-no-momentum': 1.49},
}
PAPER_TIME = {'gradual-unfreezing': 0.7}  # "about 30 %" saved
HEADER = (
    'method',
    'planned peak',
    'measured peak',
    'planned / measured',
    'AdamW / method, planned',
    'measured',
    'paper',
    'GFLOP / image',
    'time / image',
    'time / AdamW',
    'paper',
)


def paper_network(name: str) -> str | None:
    """Which of the two networks of the paper's memory figures a config's name belongs to."""
    return next((key for key, part in (('ViT-B/16', 'vit-b16'), ('ViT-L/14', 'vit-l14')) if part in name), None)


def table(name: str, plans: list[MethodPlan], measures: list[MethodMeasure]) -> str:
    """Planned, measured and the paper's numbers of one model as a Markdown table."""
    planned = {plan.name: plan for plan in plans}
    measured = {measure.name: measure for measure in measures}
    ratios = PAPER.get(paper_network(name), {})
    lines = [HEADER, ['---', *['--:'] * (len(HEADER) - 1)]]
    for plan in plans:
        real = measured.get(plan.name)
        row = [plan.name, size(plan.peak)]
        row.append(size(real.peak) if real else '')
        row.append(f'{plan.peak / real.peak:.3f}' if real else '')
        row.append(ratio(planned.get('adamw'), plan, lambda item: item.peak))
        row.append(ratio(measured.get('adamw'), real, lambda item: item.peak))
        row.append(f'{ratios[plan.name]:.2f}' if plan.name in ratios else '')
        row.append(f'{plan.mean_flops_per_image / 1e9:.3g}')
        row.append(f'{1e3 * real.seconds_per_step / real.batch_size:.3g} ms' if real else '')
        row.append(ratio(real, measured.get('adamw'), lambda item: item.seconds_per_step))
        row.append(f'{PAPER_TIME[plan.name]:.2f}' if plan.name in PAPER_TIME and ratios else '')
        lines.append(row)
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def ratio(over, under, key) -> str:
    return f'{key(over) / key(under):.2f}' if over and under else ''


def size(count: float) -> str:
    return f'{count / 1e9:.3f} GB' if count >= 1e9 else f'{count / 1e6:.2f} MB'


def find_models(args: argparse.Namespace) -> dict[str, Config]:
    """The configs and model parts named on the command line, by name."""
    found = {Path(path).stem: read_config(path) for path in args.config}
    for name in args.models:
        found[name] = Config.fromfile(config_path(f'_base_/models/{name}.py'))
    if not found:
        raise UserError('nothing to measure; name a config, or model parts with --models.')
    return found


def about(args: argparse.Namespace) -> dict:
    """What a reader of the numbers must know."""
    device = f'{processor()}, {torch.get_num_threads()} threads'
    if args.device == 'cuda' and torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return dict(
        date=date.today().isoformat(),
        command=shlex.join(['python', 'tools/resources.py', *sys.argv[1:]]),
        device=device,
        steps=0 if args.plan_only else args.steps,
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmpretrain=mmpretrain.__version__,
        python=platform.python_version(),
    )


def processor() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else ():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()


def progress(line: str) -> None:
    print(f'  {line}', file=sys.stderr)


def write(path: Path, text: str) -> None:
    unfinished = path.with_name(f'.{path.name}')
    unfinished.write_text(text)
    os.replace(unfinished, path)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='*', help='config files; their own method is not looked at')
    parser.add_argument('--models', nargs='+', default=[], metavar='NAME', help='model parts, e.g. clip-vit-b16')
    parser.add_argument('--methods', nargs='+', default=METHODS, metavar='NAME', help=f'default: {" ".join(METHODS)}')
    parser.add_argument('--batch-size', nargs='+', type=int, default=[32], metavar='N', help='default: 32')
    parser.add_argument('--autocast', choices=['none', 'bfloat16', 'float16'], default='none', help='default: none')
    parser.add_argument('--steps', type=int, default=20, help='timed steps of each phase (default: 20)')
    parser.add_argument('--rounds', type=int, default=2, help='turns that the methods take (default: 2)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda where there is one')
    parser.add_argument('--plan-only', action='store_true', help='measure nothing')
    parser.add_argument('--out', type=Path, metavar='DIR', help='folder for resources.json, .md and .png')
    args = parser.parse_args()
    if min(args.batch_size) < 1 or args.steps < 1 or not 1 <= args.rounds <= args.steps:
        parser.error('--batch-size and --steps are positive, and --rounds at most --steps')
    if args.device == 'cuda' and not args.plan_only and not torch.cuda.is_available():
        parser.error('--device cuda: this machine shows no GPU; leave it out, or add --plan-only')
    args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    return args


@one_line_errors
def main() -> None:
    args = parse_args()
    MMLogger.get_instance('resources', log_level='ERROR')  # models and optimizers are built many times
    autocast = None if args.autocast == 'none' else args.autocast
    facts, results, drawn, texts = about(args), [], [], []
    for name, cfg in find_models(args).items():
        for batch_size in args.batch_size:
            title = f'{name}, batch {batch_size}, {autocast or "float32"}'
            settings = dict(methods=args.methods, batch_size=batch_size, autocast=autocast, device=args.device)
            plans = plan_config(cfg, **settings)
            measures = []
            if not args.plan_only:
                print(title, file=sys.stderr)
                measures = measure_config(cfg, steps=args.steps, rounds=args.rounds, report=progress, **settings)
            text = f'## {title}\n\n{table(name, plans, measures)}\n'
            print(text, flush=True)
            texts.append(text)
            drawn.append((title, plans, measures))
            results.append(
                dict(
                    model=name,
                    batch_size=batch_size,
                    autocast=autocast,
                    planned=[plan.to_dict() for plan in plans],
                    measured=[measure.to_dict() for measure in measures],
                )
            )
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        write(args.out / 'resources.json', json.dumps({**facts, 'results': results}, indent=1) + '\n')
        write(args.out / 'resources.md', '\n'.join([f'`{facts}`\n', *texts]))
        draw_resources(drawn, args.out / 'resources.png')
        print(f'written: {args.out}/resources.json, resources.md, resources.png')


if __name__ == '__main__':
    main()
