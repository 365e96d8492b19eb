"""The demo on digits: the built-in ViT with the paper's six methods; the logic of ``tools/demo.py --digits``."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..datasets.digits import write_benchmark
from ..paper.names import method_label
from ..profiling.comparison import compare_resources
from ..profiling.diagnosis_page import write_diagnosis
from ..profiling.gradients import GradientProfile, measure_gradients
from ..profiling.setup import pretrained_model, quieten, training_loader
from ..records import read_record
from ..results.aggregate import MEASURES, method_summary
from ..results.formats import method_table
from ..results.report import write_report
from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.paths import config_path
from ..utils.plotting import COLOURS, GREY, ROLE_COLOURS, import_pyplot, save_figure, style_axes
from .driver import run_sweep
from .plan import Plan, check_plan, claim_directory, read_plan
from .runs import run_config, survey


def run_demo(
    out: str | os.PathLike = 'work_dirs/demo',
    data: str | os.PathLike = 'data/digits',
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    epochs: int | None = None,
    workers: int | None = None,
    command: str = '',
) -> list[dict]:
    """Write the digits, run the sweep of ``configs/sweeps/demo.py`` and compare the methods; print a table.

    Writes ``summary.json``, ``records.json`` and ``demo.png``, the diagnosis of the model, the cost of each method and
    the report of the runs into ``out``. The same call again continues.

    Args:
        out: Directory of the results.
        data: Directory of the digits, written if it is missing.
        methods: Methods of the plan. Default: all six.
        seeds: Default: 0, 1 and 2.
        epochs: Epochs of each run. Default: the plan's.
        workers: Runs at a time. Default: one per core, up to 8.
        command: Recorded in the pages.

    Returns:
        list[dict]: Output of :func:`ftsgd_plugin.results.aggregate.method_summary`.

    Raises:
        UserError: A method is not in the plan, a run fails, or as :func:`ftsgd_plugin.sweep.driver.run_sweep`.
    """
    plan = read_plan(config_path('sweeps/demo.py'))
    for method in methods or ():
        if method not in plan.lrs:
            raise UserError(f'methods: {method!r} is not in the demo; choose from {", ".join(plan.lrs)}.')
    plan = replace(
        plan,
        lrs={method: plan.lrs[method] for method in methods or plan.lrs},
        seeds=list(seeds or plan.seeds),
        epochs=epochs or plan.epochs,
        data_roots={'digits': str(data)},
    )
    check_plan(plan, 'the demo')
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    print(f'data: {write_benchmark(data)}', flush=True)
    claim_directory(plan, out)
    # Alone, each of these small runs would import for as long as it trains, and decode for much of that.
    cached = {'image_cache': str(out / 'image_cache')}
    failures = run_sweep(plan, out, cached, workers=workers, forked=True)
    if failures:
        name, line = failures[0]
        others = f' (and {len(failures) - 1} more)' if len(failures) > 1 else ''
        raise UserError(f'{name}: {line}{others}; its log is in {out}/runs/{name}.')
    quieten()
    records = [read_record(task.directory) for task in survey(plan, out)]
    summary = method_summary(records)
    draw_comparison(summary, _first_batch(plan, out), out / 'demo.png')
    write_text(out / 'records.json', json.dumps([asdict(record) for record in records], indent=1) + '\n')
    write_text(out / 'summary.json', json.dumps(summary, indent=1) + '\n')
    pages = _write_pages(out, str(data), command)
    names = ', '.join(map(str, [out / 'summary.json', out / 'demo.png', *pages]))
    print(f'\n{method_table(summary)}\n\nwritten: {names}')
    return summary


def _first_batch(plan: Plan, out: Path) -> GradientProfile:
    """Gradients of the pretrained model with a fresh head at the first training batch."""
    cfg = run_config(plan, plan.runs()[0], out)
    return measure_gradients(pretrained_model(cfg), training_loader(cfg), 1)


def _write_pages(out: Path, data: str, command: str) -> list[Path]:
    """Diagnosis, resources and report of the demo's model and runs."""
    config = config_path('vit-tiny_freeze-embed_digits')
    pages = [out / name for name in ('diagnosis/diagnosis.html', 'resources/resources.png', 'report.html')]
    for page in pages:
        print(f'\nmaking {page}', flush=True)
        if page.stem == 'diagnosis':
            options = {'train_dataloader.dataset.data_root': data}
            write_diagnosis(config, page.parent, cfg_options=options, command=command)
        elif page.stem == 'resources':
            compare_resources([config], steps=10, rounds=2, out=page.parent, command=command)
        else:
            write_report([out / 'runs'], page, title='The demo', command=command)
    return pages


def _legend_of(line: dict) -> str:
    if line['lr'] is None:
        return f'{method_label(line["method"])}: diverged'
    return f'{method_label(line["method"])}, {line["state_bytes_per_param"]:.1f} state bytes/param'


def draw_comparison(summary: Sequence[dict], profile: GradientProfile, path: str | os.PathLike) -> None:
    """Draw accuracies by method beside the gradient norm of every layer; the file is written atomically.

    Args:
        summary: Output of :func:`ftsgd_plugin.results.aggregate.method_summary`.
        profile: Gradients of the pretrained model at the first batch.
        path: PNG file.
    """
    plt = import_pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 6), width_ratios=(1.1, 1.25), constrained_layout=True)
    width = 0.8 / len(summary)
    for k, line in enumerate(summary):
        positions = [i + (k - (len(summary) - 1) / 2) * width for i in range(len(MEASURES))]
        means, intervals = zip(*(line[key] for key in MEASURES))
        bars = left.bar(
            positions,
            [math.nan if mean is None else 100 * mean for mean in means],
            width * 0.92,
            yerr=None if None in intervals else [100 * interval for interval in intervals],
            capsize=3,
            color=COLOURS.get(line['method']),
            label=_legend_of(line),
        )
        left.bar_label(bars, fmt='%.0f' if len(summary) > 4 else '%.1f', fontsize=8, padding=2)
    seeds = len(summary[0]['seeds'])
    spread = f'Mean ± 90 % interval of {seeds} seeds' if seeds > 1 else 'One seed'
    left.set(ylabel='accuracy (%)', ylim=(0, 100), title=f'{spread}, lr chosen by ID')
    left.set_yticks(range(0, 101, 20))
    left.set_xticks(range(len(MEASURES)), MEASURES.values())
    left.legend(fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.07), ncols=2, frameon=False)

    layers = profile.layers
    colours = [ROLE_COLOURS.get(layer.role, GREY) for layer in layers]
    right.bar(range(len(layers)), [layer.norm for layer in layers], color=colours)
    right.set(ylabel='gradient norm', title='Pretrained model at the first batch, input to output')
    right.set_xticks(range(len(layers)), [layer.name for layer in layers], rotation=90, fontsize=8)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in ROLE_COLOURS.values()]
    right.legend(handles, ['embedding layer (frozen by freeze-embed)', 'head'], fontsize=8)
    for axes in (left, right):
        style_axes(axes)
    save_figure(figure, path)
