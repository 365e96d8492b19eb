"""Points for the evidence of `tools/diagnose.py`: the gradient ratio before training, what freeze-embed gained after.

    python benchmarks/diagnosis_points.py add work_dirs/real            # from finished runs of benchmarks/real_model.py
    python benchmarks/diagnosis_points.py measure --data data/PACS --hold-out sketch \\
        --model timm/vit_small_patch14_dinov2.lvd142m --image-size 224 --epochs 5
    python benchmarks/diagnosis_points.py measure --dataset domainnet --data data/domainnet --model clip-vit-b16

`measure` takes images in directories `domain/class` (PACS, Office-Home) or any other layout that `tools/finetune.py`
recognises, or with --dataset a benchmark of `configs/`. It measures the gradients, then trains SGD, SGD (freeze-embed)
and AdamW over the paper's grids, adds rates where the best is at an edge and seeds at the best rates, chosen by ID
accuracy alone, and writes the point. The same command again continues. The points are in
`ftsgd_plugin/profiling/own_points.csv`; `tools/diagnose.py` shows them, and those of another file with --points.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))  # also when a forked process runs this file

from real_model import NO_CHECKPOINTS, Benchmark, choose_device

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.options import positive_int

if TYPE_CHECKING:
    from mmengine.config import Config

    from ftsgd_plugin.finetune.model import Model
    from ftsgd_plugin.finetune.options import Options
    from ftsgd_plugin.profiling.own_points import OwnPoint
    from ftsgd_plugin.sweep.plan import Plan, Run
    from ftsgd_plugin.sweep.runs import Task

STAGES = ('gradients', 'grid', 'edges', 'seeds')
METHODS = ('sgd', 'freeze-embed', 'adamw')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    add = commands.add_parser('add', help='write points from the records in directories')
    add.add_argument('directories', nargs='+', help='directories of benchmarks/real_model.py or of measure')
    one = commands.add_parser('measure', help='measure a point of your own data, or of a benchmark')
    one.add_argument('--data', required=True, help='directory or table of images; with --dataset its data_root')
    one.add_argument('--dataset', help='data set of configs/, e.g. domainnet; --model is one of its configs then')
    one.add_argument('--hold-out', nargs='+', default=(), metavar='DOMAIN', help='domains that are OOD')
    one.add_argument('--model', required=True, help='as in tools/finetune.py, e.g. timm/NAME or vit-b16')
    one.add_argument('--weights', help='file, or none for random weights, whose ratio means nothing (a trial)')
    one.add_argument('--out', help='directory of the runs (default: work_dirs/points/DATA_MODEL)')
    one.add_argument('--seeds', type=positive_int, default=3, help='seeds at the best rates (default: %(default)s)')
    one.add_argument('--epochs', type=positive_int, help="of every run (default: 20, with --dataset the config's)")
    one.add_argument('--batch-size', type=positive_int, default=32, help='(default: %(default)s)')
    one.add_argument('--image-size', type=positive_int, help="pixels (default: the model's)")
    one.add_argument('--device', choices=['auto', 'cpu', 'cuda'], default='auto')
    one.add_argument('--tf32', action='store_true', help='matrix products of a GPU in TF32')
    one.add_argument('--jobs', type=positive_int, help='runs at a time (default: one per core, at most 8)')
    one.add_argument('--minutes', type=float, help='start nothing after so many minutes; the same command continues')
    for command in (add, one):
        command.add_argument('--points', help="the file (default: the package's)")
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    if args.command == 'measure':
        choose_device(args.device, args.tf32)
        measurement = Measurement(args)
        measurement.run()
        if not measurement.has_time:
            print('the time is over before the end; the same command continues')
            return
        add_from([measurement.out], args.points)
    else:
        add_from(args.directories, args.points)


def add_from(directories: list[str | Path], file: str | None = None) -> 'list[OwnPoint]':
    """Write the points of directories into a file and print them.

    Args:
        directories: Of `real_model.py` or of :class:`Measurement`.
        file: Default: that of the package.

    Returns:
        list[OwnPoint]: The points.

    Raises:
        UserError: A directory has no point.
    """
    from tabulate import tabulate

    from ftsgd_plugin.profiling.diagnosis_page import OWN_HEADER, own_rows
    from ftsgd_plugin.profiling.own_points import POINTS, add_points

    points = [point for directory in directories for point in points_of(directory)]
    path = add_points(file or POINTS, points)
    print(tabulate(own_rows(points), OWN_HEADER, tablefmt='plain', disable_numparse=True))
    print(f'\nwritten: {path}')
    return points


def points_of(directory: str | Path) -> 'list[OwnPoint]':
    """The points that the records of a directory give.

    Args:
        directory: Holds `runs/`, `gradients/DATASET_start.json` and `settings.json`.

    Returns:
        list[OwnPoint]: One per model and data set with SGD, SGD (freeze-embed) and the gradients before training.

    Raises:
        UserError: There is none; the message says what is missing.
    """
    from real_model_claims import read_cells, read_json

    from ftsgd_plugin.utils.errors import UserError

    directory = Path(directory)
    pixels = (read_json(directory / 'settings.json') or {}).get('pixels')
    points, missing = [], []
    for name, methods in read_cells(directory).items():
        dataset = next(iter(methods.values())).best.dataset
        start = directory / f'gradients/{dataset}_start.json'
        lacks = [method for method in METHODS[:2] if method not in methods]
        lacks += [] if start.is_file() else [str(start)]
        lacks += [] if pixels else ['pixels in settings.json']
        if lacks:
            missing.append(f'{name}: no {", no ".join(lacks)}')
        else:
            points.append(_point(methods, json.loads(start.read_text('utf-8'))['ratio'], pixels))
    if not points:
        reason = '; '.join(missing) or 'no finished run'
        raise UserError(f'{directory}: has no point ({reason}); run benchmarks/real_model.py with these stages first.')
    for line in missing:
        print(f'{directory}: left out: {line}', file=sys.stderr)
    return points


def _point(methods: Mapping, ratio: float, pixels: int) -> 'OwnPoint':
    """A point from the cells of a model on a data set."""
    from real_model_claims import difference

    from ftsgd_plugin.profiling.own_points import OwnPoint
    from ftsgd_plugin.results.collect import metric_keys

    def gain(method: str, metric: str) -> float | None:
        found = difference(methods, method, 'sgd', metric)
        return None if found is None else found[0]

    cells = [methods[name] for name in METHODS[:2]]
    records = [record for cell in cells for record in cell.runs]
    best = cells[0].best
    id_metric, ood_metric = metric_keys(best.dataset)
    return OwnPoint(
        best.model,
        best.dataset,
        pixels,
        ', '.join(sorted({str(record.environment.get('device', 'unknown')) for record in records})),
        ratio,
        gain('freeze-embed', id_metric),
        gain('freeze-embed', ood_metric),
        gain('freeze-embed', 'ood/auroc'),
        gain('adamw', id_metric),
        gain('adamw', ood_metric),
        min(len(cell.runs) for cell in cells),
        max(record.finished for record in records)[:10] or 'unknown',
    )


class Measurement(Benchmark):
    """The stages of the benchmark for any model and data; the gradients first, as a prediction.

    Args:
        args: The options of `measure`.
        grids: Method -> rates. Default: the paper's.
    """

    def __init__(self, args: argparse.Namespace, grids: Mapping | None = None) -> None:
        from ftsgd_plugin.finetune.model import find_model
        from ftsgd_plugin.paper.grids import GRIDS
        from ftsgd_plugin.sweep.forked import Forks

        self.args, self.seed_count, self.stages = args, args.seeds, STAGES
        grids = {method: list(rates) for method, rates in (grids or {name: GRIDS[name] for name in METHODS}).items()}
        given = self._options()
        model = find_model(given)
        self.options = {**NO_CHECKPOINTS, 'train_dataloader.num_workers': 0, 'val_dataloader.num_workers': 0}
        self.plan, self._text = self._of_config(grids) if args.dataset else self._of_images(grids, given, model)
        self.out = Path(args.out or Path('work_dirs/points') / f'{self.plan.datasets[0]}_{self.plan.models[0]}')
        self.settings = {
            'pixels': model.image_size,
            'epochs': args.epochs,
            'TF32': args.tf32,
            'images': None,
            'batch size': args.batch_size,
        }
        self.until = None if args.minutes is None else time.monotonic() + 60 * args.minutes
        self.place = lambda: Forks(args.jobs, self.until)

    @property
    def has_time(self) -> bool:
        """Whether nothing was left out for want of time."""
        return self.until is None or time.monotonic() < self.until

    def gradients(self) -> None:
        """The gradients before training, of the first run's config."""
        from ftsgd_plugin.sweep.ray_backend import LOG
        from ftsgd_plugin.sweep.runs import CONFIG, prepare
        from ftsgd_plugin.utils.errors import UserError

        file = self.out / f'gradients/{self.plan.datasets[0]}_start.json'
        if file.is_file():
            return
        task = self._task(self.plan.runs()[0], self.options)
        prepare(task)
        self._run_jobs([self._profile_job(task.directory / CONFIG, file)])
        if not file.is_file() and self.has_time:
            raise UserError(f'{file}: could not be measured; see {file.with_suffix("") / LOG}.')

    def _train(self, runs: Sequence, keep: bool = False) -> None:
        super()._train(runs)  # no weights: nothing reads them later

    def _options(self) -> 'Options':
        """As `tools/finetune.py` takes them."""
        from ftsgd_plugin.finetune.options import Options

        args = self.args
        weights = {None: True, 'none': False}.get(args.weights, args.weights)
        return Options(
            args.data,
            args.model,
            hold_out=tuple(args.hold_out),
            batch_size=args.batch_size,
            image_size=args.image_size,
            pretrained=weights,
        )

    def _of_config(self, grids: dict) -> 'tuple[Plan, None]':
        """The plan of a benchmark of `configs/`."""
        from ftsgd_plugin.runner.data_check import check_data
        from ftsgd_plugin.sweep.plan import Plan, check_plan
        from ftsgd_plugin.sweep.runs import run_config
        from ftsgd_plugin.utils.errors import UserError

        args = self.args
        if args.hold_out:
            raise UserError('--hold-out: is of your own data; a benchmark has its OOD split.')
        roots = {args.dataset: args.data}
        plan = Plan([args.model], [args.dataset], grids, [0], {}, args.epochs, roots, args.image_size)
        check_plan(plan, '--model and --dataset')
        self.options['train_dataloader.batch_size'] = args.batch_size
        if args.weights:
            self.options['model.backbone.pretrained'] = self._options().pretrained
        check_data(run_config(plan, plan.runs()[0], Path()), ('train_dataloader', 'val_dataloader'))
        return plan, None

    def _of_images(self, grids: dict, given: 'Options', model: 'Model') -> 'tuple[Plan, Callable[[str], str]]':
        """The plan of own images, and what gives the text of a method's config."""
        from ftsgd_plugin.finetune.config import config_text
        from ftsgd_plugin.finetune.data import find_data
        from ftsgd_plugin.finetune.time_plan import DEFAULT_EPOCHS
        from ftsgd_plugin.sweep.plan import Plan
        from ftsgd_plugin.utils.errors import UserError

        data = find_data(given)
        if not data.layout.held_out and data.layout.ood != 'ood':
            known = ', '.join(data.layout.table.group_names) or 'none'
            raise UserError(f'{given.data}: has no split ood; name the domains to --hold-out (there: {known}).')
        names = _name(given.model.rpartition('/')[2]), _name('-'.join([data.name, *given.hold_out]))
        epochs = self.args.epochs or DEFAULT_EPOCHS

        def text(method: str) -> str:
            return config_text(model, data, method, grids[method][0], epochs, given.batch_size, workers=0)

        return Plan([names[0]], [names[1]], grids, [0]), text

    def _task(self, run: 'Run', options: dict) -> 'Task':
        if self._text is None:
            return super()._task(run, options)
        from ftsgd_plugin.runner.build import merge_cfg_options
        from ftsgd_plugin.sweep.runs import task_in

        directory = self._directory(run)
        cfg = deepcopy(self._bases[run.method])
        cfg.optim_wrapper.optimizer.lr, cfg.randomness.seed = run.lr, run.seed
        merge_cfg_options(cfg, run.config, options)
        cfg.run = dict(model=run.model, method=run.method, dataset=run.dataset)
        cfg.work_dir, cfg.experiment_name = str(directory), run.name
        return task_in(directory, run, cfg)

    @cached_property
    def _bases(self) -> dict[str, 'Config']:
        """Method -> its config on own images."""
        from ftsgd_plugin.runner.build import read_config
        from ftsgd_plugin.utils.files import write_text

        files = {method: write_text(self.out / f'configs/{method}.py', self._text(method)) for method in self.plan.lrs}
        return {method: read_config(str(file)) for method, file in files.items()}


def _name(text: str) -> str:
    """A name for directories and records."""
    return re.sub(r'[^\w.+-]+', '-', text).strip('-')


if __name__ == '__main__':
    main()
