"""The five benchmark configs through tools/train.py and tools/test.py with a tiny model, one process and two."""

import functools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers import ROOT, free_port, run_process
from helpers.small_runs import without_yapf
from mmengine.config import Config

from ftsgd_plugin.evaluation.wilds import load_wilds

ROOTS = {
    'camelyon': 'camelyon_root',
    'fmow': 'fmow_root',
    'living17': 'imagenet_root',
    'domainnet': 'domainnet_root',
    'waterbirds': 'waterbirds_root',
}


def child_config(directory, name: str, root) -> str:
    """The benchmark's config with a tiny model and the small tree swapped in."""
    cfg = Config.fromfile(ROOT / f'configs/vit-b16_freeze-embed_{name}.py')
    fewer = {'indices': 40} if name == 'domainnet' else {}  # the others are small, or their official numbers need all
    evaluated = [{**dataset, 'data_root': str(root), **fewer} for dataset in cfg.val_dataloader.dataset.datasets]
    path = directory / f'{name}.py'
    path.write_text(
        f'_base_ = {str(ROOT / f"configs/vit-b16_freeze-embed_{name}.py")!r}\n'
        "model = dict(backbone=dict(model_name='vit_tiny_patch16_224', depth=1, embed_dim=32, num_heads=2,\n"
        '             pretrained=False), head=dict(in_channels=32))\n'
        f'train_dataloader = dict(num_workers=0, batch_size=4, dataset=dict(data_root={str(root)!r}, indices=8))\n'
        f'val_dataloader = dict(num_workers=0, batch_size=16, dataset=dict(datasets={evaluated!r}))\n'
        'test_dataloader = val_dataloader\n'
        'train_cfg = dict(max_epochs=1)\n'
    )
    return str(path)


def logged_metrics(work_dir) -> dict[str, float]:
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {k: v for k, v in next(line for line in lines if 'id/accuracy' in line).items() if '/' in k}


class Trained(NamedTuple):
    """A benchmark's config with a tiny model, trained for an epoch."""

    name: str
    config: str
    work_dir: Path
    checkpoint: Path


@pytest.fixture(scope='module')
def train(request, tmp_path_factory, run_forked):
    """Train the config of a benchmark, once for all tests of this file."""
    roots = {name: request.getfixturevalue(fixture) for name, fixture in ROOTS.items()}

    @functools.cache
    def train(name: str) -> Trained:
        directory = tmp_path_factory.mktemp(name)
        config = child_config(directory, name, roots[name])
        result = run_forked('tools/train.py', config, '--work-dir', directory / 'work', cwd=directory)
        assert result.returncode == 0, result.stderr
        return Trained(name, config, directory / 'work', directory / 'work/epoch_1.pth')

    return train


@pytest.fixture(scope='module')
def trained(train, request) -> Trained:
    """The run of the benchmark that a test is parametrised by."""
    return train(request.param)


@pytest.fixture
def evaluate(run_tool, tmp_path, monkeypatch):
    """Run tools/test.py in this process; the metrics."""
    monkeypatch.chdir(tmp_path)

    def run(trained: Trained, *options) -> dict[str, float]:
        out = tmp_path / 'one.json'
        words = ['--work-dir', 'test', '--out', out, '--out-item', 'metrics', *options]
        code, err = run_tool('test', trained.config, trained.checkpoint, *words)
        assert code == 0, err
        return json.loads(out.read_text())

    return run


@pytest.mark.parametrize('trained', ROOTS, indirect=True)
def test_trains_and_evaluates(trained, evaluate):
    name, run = trained.name, trained
    metrics = logged_metrics(run.work_dir)
    expected = {'id/accuracy', 'ood/accuracy', 'ood/worst_group'}
    expected |= {f'split/{dataset.split}' for dataset in Config.fromfile(run.config).val_dataloader.dataset.datasets}
    if name == 'fmow':
        expected |= {'ood/worst_year', 'group/Africa', 'group/Other', 'year/2016', 'year/2017'}
        assert metrics['ood/accuracy'] == metrics['group/Africa']
    assert expected <= metrics.keys()
    assert list(run.work_dir.glob('best_id_accuracy_epoch_1.pth'))
    found = evaluate(run)
    assert {key: found[key] for key in metrics} == pytest.approx(metrics)


ODD_SIZE = ('--cfg-options', 'test_dataloader.dataset.datasets.1.indices=7')


def evaluate_in_ranks(request, run: Trained, tmp_path: Path):
    """Two ranks in forked children."""
    words = [run.config, run.checkpoint, '--work-dir', 'test2', '--out', tmp_path / 'two.json', '--out-item', 'metrics']
    return request.getfixturevalue('run_ranks')(2, 'tools/test.py', *words, *ODD_SIZE, cwd=tmp_path)


def evaluate_by_launcher(request, run: Trained, tmp_path: Path, processes: int = 2):
    """`tools/dist_test.sh CONFIG CHECKPOINT PROCESSES`, cold."""
    words = [run.config, run.checkpoint, processes, '--work-dir', 'test2', '--out', tmp_path / 'two.json']
    words += ['--out-item', 'metrics', *ODD_SIZE]
    path = without_yapf(tmp_path / 'path')
    return run_process('bash', ROOT / 'tools/dist_test.sh', *words, cwd=tmp_path, PORT=free_port(), PYTHONPATH=path)


evaluate_by_launcher_in_one = functools.partial(evaluate_by_launcher, processes=1)


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    'trained, evaluate_again',
    [
        *(
            pytest.param(
                name, evaluate_in_ranks, id=name, marks=[pytest.mark.slow] * (name not in ('fmow', 'waterbirds'))
            )
            for name in ROOTS
        ),
        # cold interpreters; test_launchers.py has the script's own logic
        pytest.param('waterbirds', evaluate_by_launcher_in_one, id='dist_test.sh 1', marks=pytest.mark.slow),
        pytest.param('waterbirds', evaluate_by_launcher, id='dist_test.sh 2', marks=pytest.mark.slow),
    ],
    indirect=['trained'],
)
def test_two_processes_evaluate_to_the_same_numbers(request, trained, evaluate, tmp_path, evaluate_again):
    """Evaluation sets of odd sizes: padding must neither duplicate nor drop a sample."""
    one = evaluate(trained, *ODD_SIZE)
    result = evaluate_again(request, trained, tmp_path)
    assert result.returncode == 0, result.stderr
    two = json.loads((tmp_path / 'two.json').read_text())
    keys = [key for key in one if '/' in key]
    assert len(keys) > 4 and {key: two[key] for key in keys} == pytest.approx({key: one[key] for key in keys})


@pytest.mark.multiprocess
@pytest.mark.parametrize('trained', ['waterbirds'], indirect=True)
def test_two_processes_train_to_the_same_numbers(trained, run_ranks, tmp_path):
    """Waterbirds has no random augmentation, so the same global batches give the same weights and metrics."""
    run = trained
    result = run_ranks(
        2, 'tools/train.py', run.config, '--work-dir', tmp_path / 'two', '--cfg-options',
        'train_dataloader.batch_size=2', cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    one, two = (
        torch.load(path, weights_only=True)['state_dict'] for path in (run.checkpoint, tmp_path / 'two/epoch_1.pth')
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert logged_metrics(tmp_path / 'two') == pytest.approx(logged_metrics(run.work_dir), abs=1e-6)


@pytest.mark.parametrize('trained, key', [
    ('camelyon', 'acc_avg'),
    ('fmow', 'acc_worst_region'),
    ('waterbirds', 'adj_acc_avg'),
], indirect=['trained'])  # fmt: skip
def test_official_predictions_and_numbers(request, wilds, trained, evaluate, tmp_path, key):
    name, run = trained.name, trained
    metrics = evaluate(run, '--wilds-predictions', tmp_path / 'files')
    assert not {'torch_scatter', 'outdated'} & sys.modules.keys()  # stand-ins for the call only
    benchmark = {'camelyon': 'camelyon17'}.get(name, name)
    oracle = load_wilds(benchmark, str(request.getfixturevalue(ROOTS[name])))
    for dataset in Config.fromfile(run.config).test_dataloader.dataset.datasets:
        path = tmp_path / f'files/{benchmark}_split:{dataset.split}_seed:0_epoch:best_pred.csv'
        predictions = [int(line) for line in path.read_text().split()]
        assert len(predictions) == len(oracle.get_subset(dataset.split))
    official = metrics[f'wilds/test/{key}']
    ours = {
        'camelyon': metrics['ood/accuracy'],
        'fmow': metrics['ood/worst_group'],
        'waterbirds': metrics['id/accuracy'],
    }[name]
    assert ours == pytest.approx(official, abs=1e-6)


@pytest.mark.parametrize('trained', ['domainnet'], indirect=True)
def test_official_evaluation_of_another_benchmark(trained, tmp_path, run_tool, monkeypatch):
    run = trained
    monkeypatch.chdir(tmp_path)
    code, err = run_tool(
        'test', run.config, run.checkpoint, '--work-dir', 'test', '--wilds-predictions', tmp_path / 'files'
    )
    assert code == 2 and 'DomainNet is not one of Camelyon17, FMoW, Waterbirds' in err.splitlines()[-1]
