"""The work directory: what is done is known after a kill, other options and other directories are refused."""

import json
import os

import pytest

from ftsgd_plugin.finetune.options import Options
from ftsgd_plugin.finetune.state import FILE, State
from ftsgd_plugin.utils.errors import UserError


def options(**changes) -> dict:
    return Options(**{'data': 'pets', 'model': 'vit-tiny', **changes}).as_data()


def test_results_of_steps_survive(tmp_path):
    state = State.open(tmp_path / 'a', options(hold_out=('sketch',)))
    assert not (tmp_path / 'a').exists()  # nothing is written before there is a result
    assert state.put('plan', {'rates': (1e-3, 3e-3), 'epochs': 4}) == {'rates': [1e-3, 3e-3], 'epochs': 4}
    again = State.open(tmp_path / 'a', options(hold_out=('sketch',)))
    assert again.get('plan') == {'rates': [1e-3, 3e-3], 'epochs': 4} and again.get('search') is None


@pytest.mark.parametrize(
    'before, after, said',
    [
        ({}, {'epochs': 3}, '--epochs not given instead of 3'),
        ({'lr': 0.01, 'seed': 1}, {'lr': 0.1, 'seed': 2}, '--lr 0.01 instead of 0.1, --seed 1 instead of 2'),
        ({'hold_out': ('a', 'b')}, {}, '--hold-out a b instead of not given'),
        ({'batch_size': 8}, {}, '--batch-size 8 instead of 32'),
    ],
)
def test_other_options_are_named_once_something_was_trained(tmp_path, before, after, said):
    state = State.open(tmp_path / 'a', options(**before))
    state.put('config', {'written': []})
    state.put('plan', {})
    again = State.open(tmp_path / 'a', options(**after))  # as after a dry run: begins again
    assert again.get('plan') is None and again.get('config') == {'written': []}
    (tmp_path / 'a/search').mkdir()
    with pytest.raises(UserError, match='give the same options to continue') as error:
        State.open(tmp_path / 'a', options(**after))
    assert f'was begun with {said}; ' in str(error.value)


def test_the_same_data_from_another_directory_is_the_same_command(tmp_path, monkeypatch):
    State.open(tmp_path / 'a', options(data=str(tmp_path / 'pets'))).write()
    monkeypatch.chdir(tmp_path)
    assert State.open('a', options(data='pets')).options['data'] == str(tmp_path / 'pets')


@pytest.mark.parametrize('found', ['record.json', 'sweep.lock', 'notes'])
def test_a_directory_of_something_else_is_refused(tmp_path, found):
    (tmp_path / found).touch()
    with pytest.raises(UserError, match=f'holds {found} and no finetune.json: it is not of this command'):
        State.open(tmp_path, options())


@pytest.mark.parametrize('content', ['', '{"options": {}}', '[1]', json.dumps(dict(schema=9, options={}, steps={}))])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match='choose another --work-dir'):
        State.open(tmp_path, options())


def test_a_file_as_work_directory_is_refused(tmp_path):
    (tmp_path / 'a').touch()
    with pytest.raises(UserError, match='is a file'):
        State.open(tmp_path / 'a', options())


def test_another_process_in_the_directory_is_refused(tmp_path):
    first, second = (State.open(tmp_path / 'a', options()) for _ in range(2))
    with first.locked():
        pid = os.fork()
        if pid == 0:
            try:
                with second.locked():
                    os._exit(1)
            except UserError as error:
                os._exit(0 if 'another process fine-tunes there' in str(error) else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with second.locked():
        pass


@pytest.mark.parametrize(
    'changes, said',
    [
        ({'method': 'freeze-embde'}, "--method freeze-embde: no such method; did you mean 'freeze-embed'"),
        ({'metric': 'ood/accuracy'}, '--metric ood/accuracy: selection sees in-distribution data only'),
        ({'metric': 'id/balanced_acuracy'}, "did you mean 'id/balanced_accuracy'"),
        ({'lr': -1.0}, '--lr -1.0: is not a positive number'),
        ({'lr': float('nan')}, '--lr nan: is not a positive number'),
        ({'pretrained': 'no.pth'}, '--pretrained no.pth: no such file'),
    ],
)
def test_options_that_cannot_be_meant(changes, said):
    with pytest.raises(UserError) as error:
        options(**changes)
    assert said in str(error.value)


def test_a_command_that_is_refused_leaves_no_directory(tmp_path):
    state = State.open(tmp_path / 'a', options())
    with pytest.raises(UserError), state.locked():
        raise UserError('no such model')
    assert not (tmp_path / 'a').exists()
    with state.locked():
        state.put('plan', {})
    assert (tmp_path / 'a' / FILE).is_file()
