"""benchmarks/real_model.py: which runs it adds, what it keeps, and the verdicts of its page."""

import importlib.util
import json
import math
import sys
from argparse import Namespace
from dataclasses import replace

import pytest
from helpers import ROOT, run_process
from mmengine.config import Config

from ftsgd_plugin.methods import OTHER_METHODS
from ftsgd_plugin.profiling.own_points import read_points
from ftsgd_plugin.records import RunRecord, write_record
from ftsgd_plugin.sweep.plan import Run
from ftsgd_plugin.sweep.runs import run_config
from ftsgd_plugin.utils.errors import UserError

NAMES = ('real_model_claims', 'real_model_page', 'real_model', 'diagnosis_points')


@pytest.fixture(scope='module')
def modules():
    """The driver and its page, imported as programs do."""
    sys.path.insert(0, str(ROOT / 'benchmarks'))
    for name in NAMES:
        spec = importlib.util.spec_from_file_location(name, ROOT / f'benchmarks/{name}.py')
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    yield {name: sys.modules[name] for name in NAMES}
    for name in NAMES:
        del sys.modules[name]
    sys.path.remove(str(ROOT / 'benchmarks'))


def record(out, method: str, lr: float, seed: int, id: float, ood: float, status: str = 'finished') -> None:
    run = Run('dinov2-vit-s14', method, 'elpv-mono', lr, seed)
    metrics = {'id/accuracy': id, 'ood/accuracy': ood, 'ood/worst_group': ood - 0.1, 'ood/auroc': ood + 0.1,
               'id/auroc': id, 'group/poly_functional': ood, 'group/poly_defective': 0.9}  # fmt: skip
    epochs = [{**metrics, 'id/accuracy': id - 0.1, 'ood/accuracy': 0.99}, metrics]  # the last one is selected
    resources = {'seconds': 10.0, 'parameters': 1e6, 'state_bytes': 8e6 if 'adamw' in method else 4e6}
    if method == 'freeze-embed-no-momentum':
        resources['state_bytes'] = 0.0
    one = RunRecord(run.model, method, run.dataset, lr, seed, 'hash', status, epochs, 1, resources=resources)
    write_record(one, out / 'runs' / run.name)


@pytest.fixture
def out(tmp_path):
    """Two methods with a grid of three rates; three seeds at the best."""
    for method, best, ids in (('sgd', 1e-4, (0.7, 0.8, 0.7)), ('freeze-embed', 3e-4, (0.8, 0.85, 0.9))):
        for lr, value in zip((3e-5, 1e-4, 3e-4), ids):
            record(tmp_path, method, lr, 0, value, value - 0.2)
        for seed in (1, 2):
            record(tmp_path, method, best, seed, max(ids) + 0.01 * seed, max(ids) - 0.2 + 0.01 * seed)
    record(tmp_path, 'freeze-embed', 1e-3, 0, 0.99, 0.99, status='diverged')
    return tmp_path


def arguments(out, **others) -> Namespace:
    given = dict(
        out=str(out), stages=['grid'], seeds=3, model='dinov2-vit-s14', weights=None, data='data/elpv', epochs=None,
        methods=['sgd', 'freeze-embed'], datasets=['elpv-mono'], image_size=None, images=None, jobs=1, minutes=None,
        tf32=False,
    )  # fmt: skip
    return Namespace(**{**given, **others})


def test_best_rates_are_those_of_the_first_seed_by_id(modules, out):
    claims = modules['real_model_claims']
    best = claims.best_rates(claims.read_runs(out), ['dinov2-vit-s14'], ['elpv-mono'], ['sgd', 'freeze-embed', 'adamw'])
    assert [(run.method, run.lr, run.seed, rates) for run, rates in best] == [
        ('sgd', 1e-4, 0, [3e-5, 1e-4, 3e-4]),
        ('freeze-embed', 3e-4, 0, [3e-5, 1e-4, 3e-4, 1e-3]),  # a diverged rate is tried, never the best
    ]


def test_stages_add_neighbours_of_an_edge_and_seeds_at_the_best(modules, out, monkeypatch):
    driver = modules['real_model']
    benchmark, started = driver.Benchmark(arguments(out)), []
    monkeypatch.setattr(benchmark, '_train', lambda runs, keep=False: started.extend((run, keep) for run in runs))
    benchmark.edges()
    assert started == []  # both bests lie between others
    record(out, 'sgd', 3e-5, 0, 0.95, 0.5)
    benchmark.edges()
    runs = [(run.method, run.lr, run.seed, keep) for run, keep in started]
    assert runs == [('sgd', 1e-5, 0, False)] * driver.BEYOND  # as the stub trains nothing, the same again
    started.clear()
    benchmark.seeds()
    assert [(run.method, run.lr, run.seed, keep) for run, keep in started] == [
        (method, lr, seed, True) for seed in (1, 2) for method, lr in (('sgd', 3e-5), ('freeze-embed', 3e-4))
    ]


def test_runs_write_no_checkpoints_but_the_best_of_later_seeds(modules, tmp_path, monkeypatch):
    from ftsgd_plugin.sweep import running as sweeps

    driver = modules['real_model']
    seen = []
    monkeypatch.setattr(sweeps, 'run_tasks', lambda tasks, *args, **options: seen.append((tasks, options)) or [])
    benchmark = driver.Benchmark(arguments(tmp_path, images=8, image_size=56, epochs=2))
    run = benchmark.plan.runs()[0]
    benchmark._train([run])
    benchmark._train([replace(run, seed=1)], keep=True)
    for (tasks, options), saved in zip(seen, (None, 'id/accuracy')):
        cfg = tasks[0].config
        assert (cfg.default_hooks.checkpoint.save_best, cfg.default_hooks.checkpoint.interval) == (saved, -1)
        assert options['keep_checkpoints'] == (saved is not None) and options['forecast'] is False
        assert cfg.model.backbone.img_size == 56 and cfg.train_dataloader.dataset.pipeline[1]['size'] == (56, 56)
        assert (cfg.train_cfg.max_epochs, cfg.val_dataloader.dataset.datasets[1].indices) == (2, 8)


def test_methods_outside_the_plan_have_rates_and_configs_of_their_own(modules, tmp_path):
    driver = modules['real_model']
    plan = driver.Benchmark(arguments(tmp_path, methods=['sgd-gradient-rates', 'sgd-sai', 'lion', 'sgd'])).plan
    peers = Config.fromfile(ROOT / 'configs/sweeps/real_peers.py').lrs
    assert plan.lrs['sgd-sai'] == peers['sgd-sai'] and plan.lrs['sgd-gradient-rates'] == peers['sgd-gradient-rates']
    assert plan.lrs['lion'] == list(OTHER_METHODS['lion'].grid)  # of its part
    assert plan.lrs['sgd'] == Config.fromfile(ROOT / 'configs/sweeps/real.py').lrs['sgd']
    part = Config.fromfile(ROOT / 'configs/_base_/methods/sgd-gradient-rates.py')
    part.optim_wrapper.optimizer.lr = plan.lrs['sgd-gradient-rates'][0]
    cfg, plain = (run_config(plan, next(r for r in plan.runs() if r.method == m), tmp_path)
                  for m in ('sgd-gradient-rates', 'sgd'))  # fmt: skip
    assert (cfg.optim_wrapper, cfg.param_scheduler) == (part.optim_wrapper, part.param_scheduler)
    assert (cfg.model, cfg.train_dataloader, cfg.run.method) == (plain.model, plain.train_dataloader, part_name(cfg))
    with pytest.raises(UserError, match="--methods lions: no such method; did you mean 'lion'"):
        driver.Benchmark(arguments(tmp_path, methods=['lions']))


def part_name(cfg: Config) -> str:
    return 'sgd-gradient-rates' if cfg.optim_wrapper.paramwise_cfg.get('lr_mult') == 'gradient' else ''


def test_the_page_compares_methods_outside_the_paper_with_freeze_embed(modules, out, capsys):
    page = modules['real_model_page']
    page.write_page(out, out / 'page.md')
    assert 'beside SGD (freeze-embed)' not in (out / 'page.md').read_text()
    for seed, value in enumerate((0.95, 0.96, 0.97)):
        record(out, 'sgd-gradient-rates', 3e-4, seed, value, value - 0.2)
    page.write_page(out, out / 'page.md')
    (row,) = [line for line in (out / 'page.md').read_text().splitlines()
              if line.startswith('| SGD (rates by gradients) | +')]  # fmt: skip
    theirs, ours = (0.9, 0.91, 0.92), (0.95, 0.96, 0.97)
    assert row.split(' | ')[1].startswith(f'{100 * (sum(ours) - sum(theirs)) / 3:+.1f} ±')


def test_a_directory_takes_runs_of_one_kind(modules, tmp_path):
    driver = modules['real_model']
    driver.Benchmark(arguments(tmp_path, stages=[])).run()
    driver.Benchmark(arguments(tmp_path, stages=[])).run()
    with pytest.raises(UserError, match=r"settings\.json: the runs here have other settings .*'pixels': 84"):
        driver.Benchmark(arguments(tmp_path, stages=[], image_size=224)).run()


def test_the_page_has_the_numbers_and_verdicts(modules, out, capsys):
    page = modules['real_model_page']
    (out / 'gradients').mkdir()
    groups = [
        {'name': 'trans3_mlp', 'part': 'middle', 'norm': 2.0},
        {'name': 'trans1_attn', 'part': 'middle', 'norm': 1},
    ]
    start = dict(ratio=2.5, embed=5.0, largest_middle=2.0, head=1.0, batches=8, groups=groups)
    (out / 'gradients/elpv-mono_start.json').write_text(json.dumps(start))
    page.write_page(out, out / 'page.md')
    text = (out / 'page.md').read_text()
    assert '| SGD | 1e-4 | 3 | 81.0 ± 0.9 | 61.0 ± 0.9 | 51.0 ± 0.9 |' in text
    assert '| SGD (freeze-embed) | 3e-4 | 3 | 91.0 ± 0.9 |' in text
    assert '(trans3_mlp) 2.00' in text and '| before training | 2.50 |' in text
    assert '| the gradient of the embedding is the largest before training | holds | 2.50 times |' in text
    assert '| SGD (freeze-embed) is better than SGD in distribution | holds | +10.0 ± 1.7 |' in text
    assert '| AdamW is better than SGD out of distribution | not tested |  |' in text
    assert 'call most cells of the other kind defective' in text
    results = json.loads((out / 'results.json').read_text())['dinov2-vit-s14 elpv-mono']
    assert results['methods']['sgd']['lr'] == 1e-4 and results['methods']['sgd']['id/accuracy'][0] == 80.0
    with pytest.raises(UserError, match='has no finished run'):
        page.write_page(out / 'empty', out / 'page.md')


@pytest.mark.parametrize(
    'first, second, better, as_good',
    [
        ((0.80, 0.81, 0.82), (0.70, 0.71, 0.72), 'holds', 'holds'),
        ((0.70, 0.71, 0.72), (0.80, 0.81, 0.82), 'does not hold', 'does not hold'),
        ((0.70, 0.80, 0.90), (0.71, 0.79, 0.89), 'undecided', 'undecided'),
        ((0.800, 0.801, 0.802), (0.800, 0.801, 0.802), 'undecided', 'holds'),
        ((0.8,), (0.7,), 'undecided', 'undecided'),
    ],
)
def test_verdicts(modules, tmp_path, first, second, better, as_good):
    claims = modules['real_model_claims']
    for method, values in (('adamw', first), ('sgd', second)):
        for seed, value in enumerate(values):
            record(tmp_path, method, 1e-4, seed, value, value)
    (cells,) = claims.read_cells(tmp_path).values()
    assert claims.better('adamw', 'sgd', 'ood/accuracy')(cells)[0] == better
    assert claims.as_good('adamw', 'sgd', 'ood/accuracy')(cells)[0] == as_good
    assert claims.better('adamw', 'lars', 'ood/accuracy')(cells) == ('not tested', '')


def measured(out, ratio: float = 1.73, dataset: str = 'elpv-mono') -> None:
    """What the first stage of the gradients and the claim of a directory leave."""
    (out / 'gradients').mkdir(exist_ok=True)
    (out / f'gradients/{dataset}_start.json').write_text(json.dumps({'ratio': ratio}))
    (out / 'settings.json').write_text(json.dumps({'pixels': 84}))


def test_a_finished_directory_becomes_a_point(modules, out, tmp_path, capsys):
    points = modules['diagnosis_points']
    with pytest.raises(UserError, match=r'no gradients/|no .*elpv-mono_start\.json, no pixels in settings\.json'):
        points.points_of(out)
    measured(out)
    (point,) = points.add_from([out], out / 'points.csv')
    assert (point.model, point.dataset, point.pixels, point.ratio) == ('dinov2-vit-s14', 'elpv-mono', 84, 1.73)
    # Means over three seeds at the best rates: 80 to 82 % and 90 to 92 %; OOD 20 points lower.
    assert [round(v, 6) for v in (point.gain_id, point.freeze_embed_gain, point.gain_auroc)] == [10.0, 10.0, 10.0]
    assert (point.adamw_gain_id, point.adamw_gain, point.seeds) == (None, None, 3)
    (read,) = read_points(out / 'points.csv')
    assert replace(read, ratio=1.73, gain_id=0, freeze_embed_gain=0, gain_auroc=0) == replace(
        point, gain_id=0, freeze_embed_gain=0, gain_auroc=0
    )
    assert 'dinov2-vit-s14 on elpv-mono, 84 px' in capsys.readouterr().out


def measure_options(root, out, *others: str) -> list[str]:
    return ['measure', '--data', str(root), '--hold-out', 'sketch', '--model', 'vit-tiny', '--out', str(out),
            '--image-size', '32', '--epochs', '1', '--seeds', '2', '--jobs', '1', *others]  # fmt: skip


def test_own_domains_are_measured_in_stages_by_id_alone(modules, pacs_root, tmp_path, monkeypatch):
    """On PACS' layout: gradients first, truly measured; the paper's grids, a neighbour of an edge, seeds, the point."""
    from ftsgd_plugin.paper.grids import GRIDS
    from ftsgd_plugin.sweep import running as sweeps

    points, order = modules['diagnosis_points'], []
    monkeypatch.setattr(sys, 'argv', ['diagnosis_points.py', *measure_options(pacs_root, tmp_path / 'out')])
    measurement = points.Measurement(points.parse_args())

    def profiles(jobs):
        for command, _ in jobs:
            order.append('gradients')
            modules['real_model'].profile(*command[2:])

    def train(tasks, *args, **options):
        for task in tasks:
            run, cfg = task.run, task.config
            order.append((run.method, run.lr, run.seed))
            assert cfg.train_dataloader.dataset.hold_out == ['sketch'] and cfg.train_cfg.max_epochs == 1
            assert (cfg.optim_wrapper.optimizer.lr, cfg.randomness.seed) == (run.lr, run.seed)
            gains = {'sgd': 0.0, 'freeze-embed': 0.1, 'adamw': 0.05}[run.method]
            best = {'sgd': 3e-5, 'freeze-embed': 3e-4, 'adamw': 1e-5}[run.method]
            id = 0.5 + gains - 0.01 * abs(math.log(run.lr / best))
            epochs = [{'id/accuracy': id, 'ood/accuracy': 0.9 - id}]
            one = RunRecord(run.model, run.method, run.dataset, run.lr, run.seed, task.hash, 'finished', epochs, 0)
            write_record(replace(one, finished='2026-11-26T10:00:00'), task.directory)
        return []

    monkeypatch.setattr(measurement, '_run_jobs', profiles)
    monkeypatch.setattr(sweeps, 'run_tasks', train)
    measurement.run()
    grid = [(method, lr, 0) for method in ('sgd', 'freeze-embed', 'adamw') for lr in GRIDS[method]]
    assert order[0] == 'gradients' and order[1 : 1 + len(grid)] == grid
    rest = [one for one in order[1 + len(grid) :] if one not in grid]
    assert rest == [('sgd', 1e-5, 0), ('sgd', 3e-5, 1), ('freeze-embed', 3e-4, 1), ('adamw', 1e-5, 1)]
    (point,) = points.points_of(measurement.out)
    assert (point.model, point.dataset, point.pixels, point.seeds) == ('vit-tiny', 'PACS-sketch', 32, 2)
    assert round(point.gain_id, 6) == 10.0 and round(point.freeze_embed_gain, 6) == -10.0
    assert 0.1 < point.ratio < 10 and point.date == '2026-11-26'
    words = [word.replace('sketch', 'sketc') for word in measure_options(pacs_root, tmp_path / 'other')]
    monkeypatch.setattr(sys, 'argv', ['diagnosis_points.py', *words])
    with pytest.raises(UserError, match=r"'sketc'.* did you mean 'sketch'"):
        points.Measurement(points.parse_args())
    monkeypatch.setattr(sys, 'argv', ['diagnosis_points.py', *words[:3], '--model', 'vit-tiny'])
    with pytest.raises(UserError, match=r'name the domains to --hold-out .there: art_painting, cartoon, photo, sketch'):
        points.Measurement(points.parse_args())


@pytest.mark.slow  # the stages are those of the test above
def test_benchmarks_of_configs_are_measured_too_and_absent_ones_named(modules, domainnet_root, tmp_path, monkeypatch):
    points = modules['diagnosis_points']

    def make(*words: str):
        monkeypatch.setattr(sys, 'argv', ['diagnosis_points.py', 'measure', *words, '--out', str(tmp_path / 'out')])
        return points.Measurement(points.parse_args())

    words = ['--dataset', 'domainnet', '--model', 'vit-b16', '--weights', 'none', '--batch-size', '4']
    measurement = make('--data', str(domainnet_root), *words)
    run = measurement.plan.runs()[0]
    cfg = measurement._task(run, measurement.options).config
    assert cfg.train_dataloader.dataset.data_root == str(domainnet_root) and cfg.model.backbone.pretrained is False
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (50, 4)
    assert measurement.settings['pixels'] == 224
    with pytest.raises(UserError, match=r'nowhere/SENTRY_splits/sketch_train_mini\.txt: not found'):
        make('--data', 'nowhere', *words)
    with pytest.raises(UserError, match='--hold-out: is of your own data'):
        make('--data', 'nowhere', *words, '--hold-out', 'sketch')
    words[1] = 'domainne'
    with pytest.raises(UserError, match=r"datasets: 'domainne' is unknown; did you mean 'domainnet'"):
        make('--data', 'nowhere', *words)


@pytest.mark.slow  # about 12 trainings
def test_a_point_of_pacs_layout_from_real_runs(pacs_root, tmp_path):
    """The command itself, twice: the second call has nothing left to train."""
    words = [sys.executable, 'benchmarks/diagnosis_points.py', *measure_options(pacs_root, tmp_path / 'out')]
    words += ['--points', tmp_path / 'points.csv']
    result = run_process(*words, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    (point,) = read_points(tmp_path / 'points.csv')
    assert (point.model, point.dataset, point.seeds) == ('vit-tiny', 'PACS-sketch', 2)
    assert point.ratio > 0.1 and point.adamw_gain is not None
    again = run_process(*words, cwd=ROOT)
    assert again.returncode == 0 and 'runs are finished' in again.stdout and 'eta' not in again.stdout
