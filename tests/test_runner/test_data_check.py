"""Absent data is found before the model is built."""

import time

import pytest

from ftsgd_plugin import config_path
from ftsgd_plugin.runner import run
from ftsgd_plugin.runner.data_check import check_data
from ftsgd_plugin.utils.errors import UserError

BENCHMARKS = ('living17', 'waterbirds', 'domainnet', 'fmow', 'camelyon')


@pytest.mark.parametrize('name', [*(f'clip-vit-l14_freeze-embed_{data}' for data in BENCHMARKS), 'vit-tiny_sgd_digits'])
def test_a_run_without_its_data_ends_within_a_second_of_cpu(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, 'build_runner', None)  # not reached
    started = time.process_time()
    with pytest.raises(UserError, match='not found'):
        run.train(config_path(name), work_dir=str(tmp_path))
    assert time.process_time() - started < 1
    assert not list(tmp_path.iterdir())


def stock(root, kind='CustomDataset', **more) -> dict:
    dataset = dict(type=kind, data_root=str(root), **more)
    return {'default_scope': 'mmpretrain', 'train_dataloader': dict(dataset=dataset)}


@pytest.mark.parametrize('wrapper', [None, 'RepeatDataset', 'ConcatDataset'])
def test_directories_of_other_data_sets(tmp_path, wrapper):
    cfg = stock(tmp_path / 'absent')
    if wrapper == 'RepeatDataset':
        cfg['train_dataloader']['dataset'] = dict(type=wrapper, dataset=cfg['train_dataloader']['dataset'], times=2)
    if wrapper == 'ConcatDataset':
        cfg['train_dataloader']['dataset'] = dict(type=wrapper, datasets=[cfg['train_dataloader']['dataset']])
    with pytest.raises(UserError, match=r'train_dataloader\.dataset\S*data_root: .*absent: no such directory'):
        check_data(cfg, ['train_dataloader'])
    check_data(cfg, ['val_dataloader'])  # not used by this run


@pytest.mark.parametrize(
    'options, part',
    [
        (dict(data_prefix='train'), 'data_prefix: .*train: no such file'),
        (dict(data_prefix=dict(img_path='train')), r'data_prefix\.img_path'),
        (dict(ann_file='train.txt'), r'ann_file: .*train\.txt'),
        (dict(ann_file='', data_prefix=''), None),
        (dict(ann_file='s3://bucket/train.txt'), None),
        (dict(ann_file='train.txt', backend_args=dict(backend='petrel')), None),
    ],
)
def test_files_of_other_data_sets(tmp_path, options, part):
    cfg = stock(tmp_path, **options)
    if part is None:
        check_data(cfg, ['train_dataloader'])
    else:
        with pytest.raises(UserError, match=part):
            check_data(cfg, ['train_dataloader'])


@pytest.mark.parametrize('root', ['s3://bucket/data', 'absent'])
def test_what_is_remote_or_downloaded_is_not_looked_for(root):
    kind = 'CIFAR10' if root == 'absent' else 'CustomDataset'  # CIFAR10 downloads by default
    check_data(stock(root, kind), ['train_dataloader'])


def test_data_that_is_there_passes(digits_config):
    check_data(digits_config(), ['train_dataloader', 'val_dataloader', 'test_dataloader'])
