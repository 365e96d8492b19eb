"""benchmarks/real_model.py: which runs it adds, what it keeps, and the verdicts of its page."""

import importlib.util
import json
import sys
from argparse import Namespace
from dataclasses import replace

import pytest
from helpers import ROOT

from ftsgd_plugin.records import RunRecord, write_record
from ftsgd_plugin.sweep.plan import Run
from ftsgd_plugin.utils.errors import UserError

NAMES = ('real_model_claims', 'real_model_page', 'real_model')


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
    from ftsgd_plugin.sweep import driver as sweeps

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
