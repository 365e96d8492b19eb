"""Fine-tune one pretrained ViT with the paper's six methods and compare them in and out of distribution.

    bash tools/demo.sh                               # with set-up
    python tools/demo.py --seeds 0 1 2 3 4           # in an environment that has the package

Writes the digits and runs the sweep of configs/sweeps/demo.py as tools/sweep.py does: the same command again goes on.
The learning rate and the epoch are chosen by in-distribution accuracy only. Writes summary.json, records.json (every
epoch of every run) and demo.png into --out; below it is a folder for every run with its log and record. Then the
diagnosis of the model, what each method costs, and the report of the runs, as tools/diagnose.py, resources.py and
report.py make them.
"""

# isort: off
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from mmengine.runner import Runner

from ftsgd_plugin import config_path
from ftsgd_plugin.datasets.digits import write_benchmark
from ftsgd_plugin.profiling.gradients import layer_grad_norms
from ftsgd_plugin.profiling.plots import draw_comparison
from ftsgd_plugin.records import read_record
from ftsgd_plugin.results.aggregate import method_summary
from ftsgd_plugin.results.formats import method_table
from ftsgd_plugin.sweep.driver import run_sweep
from ftsgd_plugin.sweep.plan import Plan, check_plan, claim_folder, read_plan, write_whole
from ftsgd_plugin.sweep.runs import run_config, survey
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError

PLAN = config_path('sweeps/demo.py')


def first_batch_norms(plan: Plan, folder: Path) -> list[tuple[str, str, float]]:
    """``(layer, role, gradient norm)`` of the pretrained model with a fresh head at the first training batch."""
    cfg = run_config(plan, plan.runs()[0], folder)
    cfg.log_level = 'ERROR'
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    batch = next(iter(runner.build_dataloader(runner.cfg.train_dataloader, seed=runner.seed)))
    return [(layer.name, layer.role, norm) for layer, norm in layer_grad_norms(runner.model, batch)]


def make_pages(out: Path, data: str) -> list[Path]:
    """The pages of the other programs, for the demo's config and runs."""
    config = config_path('vit-tiny_freeze-embed_digits')
    pages = {
        'diagnosis/diagnosis.html': [
            *('diagnose.py', config, '--out', out / 'diagnosis'),
            *('--cfg-options', f'train_dataloader.dataset.data_root={data}'),
        ],
        'resources/resources.png': [
            *('resources.py', config, '--steps', 10, '--rounds', 2, '--out', out / 'resources'),
        ],
        'report.html': ['report.py', out / 'runs', '--out', out / 'report.html', '--title', 'The demo'],
    }
    for name, (program, *words) in pages.items():
        print(f'making {out / name}', flush=True)
        command = [sys.executable, str(Path(__file__).with_name(program)), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f'{program}: {done.stderr.strip().splitlines()[-1]}')
    return [out / name for name in pages]


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive whole number')
    return int(text)


@one_line_errors
def main() -> None:
    plan = read_plan(PLAN)
    methods = list(plan.lrs)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='work_dirs/demo', help='folder for results (default: work_dirs/demo)')
    parser.add_argument('--data', default='data/digits', help='folder of the digits, written if absent')
    parser.add_argument('--methods', nargs='+', choices=methods, default=methods, help='methods (default: all)')
    parser.add_argument('--seeds', nargs='+', type=int, default=plan.seeds, help='seeds (default: 0 1 2)')
    parser.add_argument('--epochs', type=_positive, help=f'epochs of each run (default: {plan.epochs})')
    cores = min(len(os.sched_getaffinity(0)), 8)  # each run needs about 1 GB
    parser.add_argument(
        '--workers', type=_positive, default=cores, help='parallel runs (default: one per core, up to 8)'
    )
    args = parser.parse_args()
    plan = replace(
        plan,
        lrs={method: plan.lrs[method] for method in args.methods},
        seeds=args.seeds,
        epochs=args.epochs or plan.epochs,
        data_roots={'digits': args.data},
    )
    check_plan(plan, 'tools/demo.py')

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    print(f'data: {write_benchmark(args.data)}', flush=True)
    claim_folder(plan, out)
    failures = run_sweep(plan, out, workers=args.workers)
    if failures:
        name, line = failures[0]
        others = f' (and {len(failures) - 1} more)' if len(failures) > 1 else ''
        raise UserError(f'{name}: {line}{others}; its log is in {out}/runs/{name}.')
    records = [read_record(task.folder) for task in survey(plan, out)]
    summary = method_summary(records)
    draw_comparison(summary, first_batch_norms(plan, out / 'gradients'), out / 'demo.png')
    write_whole(out / 'records.json', json.dumps([asdict(record) for record in records], indent=1) + '\n')
    write_whole(out / 'summary.json', json.dumps(summary, indent=1) + '\n')
    pages = make_pages(out, args.data)
    names = ', '.join(map(str, pages))
    print(f'\n{method_table(summary)}\n\nwritten: {out}/summary.json, {out}/demo.png, {names}')


if __name__ == '__main__':
    main()
