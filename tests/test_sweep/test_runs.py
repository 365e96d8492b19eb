"""Run directories: a run is its full config and has one of four states; nothing is lost."""

from dataclasses import replace

import pytest
from helpers.tiny_sweep import write_plan

from ftsgd_plugin.profiling.run_costs import RunCost
from ftsgd_plugin.records import RunRecord, config_hash, find_records, read_record, run_names, write_record
from ftsgd_plugin.runner.build import read_config
from ftsgd_plugin.sweep.cost_cache import CostCache, cache_file
from ftsgd_plugin.sweep.driver import run_sweep
from ftsgd_plugin.sweep.forecast import describe, flop_weights, predict_costs
from ftsgd_plugin.sweep.plan import Plan, read_plan
from ftsgd_plugin.sweep.running import conclude, run_one
from ftsgd_plugin.sweep.runs import CONFIG, delete_weights, is_finished, mark_failed, prepare, survey
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
        task.directory.mkdir(parents=True)
        write_record(record_of(task, **changes), task.directory)
    assert states(plan, tmp_path) == ['finished', 'unfinished', 'unfinished', 'changed']
    text = describe(survey(plan, tmp_path), tmp_path)
    assert 'unfinished: MemoryError' in text and '4 runs, 3 to do' in text


def test_half_written_record_and_checkpoints_without_a_record(plan, tmp_path):
    first, second, *_ = survey(plan, tmp_path)
    for task in (first, second):
        task.directory.mkdir(parents=True)
        (task.directory / 'record.json').write_text('{"model": "vi')
    (second.directory / 'epoch_1.pth').write_bytes(b'weights')
    assert states(plan, tmp_path)[:2] == ['new', 'changed']


def test_written_config_is_the_one_that_was_hashed(plan, tmp_path):
    for task in survey(plan, tmp_path):
        prepare(task)
        cfg = read_config(str(task.directory / CONFIG))
        assert config_hash(cfg) == task.hash
        assert cfg.optim_wrapper.optimizer.lr == task.run.lr and cfg.work_dir == str(task.directory)
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


HARMLESS = {'default_hooks.logger.interval': 1, 'train_dataloader.num_workers': 2, 'visualizer.vis_backends': []}


@pytest.mark.parametrize('hash_of', ['hash', 'former_hash'])
def test_a_change_that_changes_no_number_leaves_a_run_finished(plan, tmp_path, hash_of):
    """Also one of version 0.1.0, whose hash counted everything: the config beside its record tells what it was."""
    for task in survey(plan, tmp_path):
        prepare(task)
        write_record(record_of(task, config_hash=getattr(task, hash_of)), task.directory)
    assert set(states(plan, tmp_path)) == {'finished'}
    assert {task.state for task in survey(plan, tmp_path, HARMLESS)} == {'finished'}
    assert {task.state for task in survey(plan, tmp_path, {'model.backbone.drop_rate': 0.1})} == {'changed'}
    first = survey(plan, tmp_path)[0]
    assert is_finished(first)
    (first.directory / CONFIG).write_text('broken(')
    known = hash_of == 'hash'
    assert survey(plan, tmp_path, HARMLESS)[0].state == ('finished' if known else 'changed')


def test_changed_run_is_moved_aside_complete_where_tables_do_not_find_it(plan, tmp_path):
    for round in (1, 2):
        task = survey(plan, tmp_path)[0]
        task.directory.mkdir(parents=True, exist_ok=True)
        write_record(record_of(task, config_hash=f'other{round}'), task.directory)
        (task.directory / 'epoch_1.pth').write_bytes(b'precious')
        task = survey(plan, tmp_path)[0]
        moved = prepare(task)
        assert moved == tmp_path / f'replaced/{task.run.name}.{round}'
        assert (moved / 'epoch_1.pth').read_bytes() == b'precious'
        assert read_record(moved / 'replaced-record.json').config_hash == f'other{round}'
        assert [path.name for path in task.directory.iterdir()] == [CONFIG]
    assert find_records([tmp_path]) == []


def test_failure_keeps_the_epochs_reached(plan, tmp_path):
    started, new, *_ = survey(plan, tmp_path)
    for task in (started, new):
        prepare(task)
    write_record(record_of(started, status='running', started='2026-01-01T00:00:00+00:00'), started.directory)
    for task in (started, new):
        mark_failed(task, 'MemoryError')
    record = read_record(started.directory)
    assert (record.status, record.error, len(record.epochs)) == ('failed', 'MemoryError', 1)
    assert record.started == '2026-01-01T00:00:00+00:00' and record.finished
    record = read_record(new.directory)
    assert (record.status, record.epochs, record.config_hash) == ('failed', [], new.hash)
    assert states(plan, tmp_path)[:2] == ['unfinished'] * 2


def test_an_interrupted_run_is_not_a_failed_one(plan, tmp_path):
    task = survey(plan, tmp_path)[0]
    prepare(task)
    write_record(record_of(task, status='interrupted', error='saved iter_15.pth'), task.directory)
    mark_failed(task, 'exit status 143')
    record = read_record(task.directory)
    assert (record.status, record.error) == ('interrupted', 'saved iter_15.pth')
    assert states(plan, tmp_path)[0] == 'unfinished'


def test_a_diverged_run_is_a_result_and_is_not_run_again(plan, tmp_path, capsys):
    task = survey(plan, tmp_path)[0]
    (task.directory).mkdir(parents=True)
    for one in survey(plan, tmp_path):
        write_record(record_of(one), one.directory)
    write_record(record_of(task, status='diverged', error='iteration 7: the loss is nan'), task.directory)
    (task.directory / 'epoch_1.pth').touch()
    assert conclude(task, 2, 'error: iteration 7: the loss is nan', keep_checkpoints=False) == ''
    assert read_record(task.directory).status == 'diverged' and (task.directory / 'epoch_1.pth').exists()
    assert states(plan, tmp_path)[0] == 'diverged'

    def command(directory):
        raise AssertionError(f'{directory} is run again')

    assert run_sweep(plan, tmp_path, command=command) == []
    assert run_one(survey(plan, tmp_path)[0], command=command) == ''
    assert f'1 diverged, without a result: {task.run.name}; to try again' in capsys.readouterr().out
    assert (task.directory / 'epoch_1.pth').exists()


def test_weights_are_deleted_when_the_run_is_finished_and_not_before(plan, tmp_path):
    task = survey(plan, tmp_path)[0]
    prepare(task)
    names = ['best_id_accuracy_epoch_1.pth', 'epoch_1.pth', 'last_checkpoint']
    for name in names:
        (task.directory / name).write_bytes(b'weights')
    (task.directory / 'previous').mkdir()  # of the last but one: only an unfinished run may need it
    (task.directory / 'previous/epoch_0.pth').write_bytes(b'weights')
    write_record(record_of(task, status='running'), task.directory)
    assert conclude(task, 0, '', keep_checkpoints=False) == 'ended without a finished record'
    assert all((task.directory / name).exists() for name in names)
    write_record(record_of(task), task.directory)
    assert (task.directory / 'previous/epoch_0.pth').exists()
    assert conclude(task, 0, '', keep_checkpoints=True) == ''
    assert not (task.directory / 'previous').exists()
    assert all((task.directory / name).exists() for name in names)
    assert conclude(task, 0, '', keep_checkpoints=False) == ''
    assert sorted(path.name for path in task.directory.iterdir()) == [CONFIG, 'record.json']
    delete_weights(task.directory)


def test_option_that_does_not_fit_is_one_line(plan, tmp_path):
    with pytest.raises(UserError, match='--cfg-options: does not fit vit-tiny_sgd_digits'):
        survey(plan, tmp_path, {'val_dataloader.dataset.datasets.7.indices': 1})


def test_dry_run_lists_every_run_with_its_cost_and_writes_nothing(run_tool, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    plan, out = write_plan(tmp_path, seeds=[0, 1]), tmp_path / 'out'
    code, err = run_tool('sweep', plan, '--dry-run', '--out', out, '--tflops', '1e-4')
    assert code == 0 and 'predicting the cost of vit-tiny' in err
    lines = run_tool.stdout.splitlines()
    hours = [float(line.split()[-2]) for line in lines if line.endswith(' h')]
    assert len(hours) == 8 and len(set(hours)) == 2  # by method only
    assert f'8 runs, 8 to do: about {sum(hours):.1f} GPU-hours at 0.0001 TFLOP/s' in lines[-2]
    assert lines[-1].startswith('disk: up to ') and lines[-1].endswith('iB are free')
    assert not out.exists()


@pytest.mark.parametrize('fails', ['FakeModel.trace', 'trace_update'])
def test_a_failed_prediction_stops_no_sweep(plan, tmp_path, monkeypatch, capsys, fails):
    """A model or an optimizer that cannot run on fake tensors."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    called = []

    def fail(*args, **kwargs):
        called.append(args)
        raise NotImplementedError('no kernel')

    monkeypatch.setattr(f'ftsgd_plugin.profiling.predict.{fails}', fail)
    tasks = survey(plan, tmp_path)
    text = describe(tasks, tmp_path)
    assert text.count(' – h\n') == 4 and '4 runs, 4 to do: about 0.0 GPU-hours' in text
    assert text.endswith('not included: 4 runs whose cost cannot be predicted')
    err = capsys.readouterr().err
    assert err.count('cannot be predicted: no kernel\n') == len(called) == 2  # once for a cell
    assert flop_weights(predict_costs(tasks)) == [1.0] * 4


def test_a_run_without_a_prediction_weighs_as_an_average_one():
    costs = [RunCost(1, 1, flops, 1, 1) for flops in (2.0, 4.0)]
    assert flop_weights([*costs, None]) == [2.0, 4.0, 3.0]


def test_predictions_never_open_a_cuda_context(plan, tmp_path, monkeypatch):
    """GPU 0 belongs to the runs, also where CUDA is available to the process of the sweep."""

    def fail():
        raise AssertionError('CUDA is initialised')

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda._lazy_init', fail)
    assert None not in predict_costs(survey(plan, tmp_path))


def test_costs_are_predicted_once(plan, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    file = cache_file()
    tasks = survey(plan, tmp_path)
    first = predict_costs(tasks)
    written = file.read_bytes()
    assert 'predicting the cost of vit-tiny' in capsys.readouterr().err
    monkeypatch.setattr('ftsgd_plugin.profiling.predict.FakeModel', None)  # nothing is traced from here
    assert predict_costs(tasks) == first and file.read_bytes() == written
    assert predict_costs(survey(replace(plan, lrs={'sgd': [0.5]}, seeds=[7]), tmp_path)) == [first[0]]
    assert predict_costs(survey(replace(plan, epochs=2), tmp_path)) == [None] * 4
    monkeypatch.setattr('ftsgd_plugin.sweep.cost_cache._software', lambda: 'another version')
    assert predict_costs(tasks) == [None] * 4


@pytest.mark.parametrize('content', ['', '{', '[]', '{"software": "x"}', '{"software": "x", "costs": {"a": [1, "b"]}}'])
def test_damaged_cache_is_an_empty_one(plan, tmp_path, monkeypatch, content):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr('ftsgd_plugin.sweep.cost_cache._software', lambda: 'x')
    cfg, cost = survey(plan, tmp_path)[0].config, RunCost(1, 2, 3.0, 4, 5)
    cache_file().parent.mkdir()
    cache_file().write_text(content)
    cache = CostCache()
    assert cache[cfg] is None
    cache[cfg] = cost
    cache.save()
    assert CostCache()[cfg] == cost


def test_cache_that_cannot_be_written_is_left_out(plan, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    cache = CostCache()
    cache[survey(plan, tmp_path)[0].config] = RunCost(1, 2, 3.0, 4, 5)
    cache.save()


def test_finished_runs_of_other_code_are_a_warning(plan, tmp_path, capsys):
    for task in survey(plan, tmp_path):
        task.directory.mkdir(parents=True)
        write_record(record_of(task, code={'version': '0.0.1', 'commit': None}), task.directory)
    assert run_sweep(plan, tmp_path) == []
    out = capsys.readouterr().out
    assert (
        'warning: 4 runs were begun or finished by another version of the code, e.g. vit-tiny_sgd_digits_lr1e-3_seed0'
        in out
    )
    assert 'all 4 runs are finished' in out
