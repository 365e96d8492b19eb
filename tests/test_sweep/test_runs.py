"""Run folders: a run is its full config; what is finished, unfinished, changed or new; nothing is lost."""

from dataclasses import replace

import pytest
from helpers.tiny_sweep import write_plan

from ftsgd_plugin.records import RunRecord, config_hash, find_records, read_record, run_names, write_record
from ftsgd_plugin.runner.build import read_config
from ftsgd_plugin.sweep.cost import TRAIN_FACTOR, model_costs, predict
from ftsgd_plugin.sweep.driver import conclude, describe, run_sweep
from ftsgd_plugin.sweep.plan import Plan, read_plan
from ftsgd_plugin.sweep.runs import CONFIG, delete_weights, mark_failed, prepare, survey
from ftsgd_plugin.utils.errors import UserError


@pytest.fixture
def plan(tmp_path) -> Plan:
    return read_plan(str(write_plan(tmp_path)))


def record_of(task, **changes) -> RunRecord:
    run = task.run
    epochs = [{'id/accuracy': 0.5, 'ood/accuracy': 0.25}]
    record = RunRecord(run.model, run.method, run.dataset, run.lr, run.seed, task.hash, 'finished', epochs, 0)
    return replace(record, **changes)


def states(plan, out) -> list[str]:
    return [task.state for task in survey(plan, out)]


def test_state_of_every_run(plan, tmp_path):
    assert states(plan, tmp_path) == ['new'] * 4
    finished, failed, running, changed = survey(plan, tmp_path)
    for task, changes in (
        (finished, {}),
        (failed, {'status': 'failed', 'error': 'MemoryError'}),
        (running, {'status': 'running'}),
        (changed, {'config_hash': 'other'}),
    ):
        task.folder.mkdir(parents=True)
        write_record(record_of(task, **changes), task.folder)
    assert states(plan, tmp_path) == ['finished', 'unfinished', 'unfinished', 'changed']
    text = describe(survey(plan, tmp_path), tmp_path)
    assert 'unfinished: MemoryError' in text and '4 runs, 3 to do' in text


def test_half_written_record_and_checkpoints_of_nobody_knows_what(plan, tmp_path):
    first, second, *_ = survey(plan, tmp_path)
    for task in (first, second):
        task.folder.mkdir(parents=True)
        (task.folder / 'record.json').write_text('{"model": "vi')
    (second.folder / 'epoch_1.pth').write_bytes(b'weights')
    assert states(plan, tmp_path)[:2] == ['new', 'changed']


def test_written_config_is_the_one_that_was_hashed(plan, tmp_path):
    for task in survey(plan, tmp_path):
        prepare(task)
        cfg = read_config(str(task.folder / CONFIG))
        assert config_hash(cfg) == task.hash
        assert cfg.optim_wrapper.optimizer.lr == task.run.lr and cfg.work_dir == str(task.folder)
        assert run_names(cfg) == dict(model='vit-tiny', method=task.run.method, dataset='digits')
        assert {dataset.data_root for dataset in cfg.val_dataloader.dataset.datasets} == {'data/digits'}


def test_every_change_of_a_config_changes_the_hash(plan, tmp_path):
    hashes = {
        task.hash
        for changed in (plan, replace(plan, epochs=2), replace(plan, data_roots={}), replace(plan, seeds=[1]))
        for task in survey(changed, tmp_path)
    }
    hashes |= {task.hash for task in survey(plan, tmp_path, {'env_cfg.cudnn_benchmark': False})}
    assert len(hashes) == 4 * 5 - 4  # the roots left out are those of the config
    assert {task.hash for task in survey(plan, tmp_path / 'elsewhere')} < hashes


def test_changed_run_goes_aside_whole_and_out_of_sight_of_the_tables(plan, tmp_path):
    for round in (1, 2):
        task = survey(plan, tmp_path)[0]
        task.folder.mkdir(parents=True, exist_ok=True)
        write_record(record_of(task, config_hash=f'other{round}'), task.folder)
        (task.folder / 'epoch_1.pth').write_bytes(b'precious')
        task = survey(plan, tmp_path)[0]
        moved = prepare(task)
        assert moved == tmp_path / f'replaced/{task.run.name}.{round}'
        assert (moved / 'epoch_1.pth').read_bytes() == b'precious'
        assert read_record(moved / 'replaced-record.json').config_hash == f'other{round}'
        assert [path.name for path in task.folder.iterdir()] == [CONFIG]
    assert find_records([tmp_path]) == []


def test_failure_keeps_what_was_reached(plan, tmp_path):
    started, new, *_ = survey(plan, tmp_path)
    for task in (started, new):
        prepare(task)
    write_record(record_of(started, status='running', started='2026-01-01T00:00:00+00:00'), started.folder)
    for task in (started, new):
        mark_failed(task, 'MemoryError')
    record = read_record(started.folder)
    assert (record.status, record.error, len(record.epochs)) == ('failed', 'MemoryError', 1)
    assert record.started == '2026-01-01T00:00:00+00:00' and record.finished
    record = read_record(new.folder)
    assert (record.status, record.epochs, record.config_hash) == ('failed', [], new.hash)
    assert states(plan, tmp_path)[:2] == ['unfinished'] * 2


def test_weights_go_when_the_run_is_finished_and_not_before(plan, tmp_path):
    task = survey(plan, tmp_path)[0]
    prepare(task)
    names = ['best_id_accuracy_epoch_1.pth', 'epoch_1.pth', 'last_checkpoint']
    for name in names:
        (task.folder / name).write_bytes(b'weights')
    write_record(record_of(task, status='running'), task.folder)
    assert conclude(task, 0, '', keep_checkpoints=False) == 'ended without a finished record'
    assert all((task.folder / name).exists() for name in names)
    write_record(record_of(task), task.folder)
    assert conclude(task, 0, '', keep_checkpoints=True) == ''
    assert all((task.folder / name).exists() for name in names)
    assert conclude(task, 0, '', keep_checkpoints=False) == ''
    assert sorted(path.name for path in task.folder.iterdir()) == [CONFIG, 'record.json']
    delete_weights(task.folder)


def test_option_that_does_not_fit_is_one_line(plan, tmp_path):
    with pytest.raises(UserError, match='--cfg-options: does not fit vit-tiny_sgd_digits'):
        survey(plan, tmp_path, {'val_dataloader.dataset.datasets.7.indices': 1})


def test_cost_by_hand(tmp_path):
    """CLIP ViT-B/16 on Waterbirds: 20 epochs of 4,795 images, each followed by 1,199 + 5,794."""
    keys = dict(models=['clip-vit-b16'], datasets=['waterbirds'], lrs={'adamw': [1e-5]}, epochs=None, data_roots={})
    (task,) = survey(read_plan(str(write_plan(tmp_path, **keys))), tmp_path)
    cost = predict(task.run, task.config)
    assert (cost.images, cost.evaluated) == (20 * 4795, 20 * (1199 + 5794))
    forward, parameters = model_costs()['clip-vit-b16']
    assert forward == pytest.approx(2 * 17.56e9, rel=1e-3)  # multiply-adds of a ViT-B/16 with 197 tokens
    assert cost.hours(60) == pytest.approx(forward * (TRAIN_FACTOR * 95_900 + 139_860) / 60e12 / 3600)
    assert cost.weights_bytes == 4 * parameters and cost.state_bytes == 8 * parameters


def test_dry_run_of_the_paper_lists_every_run_with_its_cost(run_tool, tmp_path):
    code, err = run_tool('sweep', 'configs/sweeps/paper.py', '--dry-run', '--out', tmp_path / 'out')
    assert (code, err) == (0, '') or 'warn' in err.lower()
    lines = run_tool.stdout.splitlines()
    assert sum(line.endswith(' h') for line in lines) == 840 + 240
    assert '1080 runs, 1080 to do: about ' in run_tool.stdout and 'GPU-hours at 60 TFLOP/s' in run_tool.stdout
    assert not (tmp_path / 'out').exists()


def test_finished_runs_of_other_code_are_a_warning(plan, tmp_path, capsys):
    for task in survey(plan, tmp_path):
        task.folder.mkdir(parents=True)
        write_record(record_of(task, code={'version': '0.0.1', 'commit': None}), task.folder)
    assert run_sweep(plan, tmp_path) == []
    out = capsys.readouterr().out
    assert (
        'warning: 4 runs were begun or finished by another version of the code, e.g. vit-tiny_sgd_digits_lr1e-3_seed0'
        in out
    )
    assert 'all 4 runs are finished' in out
