"""The record a run leaves: there from the start, complete at the end, the same whether the run was stopped or not."""

import contextlib
from dataclasses import replace
from unittest import mock

import pytest
import torch
from mmengine.config import Config

from ftsgd_plugin import config_path, provenance, records
from ftsgd_plugin.evaluation.selection import select_epoch
from ftsgd_plugin.optim.report import optimizer_state_bytes
from ftsgd_plugin.provenance import config_hash, run_names
from ftsgd_plugin.records import FILE, RunRecord, read_record, write_record
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import UserError

EPOCHS = 3


@pytest.fixture
def config(digits_config, tmp_path):
    def load(folder: str, **options) -> Config:
        options = {'launcher': 'none', 'train_cfg.max_epochs': EPOCHS, **options}
        return digits_config('freeze-embed', subset=64, work_dir=str(tmp_path / folder), **options)

    return load


def timeless(record: RunRecord) -> RunRecord:
    """Without what differs between two runs of the same thing."""
    return replace(record, started='', finished='', command='', resources={})


def test_record_of_a_run(config, tmp_path):
    seen = []
    cfg = config('run')
    runner = build_runner(cfg)
    write = records.write_record

    def look(record, folder):
        write(record, folder)
        seen.append(read_record(folder))

    with mock.patch('ftsgd_plugin.hooks.run_record.write_record', look):
        runner.train()
    assert [(one.status, len(one.epochs)) for one in seen] == [
        *(('running', n) for n in range(EPOCHS + 1)),
        ('finished', EPOCHS),
    ]
    assert seen[0].selected_epoch is None
    record = read_record(tmp_path / 'run')
    assert (record.model, record.method, record.dataset) == ('vit-tiny', 'freeze-embed', 'digits')
    assert (record.lr, record.seed, record.selected_by) == (3e-3, 0, 'id/accuracy')
    assert record.config_hash == config_hash(cfg) and len(record.config_hash) == 64
    hub = runner.message_hub.log_scalars
    logged = {key.removeprefix('val/'): hub[key].data[0].tolist() for key in hub if key.startswith('val/')}
    for key in record.epochs[0]:
        assert [metrics[key] for metrics in record.epochs] == logged[key]
    assert {'id/accuracy', 'ood/accuracy', 'ood/worst_group', 'split/val', 'split/test'} < record.epochs[0].keys()
    assert sum(key.startswith('group/') for key in record.epochs[0]) == 4
    assert record.selected_epoch == select_epoch(record.epochs)
    assert record.resources['state_bytes'] == optimizer_state_bytes(runner.optim_wrapper.optimizer) > 0
    assert record.resources['trained_parameters'] == 301_314
    assert record.environment['torch'] == torch.__version__.split('+')[0] and record.environment['processes'] == 1
    assert record.started <= record.finished


@pytest.mark.parametrize('moment', ['before saving', 'before validating', 'after validating'])
def test_record_of_a_resumed_run_equals_that_of_an_uninterrupted_one(config, tmp_path, moment):
    build_runner(config('straight')).train()
    stopped = build_runner(config('stopped'))
    where = {
        'before saving': (type(stopped.train_loop), 'run_iter', 2),
        'before validating': (type(stopped.val_loop), 'run', 0),
        'after validating': (type(stopped.train_loop), 'run_iter', 5),
    }[moment]
    owner, name, calls = where
    original, count = getattr(owner, name), iter(range(100))

    def stop(*args):
        if next(count) == calls:
            raise KeyboardInterrupt
        return original(*args)

    with mock.patch.object(owner, name, stop), pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert read_record(tmp_path / 'stopped').status == 'running'
    build_runner(config('stopped', resume=True)).train()
    straight, resumed = (read_record(tmp_path / folder) for folder in ('straight', 'stopped'))
    assert timeless(resumed) == timeless(straight) and len(resumed.epochs) == EPOCHS
    assert resumed.started <= resumed.finished and resumed.resources['seconds'] > 0


def test_only_rank_0_writes(config, tmp_path):
    runner = build_runner(config('run', **{'train_cfg.max_epochs': 1}))
    with mock.patch('ftsgd_plugin.hooks.run_record.is_main_process', return_value=False):
        runner.train()
    assert not (tmp_path / 'run' / FILE).exists()


def test_full_disk_is_one_line_and_the_earlier_record_stays(tmp_path):
    record = RunRecord('m', 'sgd', 'd', 0.1, 0, 'f' * 64, 'running', [])
    write_record(record, tmp_path)
    with (
        mock.patch('os.replace', side_effect=OSError(28, 'No space left on device')),
        pytest.raises(UserError, match=r'record\.json: cannot be written \(No space left on device\); make room'),
    ):
        write_record(replace(record, status='finished'), tmp_path)
    assert read_record(tmp_path).status == 'running' and [path.name for path in tmp_path.iterdir()] == [FILE]


def test_hash_is_that_of_what_can_change_the_numbers():
    def load(**options) -> Config:
        cfg = Config.fromfile(config_path('vit-tiny_sgd_digits'))
        cfg.merge_from_dict(options)
        return cfg

    plain = config_hash(load())
    same = [
        dict(work_dir='other', experiment_name='other', launcher='none'),
        dict(resume=True, load_from='work/epoch_1.pth'),
        dict(run=dict(model='vit-tiny', method='sgd', dataset='digits')),
        {'train_dataloader.pin_memory': True, 'val_dataloader.persistent_workers': False},
    ]
    assert {config_hash(load(**options)) for options in same} == {plain}
    other = [{'optim_wrapper.optimizer.lr': 0.5}, {'randomness.seed': 1}, {'load_from': 'weights.pth'}]
    assert len({plain, *(config_hash(load(**options)) for options in other)}) == 1 + len(other)


def test_names_come_from_run_then_the_file_then_the_types(tmp_path):
    content = Config.fromfile(config_path('vit-tiny_sgd_digits')).to_dict()
    for name in ('vit-tiny_sgd_digits.py', 'resnet50_8xb32_in1k.py'):
        (tmp_path / name).touch()
    ours, foreign = (str(tmp_path / name) for name in ('vit-tiny_sgd_digits.py', 'resnet50_8xb32_in1k.py'))
    names = dict(model='a', method='b', dataset='c')
    assert run_names(Config({**content, 'run': names}, filename=ours)) == names
    assert run_names(Config(content, filename=ours)) == dict(model='vit-tiny', method='sgd', dataset='digits')
    types = dict(model='VisionTransformer', method='SGD', dataset='Waterbirds')
    assert run_names(Config(content, filename=foreign)) == types


def test_code_version_outside_a_checkout_and_without_git(tmp_path, monkeypatch):
    provenance.code_version.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(provenance, '__file__', str(tmp_path / 'site/ftsgd_plugin/provenance.py'))
        assert provenance.code_version()['commit'] is None
    provenance.code_version.cache_clear()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch('subprocess.run', side_effect=FileNotFoundError))
        assert provenance.code_version()['commit'] is None
    provenance.code_version.cache_clear()
    assert len(provenance.code_version()['commit'].rstrip('+')) == 40
