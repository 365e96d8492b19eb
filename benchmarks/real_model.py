"""The paper's claims on a real pretrained network and real images: DINOv2 on the solar cells of ELPV.

    python tools/get_weights.py dinov2-vit-s14 && python tools/prepare_data.py elpv
    python benchmarks/real_model.py run                                # 84 pixels, CPU: at most 6 core-hours in all
    python benchmarks/real_model.py run --image-size 224 --device cuda --jobs 16 --minutes 5
    python benchmarks/real_model.py page --out work_dirs/real          # results.json and benchmarks/real_model.md only

    python benchmarks/real_model.py run --methods freeze-embed sgd-gradient-rates sgd-sai --out work_dirs/real

The last line adds methods beside the plan's six, with the rates of configs/sweeps/real_peers.py or of their parts.

Stages, in this order: `grid` (every rate of configs/sweeps/real.py with seed 0), `edges` (further rates where the best
is at an edge), `seeds` (more seeds at the best rate of each method, chosen by ID accuracy), `gradients` (of every
layer, before and after training), `wise` (WiSE-FT on one run per method). Each does what is not done yet: an
interrupted command continues where it stopped. `--minutes` starts nothing after that time.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # also when a forked process runs this file

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.options import positive_int

ROOT = Path(__file__).resolve().parents[1]
STAGES = ('grid', 'edges', 'seeds', 'gradients', 'wise')
LADDER = [digit * 10.0**exponent for exponent in range(-8, 1) for digit in (1, 3)]
BEYOND = 2  # further rates at most, on each side
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BATCHES = 8  # of the gradient profiles
# No checkpoints within a run of minutes; the best epoch where a later stage reads it.
NO_CHECKPOINTS = {
    'default_hooks.checkpoint.interval': -1,
    'default_hooks.checkpoint.save_last': False,
    'default_hooks.checkpoint.save_optimizer': False,
    'default_hooks.checkpoint.save_param_scheduler': False,
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run', help='run the stages, then write the page')
    run.add_argument('--stages', nargs='+', choices=STAGES, default=STAGES)
    run.add_argument('--model', default='dinov2-vit-s14', choices=['dinov2-vit-s14', 'dinov2-vit-b14'])
    run.add_argument('--weights', help='file (default: data/weights/MODEL.safetensors, without it the hub)')
    run.add_argument('--data', default='data/elpv', help='directory of ELPV')
    run.add_argument('--methods', nargs='+', help="default: the plan's six; any other of configs/_base_/methods too")
    run.add_argument('--datasets', nargs='+', help="default: the plan's two directions")
    run.add_argument('--seeds', type=positive_int, default=3, help='seeds at the best rate (default: %(default)s)')
    run.add_argument('--image-size', type=positive_int, help="pixels; with it, epochs and images are the configs' own")
    run.add_argument('--epochs', type=positive_int, help='epochs of every run')
    run.add_argument('--images', type=positive_int, help='first images of each split only (a trial)')
    run.add_argument('--device', choices=['auto', 'cpu', 'cuda'], default='auto')
    run.add_argument('--tf32', action='store_true', help='matrix products of a GPU in TF32: about four times as fast')
    run.add_argument('--jobs', type=positive_int, help='runs at a time (default: one per core, at most 8)')
    run.add_argument('--minutes', type=float, help='start nothing after so many minutes')
    for command in (run, commands.add_parser('page', help='write results.json and the page from the records')):
        command.add_argument('--out', default='work_dirs/real', help='directory of the results')
        command.add_argument('--page', default=str(ROOT / 'benchmarks/real_model.md'), help='the page')
    one = commands.add_parser('gradients', help='gradient profile of one run (the stage calls it)')
    one.add_argument('config')
    one.add_argument('file')
    one.add_argument('--checkpoint')
    one = commands.add_parser('wise', help='WiSE-FT of one run (the stage calls it)')
    one.add_argument('run')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    if args.command == 'run':
        choose_device(args.device, args.tf32)
        Benchmark(args).run()
        write_results(args.out, args.page)
    elif args.command == 'page':
        write_results(args.out, args.page)
    elif args.command == 'gradients':
        profile(args.config, args.file, args.checkpoint)
    else:
        from ftsgd_plugin.results.wise_ft import write_wise_ft

        write_wise_ft(args.run, alphas=ALPHAS)


def choose_device(device: str, tf32: bool) -> None:
    """Let every run use that device; this process does not touch a GPU, which a fork would not survive."""
    from ftsgd_plugin.utils.errors import UserError

    if tf32:
        os.environ['TORCH_ALLOW_TF32_CUBLAS_OVERRIDE'] = '1'  # read when a process starts
    os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] = '1'
    if device == 'cpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
    elif device == 'cuda':
        import torch

        if not torch.cuda.is_available():
            raise UserError('--device cuda: this machine has no GPU; leave the option out.')


def write_results(out: str, page: str) -> None:
    """Write what the records say."""
    from real_model_page import write_page

    write_page(out, page)


class Benchmark:
    """The stages over one directory."""

    def __init__(self, args: argparse.Namespace) -> None:
        from ftsgd_plugin.sweep.forked import Forks
        from ftsgd_plugin.sweep.plan import check_plan, read_plan
        from ftsgd_plugin.utils.paths import config_path

        self.out, self.stages, self.seed_count = Path(args.out), args.stages, args.seeds
        plan = read_plan(config_path('sweeps/real.py'))
        datasets = args.datasets or plan.datasets
        size = {'image_size': args.image_size, 'dataset_options': {}} if args.image_size else {}
        plan = replace(plan, models=[args.model], datasets=datasets, epochs=args.epochs, **size)
        options = plan.dataset_options
        if args.epochs:  # instead of the plan's by dataset
            options = {name: _without(one, 'train_cfg.max_epochs') for name, one in options.items()}
        self.plan = replace(
            plan,
            lrs=_rates(args.methods or plan.lrs, plan.lrs),
            data_roots=dict.fromkeys(datasets, str(Path(args.data).absolute())),
            dataset_options={name: one for name, one in options.items() if name in datasets},
        )
        check_plan(self.plan, 'configs/sweeps/real.py')
        self.settings = {
            'pixels': self.plan.image_size,
            'epochs': args.epochs,
            'TF32': args.tf32,
            'images': args.images,
        }
        weights = Path(args.weights or f'data/weights/{args.model}.safetensors')
        self.options = {
            **NO_CHECKPOINTS,
            'model.backbone.pretrained': str(weights.absolute()) if args.weights or weights.is_file() else True,
            'train_dataloader.num_workers': 0,
            'val_dataloader.num_workers': 0,
        }
        if args.images:
            for loader in ('train_dataloader.dataset', *(f'val_dataloader.dataset.datasets.{i}' for i in (0, 1))):
                self.options[f'{loader}.indices'] = args.images
        until = None if args.minutes is None else time.monotonic() + 60 * args.minutes
        self.place = lambda: Forks(args.jobs, until)

    def run(self) -> None:
        """Run the stages."""
        from ftsgd_plugin.sweep.running import locked

        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out):
            self._claim()
            for stage in self.stages:
                print(f'\n== {stage}', flush=True)
                start = time.monotonic()
                getattr(self, stage)()
                print(f'{stage}: {time.monotonic() - start:.0f} s', flush=True)

    def grid(self) -> None:
        """Every rate of the plan with the first seed."""
        self._train(self.plan.runs())

    def edges(self) -> None:
        """Rates beyond the grid of a method, as long as the best one is the smallest or the largest."""
        for _ in range(BEYOND):
            runs = []
            for best, rates in self._best():
                places = [place for place, rate in enumerate(LADDER) if _near(rate, best.lr)]
                if places and best.lr in (min(rates), max(rates)):
                    step = -1 if best.lr == min(rates) else 1
                    runs.append(replace(best, lr=float(f'{LADDER[places[0] + step]:.0e}')))
            if not runs:
                return
            self._train(runs)

    def seeds(self) -> None:
        """Further seeds at the best rate of every cell, whose weights are kept for the stages after it."""
        runs = [replace(best, seed=seed) for seed in range(1, self.seed_count) for best, _ in self._best()]
        self._train(runs, keep=True)

    def gradients(self) -> None:
        """Profiles of every direction at the start, and of every method's kept run."""
        jobs = []
        for dataset in self.plan.datasets:
            some = next((self._directory(run) for run in self.plan.runs() if run.dataset == dataset), None)
            jobs.append(self._profile_job(some / 'config.py', self.out / f'gradients/{dataset}_start.json'))
        for run in self._kept():
            directory = self._directory(run)
            file = self.out / f'gradients/{run.dataset}_{run.method}.json'
            if best := sorted(directory.glob('best_*.pth')):
                jobs.append(self._profile_job(directory / 'config.py', file, '--checkpoint', str(best[-1])))
        self._run_jobs([job for job in jobs if job])

    def wise(self) -> None:
        """WiSE-FT of every method's kept run."""
        jobs = []
        for run in self._kept():
            directory = self._directory(run)
            if any(directory.glob('best_*.pth')) and not (directory / 'wise_ft/wise_ft.json').is_file():
                (directory / 'wise_ft').mkdir(exist_ok=True)
                jobs.append(([str(Path(__file__).resolve()), 'wise', str(directory)], str(directory / 'wise_ft')))
        self._run_jobs(jobs)

    def _claim(self) -> None:
        """Write what all runs of the directory have in common, or compare it with the file that exists."""
        from ftsgd_plugin.utils.errors import UserError
        from ftsgd_plugin.utils.files import write_text

        path = self.out / 'settings.json'
        if path.is_file() and (found := json.loads(path.read_text())) != self.settings:
            raise UserError(f'{path}: the runs here have other settings ({found}); choose another --out.')
        write_text(path, json.dumps(self.settings) + '\n')

    def _train(self, runs: Sequence, keep: bool = False) -> None:
        from ftsgd_plugin.sweep.running import failures_text, run_tasks

        saving = {} if keep else {'default_hooks.checkpoint.save_best': None}
        tasks = [self._task(run, {**self.options, **saving}) for run in runs]
        if failures := run_tasks(tasks, self.out, self.place, keep_checkpoints=keep, forecast=False):
            print(failures_text(failures, self.out), file=sys.stderr)

    def _task(self, run, options: dict):
        """A run with its config and its state in the directory."""
        from ftsgd_plugin.sweep.runs import task_of

        return task_of(self.plan, run, self.out, options)

    def _best(self) -> list:
        """``(run at the best rate, rates tried)`` of every cell, by the ID accuracy of the first seed."""
        from real_model_claims import best_rates, read_runs

        return best_rates(read_runs(self.out), self.plan.models, self.plan.datasets, self.plan.lrs)

    def _kept(self) -> list:
        return [replace(best, seed=1) for best, _ in self._best()]

    def _directory(self, run) -> Path:
        return (self.out / 'runs' / run.name).absolute()

    def _profile_job(self, config: Path, file: Path, *options: str) -> tuple[list[str], str] | None:
        if file.is_file() or not config.is_file():
            return None
        directory = file.absolute().with_suffix('')
        directory.mkdir(parents=True, exist_ok=True)
        command = [str(Path(__file__).resolve()), 'gradients', str(config), str(file.absolute()), *options]
        return command, str(directory)

    def _run_jobs(self, jobs: Sequence[tuple[list[str], str]]) -> None:
        """Run programs as the runs of a sweep; what fails is named and tried again by the next call."""
        place = self.place()
        try:
            for index, status, line in place.run(jobs, lambda index: None):
                if status:
                    print(f'{jobs[index][1]}: {line}', file=sys.stderr)
        finally:
            place.close()


def _rates(methods: Sequence[str], planned: dict) -> dict[str, list[float]]:
    """The rates of every method: the plan's, those of the plan of peers, else those of its part."""
    from ftsgd_plugin.methods import METHOD_GRIDS
    from ftsgd_plugin.sweep.plan import read_plan
    from ftsgd_plugin.utils.errors import UserError
    from ftsgd_plugin.utils.names import did_you_mean
    from ftsgd_plugin.utils.paths import config_path

    known = {**METHOD_GRIDS, **read_plan(config_path('sweeps/real_peers.py')).lrs, **planned}
    if unknown := [method for method in methods if method not in known]:
        raise UserError(f'--methods {unknown[0]}: no such method; {did_you_mean(unknown[0], known)}')
    return {method: list(known[method]) for method in methods}


def _without(options: dict, key: str) -> dict:
    return {name: value for name, value in options.items() if name != key}


def _near(first: float, second: float) -> bool:
    return abs(first / second - 1) < 1e-6


def profile(config: str, file: str, checkpoint: str | None = None) -> None:
    """Write the gradient profile of a run's model: as training starts, or with the weights of a checkpoint.

    Args:
        config: The run's config.
        file: JSON file.
        checkpoint: Backbone and head of the trained model. Default: the pretrained backbone and a fresh head.
    """
    import torch

    from ftsgd_plugin.checkpoint.io import read_weights
    from ftsgd_plugin.profiling.gradients import measure_gradients
    from ftsgd_plugin.profiling.setup import pretrained_model, quieten, training_loader
    from ftsgd_plugin.runner.build import read_config
    from ftsgd_plugin.utils.files import write_text

    quieten()
    cfg = read_config(config)
    model = pretrained_model(cfg, 'cuda' if torch.cuda.is_available() else 'cpu')
    if checkpoint:
        model.load_state_dict(read_weights(checkpoint))
    measured = measure_gradients(model, training_loader(cfg), BATCHES, name=Path(file).stem)
    write_text(file, json.dumps(measured.to_dict(), indent=1) + '\n')


if __name__ == '__main__':
    main()
