"""tools/sweep.py --smoke: every config of the plan, what is missing, what failed, and that no table shows it."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.stub_records import record_of
from helpers.tiny_cells import tiny_cell
from helpers.tiny_sweep import write_plan
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, METRICS

from ftsgd_plugin.paper.names import CONFIG_METHODS, MODELS
from ftsgd_plugin.paper.names import DATASETS as DATASETS_OF_PAPER
from ftsgd_plugin.profiling.run_costs import RunCost
from ftsgd_plugin.records import find_records, is_smoke, read_record, write_record
from ftsgd_plugin.results.collect import collect
from ftsgd_plugin.sweep import forecast, runs, smoke
from ftsgd_plugin.sweep.plan import claim_directory, read_plan
from ftsgd_plugin.sweep.running import run_tasks
from ftsgd_plugin.sweep.smoke import cheapest_first, find_trials, list_cells
from ftsgd_plugin.sweep.two_iterations import LOADERS, _in_file, choose_images, cut
from ftsgd_plugin.utils.errors import UserError


class Stubs:
    """A place where every trial leaves the record of a finished one, but some fail."""

    workers = 1

    def __init__(self, tasks, fails=()):
        self.tasks, self.fails, self.order = tasks, fails, []

    def run(self, jobs, started):
        directories = {str(task.directory): task for task in self.tasks}
        for index, (_, directory) in enumerate(jobs):
            started(index)
            task = directories[directory]
            self.order.append(task.run.name)
            if task.run.config in self.fails:
                yield index, 1, 'ValueError: does not work'
                continue
            record = record_of(task)
            record = replace(record, epochs=record.epochs[:1], selected_epoch=0, smoke=is_smoke(task.config))
            write_record(record, task.directory)
            yield index, 0, ''

    def close(self):
        pass


@pytest.fixture(scope='module')
def roots(imagenet_root, waterbirds_root, domainnet_root, fmow_root, camelyon_root) -> dict[str, str]:
    found = dict(living17=imagenet_root, waterbirds=waterbirds_root, domainnet=domainnet_root, fmow=fmow_root,
                 camelyon=camelyon_root)  # fmt: skip
    return {name: str(root) for name, root in found.items()}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(runs, '_cell_config', tiny_cell)


@pytest.fixture
def stubs(monkeypatch):
    """Trials that leave records; ``stubs.fails`` names configs that fail, ``stubs.order`` what has run."""

    class Control:
        fails: tuple = ()
        order: list = []

    def run(tasks, out, place, **options):
        place = Stubs(tasks, Control.fails)
        failures = run_tasks(tasks, out, lambda: place, **options)
        Control.order = place.order
        return failures

    monkeypatch.setattr(smoke, 'run_tasks', run)
    return Control


def paper_plan(directory: Path, roots: dict, **keys) -> Path:
    """The paper's plan with these roots."""
    content = Config.fromfile(ROOT / 'configs/sweeps/paper.py').to_dict()
    return write_plan(directory, **{**content, 'data_roots': roots, **keys})


def test_the_papers_plan_has_210_configs_with_all_six_methods():
    cells = list_cells(read_plan(str(ROOT / 'configs/sweeps/paper.py')))
    assert len(cells) == len(set(cells)) == 210
    assert all((ROOT / f'configs/{"_".join(cell)}.py').is_file() for cell in cells)
    assert Counter(method for _, method, _ in cells) == dict.fromkeys(CONFIG_METHODS, 35)


def test_all_210_go_through_with_the_cheapest_first_then_what_has_failed_again(
    tiny, stubs, roots, tmp_path, capsys, monkeypatch
):
    plan, out = paper_plan(tmp_path, roots), tmp_path / 'out'
    sizes = {model: place for place, model in enumerate(MODELS)}

    def predict(tasks):
        return [cost(1e9 * sizes[task.run.model] + len(task.run.method)) for task in tasks]

    monkeypatch.setattr(smoke, 'predict_costs', predict)
    stubs.fails = ('vit-b16_sgd_fmow',)
    assert smoke.smoke(plan, out) == 1
    text = capsys.readouterr().out
    assert len(stubs.order) == 210
    ranks = [sizes[name.split('_')[0]] for name in stubs.order]
    assert ranks == sorted(ranks)
    assert '210 configs: 209 ran, 1 failed, 0 missing, 0 left' in text
    assert 'vit-b16_sgd_fmow_lr1e-3_seed0: ValueError: does not work' in text
    assert '5 ran, 1 failed' in text and 'ID ' not in text.replace('ID: ', '')
    stubs.fails = ()
    assert smoke.smoke(plan, out) == 0
    assert [name.rpartition('_lr')[0] for name in stubs.order] == ['vit-b16_sgd_fmow']


def cost(flops: float) -> RunCost:
    return RunCost(64, 32, flops, 1, 1)


def test_missing_data_and_weights_are_named_with_their_command_and_the_rest_runs(
    tiny, stubs, roots, tmp_path, capsys, monkeypatch
):
    def cell(name: str) -> Config:
        cfg = tiny_cell(name)
        if name.startswith('bit-r50'):
            cfg = deepcopy(cfg)
            cfg.model.backbone.pretrained = True
        return cfg

    monkeypatch.setattr(runs, '_cell_config', cell)
    for module in (smoke, forecast):
        monkeypatch.setattr(module, 'predict_costs', lambda tasks: [None] * len(tasks))
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    given = {'fmow': 'nowhere', 'camelyon': roots['camelyon']}
    keys = dict(models=['bit-r50', 'vit-b16'], datasets=list(given), model_seeds=None)
    plan = paper_plan(tmp_path, given, **keys)
    assert smoke.smoke(plan, tmp_path / 'out') == 3
    text = capsys.readouterr().out
    assert '24 configs: 6 ran, 0 failed, 18 missing, 0 left' in text
    lines = text[text.index('missing:\n') :].splitlines()[1:]
    assert [line.split(':')[0] for line in lines] == ['  data of fmow', '  weights of bit-r50']
    assert 'nowhere/rgb_metadata.csv: not found' in lines[0]
    assert lines[0].endswith('; then: python tools/prepare_data.py fmow nowhere')
    assert 'hf download timm/resnetv2_50x1_bit.goog_in21k model.safetensors; or --random-weights' in lines[1]
    assert smoke.smoke(plan, tmp_path / 'out', index=0) == 3  # bit-r50 on fmow
    assert '1 config: 0 ran, 0 failed, 1 missing, 0 left' in capsys.readouterr().out
    assert smoke.smoke(plan, tmp_path / 'random', random_weights=True, dry_run=True) == 3
    text = capsys.readouterr().out
    assert '24 configs: 0 ran, 0 failed, 12 missing, 12 left' in text and 'weights of' not in text
    assert not (tmp_path / 'random').exists()


@pytest.mark.parametrize('dataset', DATASETS_OF_PAPER)
def test_a_few_images_are_enough_for_the_metrics_of_a_benchmark(roots, dataset):
    """Every group has an image, so that no metric of the real run is without one; the batch has several classes."""
    init_default_scope('mmpretrain')
    cfg = deepcopy(tiny_cell(f'vit-b16_sgd_{dataset}'))
    for loader in LOADERS:
        for settings in cfg[loader].dataset.get('datasets', [cfg[loader].dataset]):
            settings.update(data_root=roots[dataset], pipeline=[])
    whole, chosen = read_all(cfg), choose_images(cfg)
    cfg.run = {}
    cut(cfg, chosen)
    few = read_all(cfg)
    assert len(few['train_dataloader']) == min(len(whole['train_dataloader']), cfg.train_dataloader.batch_size)
    assert len({record['gt_label'] for record in few['train_dataloader']}) > 1
    groups = [{(record['split'], record['group']) for record in data['val_dataloader']} for data in (few, whole)]
    assert groups[0] == groups[1] and len(few['val_dataloader']) <= len(whole['val_dataloader'])
    metrics = []
    for data in (few, whole):
        metric = METRICS.build(cfg.val_evaluator)
        rows = [(r['split'], r['group'], *(r[key] for key in metric.by), 1) for r in data['val_dataloader']]
        metrics.append(metric.compute_metrics(rows))
    assert {key for key in metrics[0] if not key.startswith('year/')} == {
        key for key in metrics[1] if not key.startswith('year/')
    }
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval, cfg.run.smoke) == (2, 2, True)
    saved = cfg.default_hooks.checkpoint
    assert (saved.interval, saved.save_last, saved.save_best) == (-1, False, None)


def read_all(cfg: Config) -> dict[str, list[dict]]:
    """Loader -> the records of all its data sets."""
    found = {}
    for loader in LOADERS:
        settings = cfg[loader].dataset.get('datasets', [cfg[loader].dataset])
        data = [DATASETS.build(one) for one in settings]
        found[loader] = [one.get_data_info(i) for one in data for i in range(len(one))]
    return found


@pytest.mark.parametrize('indices, expected', [
    (None, [0, 5, 9]), (10, [0, 5, 9]), ([3, *range(20, 29)], [3, 24, 28]), (-10, [-10, -5, -1])
])  # fmt: skip
def test_positions_within_a_part_of_the_data_are_those_of_all(indices, expected):
    assert _in_file([0, 5, 9], indices, 10) == expected


def test_costs_are_of_what_is_tried_and_order_it(tiny, roots, tmp_path):
    plan = read_plan(str(paper_plan(tmp_path, {'waterbirds': roots['waterbirds']}, datasets=['waterbirds'],
                                    models=['vit-b16', 'dino-vit-b16'], model_seeds=None)))  # fmt: skip
    cells = [(model, 'sgd', 'waterbirds') for model in ('vit-b16', 'dino-vit-b16')]
    trials = find_trials(plan, cells, tmp_path / 'out')
    tasks, costs = cheapest_first([trial.task for trial in trials])
    assert [task.run.model for task in tasks] == ['dino-vit-b16', 'vit-b16']  # two blocks and three
    chosen = tasks[0].config.val_dataloader.dataset.datasets
    assert [(one.images, one.evaluated) for one in costs] == 2 * [(2 * 16, sum(len(one.indices) for one in chosen))]


def test_a_smoke_test_and_a_sweep_share_no_directory(tiny, stubs, roots, tmp_path, monkeypatch):
    monkeypatch.setattr(smoke, 'predict_costs', lambda tasks: [None] * len(tasks))
    keys = dict(models=['vit-b16'], datasets=['waterbirds'], model_seeds=None)
    plan = paper_plan(tmp_path, {'waterbirds': roots['waterbirds']}, **keys)
    out, real = tmp_path / 'out', tmp_path / 'real'
    assert smoke.smoke(plan, out) == 0
    with pytest.raises(UserError, match='out: holds the runs of a smoke test; choose another --out'):
        claim_directory(read_plan(str(plan)), out)
    claim_directory(read_plan(str(plan)), real)
    with pytest.raises(UserError, match='real: holds the runs of a sweep; choose another --out'):
        smoke.smoke(plan, real)
    other = tmp_path / 'without_plan'
    (other / 'runs').mkdir(parents=True)
    with pytest.raises(UserError, match='without_plan: holds the runs of a sweep'):
        smoke.smoke(plan, other)


def test_no_table_shows_a_trial(tiny, stubs, roots, tmp_path, monkeypatch):
    monkeypatch.setattr(smoke, 'predict_costs', lambda tasks: [None] * len(tasks))
    keys = dict(models=['vit-b16'], datasets=['waterbirds'], model_seeds=None)
    out, stubs.fails = tmp_path / 'out', ('vit-b16_sgd_waterbirds',)
    assert smoke.smoke(paper_plan(tmp_path, {'waterbirds': roots['waterbirds']}, **keys), out) == 1
    records = [read_record(path) for path in find_records([out])]
    assert len(records) == 6 and all(record.smoke for record in records)
    found = collect([out])
    assert (found.runs, found.diverged, found.unfinished, found.unreadable, found.smoke) == ([], [], [], {}, 6)
    assert found.notes()[0].endswith('0 unreadable, 6 of a smoke test.')


def test_two_iterations_of_real_runs_in_forks(run_forked, digits_root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(smoke, 'CONFIG_METHODS', ('gradual-unfreezing',))
    plan, out = write_plan(tmp_path, digits_root, lrs={'sgd': [1e-3]}), tmp_path / 'out'
    assert smoke.smoke(plan, out, forked=True, workers=1) == 0
    assert '2 configs: 2 ran, 0 failed, 0 missing, 0 left' in capsys.readouterr().out
    for path in find_records([out]):
        record = read_record(path)
        assert record.smoke and record.status == 'finished' and len(record.epochs) == 1
        log = (path.parent / 'run.log').read_text()
        assert 'Epoch(train) [2][1/1]' in log and 'Epoch(train) [3]' not in log
    assert not list(out.rglob('*.pth'))
    before = {path: path.stat().st_mtime_ns for path in out.rglob('record.json')}
    assert smoke.smoke(plan, out, forked=True) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob('record.json')} == before


def test_a_slurm_script_tries_one_config_a_task(run_tool, tmp_path):
    plan, directory = write_plan(tmp_path, 'nowhere'), tmp_path / 'slurm'
    code, err = run_tool('sweep', plan, '--smoke', '--random-weights', '--out', tmp_path / 'o', '--slurm', directory)
    assert (code, err) == (3, '')
    text = (directory / 'sweep.sh').read_text()
    assert '--array=0-5\n' in text
    assert text.rstrip().endswith(f'--out {tmp_path}/o --smoke --random-weights --index "$index"')
    assert 'data of digits: nowhere/metadata.csv: not found' in run_tool.stdout
    assert run_tool.stdout.rstrip().endswith('; then: python tools/make_digits.py nowhere')


@pytest.mark.parametrize('options, message', [
    (['--random-weights'], '--random-weights is of --smoke'),
    (['--smoke', '--keep-checkpoints'], '--keep-checkpoints: --smoke writes no weights'),
    (['--smoke', '--index', '6'], '--index 6: there are configs 0 to 5.'),
])  # fmt: skip
def test_options_that_do_not_fit_are_one_line(run_tool, tmp_path, options, message):
    code, err = run_tool('sweep', write_plan(tmp_path), '--out', tmp_path / 'out', *options)
    assert code == 2 and err.splitlines()[-1].endswith(message)


@pytest.mark.slow  # 65 trainings, about four minutes
def test_real_runs_of_every_data_set_method_and_model(tiny, run_forked, roots, tmp_path, capsys):
    """Every data set with every method, and every model with one, of tiny networks on small trees."""
    plan = paper_plan(tmp_path, roots, models=['vit-b16'], model_seeds=None)
    assert smoke.smoke(plan, tmp_path / 'methods', forked=True) == 0
    assert '30 configs: 30 ran, 0 failed, 0 missing, 0 left' in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoke, 'CONFIG_METHODS', ())
        plan = paper_plan(tmp_path, roots, lrs={'freeze-embed': [1e-3]})
        assert smoke.smoke(plan, tmp_path / 'models', forked=True) == 0
    assert '35 configs: 35 ran, 0 failed, 0 missing, 0 left' in capsys.readouterr().out
