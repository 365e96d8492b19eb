"""The five benchmark configs through tools/train.py and tools/test.py with a tiny model, one process and two."""

import json
import sys

import pytest
import torch
from helpers import ROOT, free_port, run_process
from mmengine.config import Config

from ftsgd_plugin.evaluation.wilds import load_wilds

ROOTS = {
    'camelyon': 'camelyon_root',
    'fmow': 'fmow_root',
    'living17': 'imagenet_root',
    'domainnet': 'domainnet_root',
    'waterbirds': 'waterbirds_root',
}


def child_config(folder, name: str, root) -> str:
    """The benchmark's config with a tiny model and the small tree swapped in."""
    cfg = Config.fromfile(ROOT / f'configs/vit-b16_freeze-embed_{name}.py')
    evaluated = [{**dataset, 'data_root': str(root)} for dataset in cfg.val_dataloader.dataset.datasets]
    path = folder / f'{name}.py'
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


@pytest.mark.parametrize('name', ROOTS)
def test_trains_and_evaluates(request, tmp_path, run_tool, monkeypatch, name):
    config = child_config(tmp_path, name, request.getfixturevalue(ROOTS[name]))
    monkeypatch.chdir(tmp_path)
    code, err = run_tool('train', config, '--work-dir', tmp_path / 'one')
    assert code == 0, err
    metrics = logged_metrics(tmp_path / 'one')
    expected = {'id/accuracy', 'ood/accuracy', 'ood/worst_group'}
    expected |= {f'split/{dataset.split}' for dataset in Config.fromfile(config).val_dataloader.dataset.datasets}
    if name == 'fmow':
        expected |= {'ood/worst_year', 'group/Africa', 'group/Other', 'year/2016', 'year/2017'}
        assert metrics['ood/accuracy'] == metrics['group/Africa']
    assert expected <= metrics.keys()
    assert list((tmp_path / 'one').glob('best_id_accuracy_epoch_1.pth'))
    code, err = run_tool(
        'test', config, tmp_path / 'one/epoch_1.pth', '--work-dir', tmp_path / 'test', '--out', tmp_path / 'm.json',
        '--out-item', 'metrics',
    )  # fmt: skip
    assert code == 0, err
    found = json.loads((tmp_path / 'm.json').read_text())
    assert {key: found[key] for key in metrics} == pytest.approx(metrics)


@pytest.mark.parametrize('name', ROOTS)
def test_two_processes_evaluate_to_the_same_numbers(request, tmp_path, run_tool, monkeypatch, name):
    """Evaluation sets of odd sizes: padding must neither duplicate nor drop a sample."""
    config = child_config(tmp_path, name, request.getfixturevalue(ROOTS[name]))
    monkeypatch.chdir(tmp_path)
    assert run_tool('train', config, '--work-dir', tmp_path / 'one')[0] == 0
    options = ['--out-item', 'metrics', '--cfg-options', 'test_dataloader.dataset.datasets.1.indices=7']
    checkpoint = tmp_path / 'one/epoch_1.pth'
    run_tool('test', config, checkpoint, '--work-dir', 'test1', '--out', tmp_path / 'one.json', *options)
    result = run_process(
        'bash', ROOT / 'tools/dist_test.sh', config, checkpoint, '2', '--work-dir', 'test2', '--out',
        tmp_path / 'two.json', *options, cwd=tmp_path, PORT=free_port(),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    one, two = (json.loads((tmp_path / f'{name}.json').read_text()) for name in ('one', 'two'))
    keys = [key for key in one if '/' in key]
    assert len(keys) > 4 and {key: two[key] for key in keys} == pytest.approx({key: one[key] for key in keys})


def test_two_processes_train_to_the_same_numbers(waterbirds_root, tmp_path, run_tool, monkeypatch):
    """Waterbirds has no random augmentation, so the same global batches give the same weights and metrics."""
    config = child_config(tmp_path, 'waterbirds', waterbirds_root)
    monkeypatch.chdir(tmp_path)
    assert run_tool('train', config, '--work-dir', tmp_path / 'one')[0] == 0
    result = run_process(
        'bash', ROOT / 'tools/dist_train.sh', config, '2', '--work-dir', tmp_path / 'two', '--cfg-options',
        'train_dataloader.batch_size=2', cwd=tmp_path, PORT=free_port(),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    one, two = (
        torch.load(tmp_path / f'{name}/epoch_1.pth', weights_only=True)['state_dict'] for name in ('one', 'two')
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert logged_metrics(tmp_path / 'two') == pytest.approx(logged_metrics(tmp_path / 'one'), abs=1e-6)


@pytest.mark.parametrize('name, fixture, key', [
    ('camelyon', 'camelyon_root', 'acc_avg'),
    ('fmow', 'fmow_root', 'acc_worst_region'),
    ('waterbirds', 'waterbirds_root', 'adj_acc_avg'),
])  # fmt: skip
def test_official_predictions_and_numbers(request, wilds, tmp_path, run_tool, monkeypatch, name, fixture, key):
    root = request.getfixturevalue(fixture)
    config = child_config(tmp_path, name, root)
    monkeypatch.chdir(tmp_path)
    assert run_tool('train', config, '--work-dir', tmp_path / 'one')[0] == 0
    code, err = run_tool(
        'test', config, tmp_path / 'one/epoch_1.pth', '--work-dir', 'test', '--wilds-predictions', tmp_path / 'files',
        '--out', tmp_path / 'm.json', '--out-item', 'metrics',
    )  # fmt: skip
    assert code == 0, err
    assert not {'torch_scatter', 'outdated'} & sys.modules.keys()  # stand-ins for the call only
    metrics = json.loads((tmp_path / 'm.json').read_text())
    benchmark = {'camelyon': 'camelyon17'}.get(name, name)
    oracle = load_wilds(benchmark, str(root))
    for dataset in Config.fromfile(config).test_dataloader.dataset.datasets:
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


def test_official_evaluation_of_another_benchmark(domainnet_root, tmp_path, run_tool, monkeypatch):
    config = child_config(tmp_path, 'domainnet', domainnet_root)
    monkeypatch.chdir(tmp_path)
    assert run_tool('train', config, '--work-dir', tmp_path / 'one')[0] == 0
    code, err = run_tool(
        'test', config, tmp_path / 'one/epoch_1.pth', '--work-dir', 'test', '--wilds-predictions', tmp_path / 'files'
    )
    assert code == 2 and 'DomainNet is not one of Camelyon17, FMoW, Waterbirds' in err.splitlines()[-1]
