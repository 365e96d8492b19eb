"""Records on disk: validated completely when read, written atomically, with a hash of every setting that matters."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.authors import record
from mmengine.config import Config

from ftsgd_plugin import config_path, records
from ftsgd_plugin.records import FILE, RunRecord, find_records, read_record, run_names, write_record
from ftsgd_plugin.utils.errors import UserError

OLD = ROOT / 'tests/assets/version_0_1_0'


def complete() -> dict:
    """A valid record with every field set, as JSON data."""
    values = dict(
        selected_epoch=0,
        environment={'torch': '2.11.0', 'processes': 1},
        resources={'seconds': 1.5, 'peak_bytes': 10},
        command='python',
        started='2026-01-01',
        finished='2026-01-02',
    )
    return asdict(record(**values))


def test_a_record_survives_writing_and_reading(tmp_path):
    original = RunRecord(**complete())
    assert write_record(original, tmp_path) == tmp_path / FILE
    assert read_record(tmp_path) == read_record(tmp_path / FILE) == original


@pytest.mark.parametrize('key', complete())
@pytest.mark.parametrize('value', [True, [1], {'a': [1]}, float('nan')])
def test_a_value_of_the_wrong_type_is_one_line_with_file_and_key(tmp_path, key, value):
    if key == 'smoke' and value is True:
        value = 1
    (tmp_path / FILE).write_text(json.dumps({**complete(), key: value}))
    with pytest.raises(UserError) as error:
        read_record(tmp_path)
    line = str(error.value)
    assert line.startswith(f'{tmp_path / FILE}: {key}') and line.endswith('.') and '\n' not in line


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'resources': 'much'}, "resources='much' is not a dictionary"),
        ({'resources': {'seconds': 'long'}}, "resources['seconds']='long' is not a finite number"),
        ({'resources': None}, 'resources=None is not a dictionary'),
        ({'epochs': [0.5]}, 'epochs[0]=0.5 is not a dictionary'),
        ({'epochs': [{}, {'id/accuracy': 'high'}]}, "epochs[1]['id/accuracy']='high' is not a finite number"),
        ({'epochs': [{'id/accuracy': 10**400}]}, "epochs[0]['id/accuracy']=1000"),
        ({'lr': 0}, 'lr=0 is not a positive number'),
        ({'lr': '1e-3'}, "lr='1e-3' is not a finite number"),
        ({'seed': 1.0}, 'seed=1.0 is not of type int'),
        ({'model': 'a' * 99, 'method': None}, 'method=None is not of type str'),
        ({'status': 'diverging'}, "status='diverging' is not one of running, finished, failed"),
        ({'selected_epoch': 1}, 'selected_epoch=1 is not one of the 1 epochs'),
        ({'selected_epoch': -1}, 'selected_epoch=-1 is not one of the 1 epochs'),
        ({'code': {'version': 1}}, "code['version']=1 is not of type str"),
    ],
)
def test_messages_name_the_value(tmp_path, changes, message):
    (tmp_path / FILE).write_text(json.dumps({**complete(), **changes}))
    with pytest.raises(UserError) as error:
        read_record(tmp_path)
    assert str(error.value).startswith(f'{tmp_path / FILE}: {message}')


@pytest.mark.parametrize('key', ['model', 'method', 'dataset', 'lr', 'seed', 'config_hash', 'status', 'epochs'])
def test_a_missing_key_is_named(tmp_path, key):
    (tmp_path / FILE).write_text(json.dumps({name: value for name, value in complete().items() if name != key}))
    with pytest.raises(UserError, match=f'record.json: {key} is missing; run it again or remove it'):
        read_record(tmp_path)


@pytest.mark.parametrize(
    'text, message',
    [
        ('{"model": "vit-t', 'truncated or not a record'),
        ('[' * 100_000, 'truncated or not a record'),
        (b'\xff\xfe', 'truncated or not a record'),
        ('[1]', 'schema None instead of 1'),
        ('{"schema": 99}', 'schema 99 instead of 1'),
    ],
)
def test_a_file_that_is_not_a_record_is_one_line(tmp_path, text, message):
    (tmp_path / FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f'record.json: {message}'):
        read_record(tmp_path)
    with pytest.raises(UserError, match='no such record; name a directory of runs'):
        read_record(tmp_path / 'absent')


def test_a_record_without_permission_is_one_line(tmp_path, monkeypatch):
    write_record(record(), tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'read_text', refuse)
    with pytest.raises(UserError, match=r'record.json: cannot be read \(Permission denied\)'):
        read_record(tmp_path)


def test_unknown_keys_are_ignored_and_optional_ones_may_be_missing(tmp_path):
    required = {key: complete()[key] for key in ('model', 'method', 'dataset', 'lr', 'seed', 'config_hash', 'status')}
    content = {**required, 'epochs': [], 'schema': 1, 'of a later version': [None]}
    (tmp_path / FILE).write_text(json.dumps(content))
    read = read_record(tmp_path)
    assert read == RunRecord(**required, epochs=[]) and read.selected is None and read.resources == {}


def test_records_of_version_0_1_0_are_read():
    paths = find_records([OLD])
    assert len(paths) > 4 and {read_record(path).code['version'] for path in paths} == {'0.1.0'}
    assert read_record(OLD).selected['id/accuracy'] == max(
        metrics['id/accuracy'] for metrics in read_record(OLD).epochs
    )


def test_full_disk_is_one_line_and_the_earlier_record_stays(tmp_path, monkeypatch):
    unfinished = RunRecord('m', 'sgd', 'd', 0.1, 0, 'f' * 64, 'running', [])
    write_record(unfinished, tmp_path)

    def fail(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.replace', fail)
    with pytest.raises(UserError, match=r'record\.json: cannot be written \(No space left on device\); make room'):
        write_record(replace(unfinished, status='finished'), tmp_path)
    assert read_record(tmp_path).status == 'running' and [path.name for path in tmp_path.iterdir()] == [FILE]


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


@pytest.fixture
def fresh_version():
    """``code_version`` without its cache, before and after the test."""
    records.code_version.cache_clear()
    yield records.code_version
    records.code_version.cache_clear()


def test_code_version_of_a_checkout(fresh_version):
    assert len(fresh_version()['commit'].rstrip('+')) == 40


def test_code_version_outside_a_checkout(fresh_version, monkeypatch, tmp_path):
    monkeypatch.setattr(records, '__file__', str(tmp_path / 'site/ftsgd_plugin/records.py'))
    assert fresh_version()['commit'] is None


def test_code_version_without_git(fresh_version, monkeypatch):
    def absent(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, 'run', absent)
    assert fresh_version()['commit'] is None


def test_reading_and_selecting_import_neither_torch_nor_mmengine():
    """The modules are loaded under a bare package, so that only their own imports count."""
    code = f"""
import sys, types
package = types.ModuleType('ftsgd_plugin')
package.__path__ = [{str(ROOT / 'ftsgd_plugin')!r}]
sys.modules['ftsgd_plugin'] = package
from ftsgd_plugin.evaluation import select_epoch
from ftsgd_plugin.records import read_record
assert select_epoch(read_record({str(OLD)!r}).epochs) == read_record({str(OLD)!r}).selected_epoch
assert read_record({str(OLD)!r}).status == 'finished'
print(sorted({{'torch', 'mmengine', 'mmpretrain'}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ('[]', '')
