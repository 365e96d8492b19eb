"""Fine-tune one pretrained ViT with the paper's six methods and compare them in and out of distribution.

    bash tools/demo.sh                               # with set-up
    python tools/demo.py --seeds 0 1 2 3 4           # in an environment that has the package

Each method is run with three learning rates and several seeds; the learning rate and the epoch are chosen by
in-distribution accuracy only. Writes summary.json, records.json (every epoch of every run) and demo.png into --out,
and the logs of every run into a folder below it.
"""

# isort: off
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ftsgd_plugin import config_path
from ftsgd_plugin.analysis.figures import draw_comparison
from ftsgd_plugin.analysis.gradients import layer_grad_norms
from ftsgd_plugin.analysis.summary import Record, format_table, summarise
from ftsgd_plugin.demo.digits import write_benchmark
from ftsgd_plugin.errors import UserError
from ftsgd_plugin.freezing import optimizer_state_bytes
from ftsgd_plugin.programs import one_line_errors

# Three steps of the usual 1-3-10 ladder around the best ID accuracy of each method (found with five steps, once).
LRS = {
    'sgd': (1e-3, 3e-3, 1e-2),
    'adamw': (1e-4, 3e-4, 1e-3),
    'freeze-embed': (1e-3, 3e-3, 1e-2),
    'adamw-freeze-embed': (1e-4, 3e-4, 1e-3),
    'freeze-embed-no-momentum': (1e-2, 3e-2, 1e-1),
    'gradual-unfreezing': (1e-4, 3e-4, 1e-3),  # of the base; the first epoch has 41.68 times as much
}


def load_demo_config(method: str, data_root: str) -> Config:
    """The ordinary config of a method, reading the digits from ``data_root``."""
    cfg = Config.fromfile(config_path(f'vit-tiny_{method}_digits'))
    datasets = [cfg.train_dataloader.dataset, *cfg.val_dataloader.dataset.datasets]
    for dataset in [*datasets, *cfg.test_dataloader.dataset.datasets]:
        dataset.data_root = data_root
    return cfg


def train_once(method: str, lr: float, seed: int, data_root: str, out: str, epochs: int | None) -> Record:
    """Run one training in this process."""
    name = f'{method}_lr{lr:g}_seed{seed}'
    cfg = load_demo_config(method, data_root)
    cfg.optim_wrapper.optimizer.lr = lr
    cfg.randomness.seed = seed
    cfg.train_cfg.max_epochs = epochs or cfg.train_cfg.max_epochs
    cfg.work_dir = os.path.join(out, 'runs', name)
    cfg.experiment_name = name
    cfg.default_hooks.checkpoint = None  # the numbers are kept, the weights are not
    runner = Runner.from_cfg(cfg)
    start = time.perf_counter()
    runner.train()
    seconds = time.perf_counter() - start
    history = {
        key.removeprefix('val/'): buffer.data[0].tolist()
        for key, buffer in runner.message_hub.log_scalars.items()
        if key.startswith('val/') and not key.endswith('time')
    }
    evaluations = [{key: values[e] for key, values in history.items()} for e in range(runner.max_epochs)]
    parameters = sum(param.numel() for param in runner.model.parameters())
    state = optimizer_state_bytes(runner.optim_wrapper.optimizer)
    return Record(method, lr, seed, evaluations, state / parameters, seconds)


def first_batch_norms(method: str, data_root: str, out: str) -> list[tuple[str, str, float]]:
    """``(layer, role, gradient norm)`` of the pretrained model with a fresh head at the first training batch."""
    cfg = load_demo_config(method, data_root)
    cfg.work_dir = os.path.join(out, 'runs', 'gradients')
    cfg.experiment_name = 'gradients'
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    batch = next(iter(runner.build_dataloader(runner.cfg.train_dataloader, seed=runner.seed)))
    return [(layer.name, layer.role, norm) for layer, norm in layer_grad_norms(runner.model, batch)]


def _start_worker(out: str) -> None:
    """One thread per worker, and MMEngine's log to a file instead of the terminal."""
    torch.set_num_threads(1)
    log = os.open(os.path.join(out, f'worker-{os.getpid()}.log'), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def run_all(jobs: list[tuple], pool: ProcessPoolExecutor, out: str) -> list[Record]:
    """Run the jobs in the pool, with a line per finished run."""
    start, records = time.perf_counter(), {}
    futures = {pool.submit(train_once, *job): job for job in jobs}
    for done, future in enumerate(as_completed(futures), start=1):
        try:
            record = records[futures[future]] = future.result()
        except Exception as error:
            pool.shutdown(wait=False, cancel_futures=True)
            method, lr, seed = futures[future][:3]
            reason = ' '.join(str(error).split())
            raise UserError(f'{method} lr={lr:g} seed={seed}: {reason}; its log is in {out}/runs.') from error
        best = max(epoch['id/accuracy'] for epoch in record.epochs)
        left = (time.perf_counter() - start) / done * (len(jobs) - done)
        print(
            f'[{done:2d}/{len(jobs)}] {record.method:<24} lr={record.lr:<6g} seed={record.seed}'
            f'  ID {best:6.1%}  {record.seconds:5.1f} s  eta {int(left) // 60}:{int(left) % 60:02d}',
            flush=True,
        )
    return [records[job] for job in jobs]


def write_json(path: Path, data: list) -> None:
    """Write whole or not at all."""
    unfinished = path.with_name(f'.{path.name}')
    unfinished.write_text(json.dumps(data, indent=1) + '\n')
    os.replace(unfinished, path)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive whole number')
    return int(text)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='work_dirs/demo', help='folder for results (default: work_dirs/demo)')
    parser.add_argument('--data', default='data/digits', help='folder of the digits, written if absent')
    parser.add_argument('--methods', nargs='+', choices=LRS, default=list(LRS), help='methods (default: all)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='seeds (default: 0 1 2)')
    parser.add_argument('--epochs', type=_positive, help='epochs of each run (default: as in the configs)')
    cores = min(len(os.sched_getaffinity(0)), 8)  # each run needs about 1 GB
    parser.add_argument(
        '--workers', type=_positive, default=cores, help='parallel runs (default: one per core, up to 8)'
    )
    args = parser.parse_args()

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    print(f'data: {write_benchmark(args.data)}')
    jobs = [
        (method, lr, seed, args.data, args.out, args.epochs)
        for seed in args.seeds
        for method in args.methods
        for lr in LRS[method]
    ]
    print(f'{len(jobs)} runs, {args.workers} at a time, logs in {out}/runs; the first line takes a moment', flush=True)
    with ProcessPoolExecutor(args.workers, get_context('spawn'), _start_worker, (args.out,)) as pool:
        norms = pool.submit(first_batch_norms, args.methods[0], args.data, args.out)
        records = run_all(jobs, pool, args.out)
    summary = summarise(records)
    draw_comparison(summary, norms.result(), out / 'demo.png')
    write_json(out / 'records.json', [asdict(record) for record in records])
    write_json(out / 'summary.json', summary)
    print(f'\n{format_table(summary)}\n\nwritten: {out}/summary.json and {out}/demo.png')


if __name__ == '__main__':
    main()
