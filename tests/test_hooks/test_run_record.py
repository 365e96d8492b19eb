"""The record of a run: written from the start, complete at the end, the same whether the run was stopped or not."""

from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.config import Config

from ftsgd_plugin import records
from ftsgd_plugin.evaluation.selection import select_epoch
from ftsgd_plugin.optim.state import optimizer_state_bytes
from ftsgd_plugin.records import FILE, RunRecord, config_hash, read_record
from ftsgd_plugin.results.wise_ft import find_run
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.sweep.running import _note as sweep_note

EPOCHS = 3


@pytest.fixture
def config(digits_config, tmp_path):
    def load(directory: str, **options) -> Config:
        options = {'launcher': 'none', 'train_cfg.max_epochs': EPOCHS, **options}
        return digits_config('freeze-embed', subset=64, work_dir=str(tmp_path / directory), **options)

    return load


def timeless(record: RunRecord) -> RunRecord:
    """The record without the fields that differ between two runs of the same config."""
    return replace(record, started='', finished='', command='', resources={})


def test_record_of_a_run(config, tmp_path):
    seen = []
    cfg = config('run')
    runner = build_runner(cfg)
    write = records.write_record

    def observe(record, directory):
        write(record, directory)
        seen.append(read_record(directory))

    with mock.patch('ftsgd_plugin.hooks.run_record.write_record', observe):
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


@pytest.mark.parametrize(
    'moment',
    [
        'before validating',
        *(pytest.param(one, marks=pytest.mark.slow) for one in ('before saving', 'after validating')),
    ],
)
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
    straight, resumed = (read_record(tmp_path / name) for name in ('straight', 'stopped'))
    assert timeless(resumed) == timeless(straight) and len(resumed.epochs) == EPOCHS
    assert resumed.started <= resumed.finished and resumed.resources['seconds'] > 0


def test_another_id_metric_selects_the_epoch_the_checkpoint_and_the_record(config, tmp_path):
    """Of the calibration error the lowest value; the config's rule is left to the hook."""
    items = dict(type='GroupAccuracy', id='val', ood='test', items=('ece', 'auroc'))
    saving = {'default_hooks.checkpoint.save_best': 'id/ece', 'default_hooks.checkpoint.rule': None}
    build_runner(config('run', val_evaluator=items, **saving)).train()
    record = read_record(tmp_path / 'run')
    values = [metrics['id/ece'] for metrics in record.epochs]
    best = min(range(EPOCHS), key=values.__getitem__)
    assert record.selected_by == 'id/ece' and record.selected_epoch == best and len(set(values)) == EPOCHS
    assert {'ood/ece', 'split/val/ece', 'split/test/auroc', 'id/accuracy'} < record.epochs[0].keys()
    checkpoint = find_run(tmp_path / 'run')[1]
    assert checkpoint.name == f'best_id_ece_epoch_{best + 1}.pth'
    assert f'id/ece {values[best]:6.1%}' in sweep_note(SimpleNamespace(directory=tmp_path / 'run'))


def test_only_rank_0_writes(config, tmp_path):
    runner = build_runner(config('run', **{'train_cfg.max_epochs': 1}))
    with mock.patch('ftsgd_plugin.hooks.run_record.is_main_process', return_value=False):
        runner.train()
    assert not (tmp_path / 'run' / FILE).exists()
