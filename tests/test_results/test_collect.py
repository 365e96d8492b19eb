"""Bad records are left out, counted and named in one line; nothing stops the others."""

import json
import math
from dataclasses import asdict

import pytest
from helpers.authors import record

from ftsgd_plugin.records import write_record
from ftsgd_plugin.results.collect import collect
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.version import __version__


def write(directory, name: str, one) -> None:
    write_record(one, directory / name)


def damage(directory, name: str, text=None, **changes) -> None:
    (directory / name).mkdir(parents=True)
    content = text or json.dumps({**asdict(record(seed=7)), **changes})
    (directory / name / 'record.json').write_text(content)


def test_bad_records_are_left_out_counted_and_listed(tmp_path):
    write(tmp_path, 'good', record())
    write(tmp_path, 'failed', record(status='failed', error='RuntimeError:\n out of memory', seed=1))
    write(tmp_path, 'running', record(status='running', epochs=[], seed=2))
    damage(tmp_path, 'half', text='{"model": "vit-t')
    damage(tmp_path, 'schema', schema=99)
    damage(tmp_path, 'nan', epochs=[{'id/accuracy': math.nan, 'ood/accuracy': 0.5}])
    write(tmp_path, 'diverged', record(status='diverged', error='iteration 5: the loss is nan', seed=3))
    damage(tmp_path, 'text', epochs=[{'id/accuracy': 'high', 'ood/accuracy': 0.5}])
    damage(tmp_path, 'list', epochs=[0.5])
    damage(tmp_path, 'empty', epochs=[])
    damage(tmp_path, 'no-ood', epochs=[{'id/accuracy': 0.5}])
    damage(tmp_path, 'lr', lr=-1.0)
    damage(tmp_path, 'method', method=None)
    found = collect([tmp_path])
    assert [path.parent.name for path, _ in found.runs] == ['good']
    assert len(found.unfinished) == 2 and len(found.diverged) == 2 and len(found.unreadable) == 8
    notes = found.problems()
    assert len(notes) == 12 and all('\n' not in note for note in notes)
    assert found.notes()[0] == '1 finished runs used; left out: 2 diverged, 1 failed, 1 unfinished, 8 unreadable.'
    assert any('RuntimeError: out of memory' in note for note in notes)
    assert f"diverged: {tmp_path / 'nan'}: epochs[0]['id/accuracy']=nan is not a finite number" in notes
    assert f'diverged: {tmp_path / "diverged"}: iteration 5: the loss is nan' in notes
    assert found.warnings == ['2 runs diverged; no number is of these learning rates: vit-tiny sgd digits lr=0.001.']
    for name in ('half', 'schema', 'text', 'list', 'empty', 'no-ood', 'lr', 'method'):
        (line,) = [note for note in notes if note.startswith(f'unreadable: {tmp_path / name}')]
        assert '\n' not in line and line.endswith('.'), line


def test_a_method_followed_by_interpolation_has_the_numbers_of_the_interpolated_weights(tmp_path):
    """Its own training is that of another method: without the second step there is no number of this one."""
    write(tmp_path, 'run', record(method='freeze-embed-wise-ft'))
    found = collect([tmp_path])
    assert not found.runs and 'run: python tools/wise_ft.py' in found.unreadable[tmp_path / 'run/record.json']
    selected = {'alpha': 0.6, 'id/accuracy': 0.7, 'ood/accuracy': 0.65, 'ood/worst_group': 0.5}
    (tmp_path / 'run/wise_ft').mkdir()
    file = tmp_path / 'run/wise_ft/wise_ft.json'
    file.write_text(json.dumps({'selected': selected, 'selected_by': 'id/accuracy'}))
    ((_, one),) = collect([tmp_path]).runs
    assert one.selected == selected and one.selected_epoch == 0
    file.write_text('{}')
    assert 'not a result of tools/wise_ft.py (KeyError)' in next(iter(collect([tmp_path]).unreadable.values()))


def test_overlapping_directorys_count_once(tmp_path):
    write(tmp_path, 'a/b', record())
    assert len(collect([tmp_path, tmp_path / 'a', tmp_path / 'a/b/record.json']).runs) == 1


def test_a_repeated_run_does_not_count_as_another_seed(tmp_path):
    write(tmp_path, 'old', record(ids=(0.5,), finished='2026-01-01'))
    write(tmp_path, 'new', record(ids=(0.9,), finished='2026-02-01'))
    found = collect([tmp_path])
    assert [path.parent.name for path, _ in found.runs] == ['new']
    assert '1 runs repeat the settings of others' in found.warnings[0]


def test_of_a_diverged_and_a_later_finished_run_the_later_counts(tmp_path):
    write(tmp_path, 'old', record(status='diverged', finished='2026-01-01'))
    write(tmp_path, 'new', record(finished='2026-02-01'))
    found = collect([tmp_path])
    assert (len(found.runs), len(found.diverged)) == (1, 0)
    write(tmp_path, 'newest', record(status='diverged', finished='2026-03-01'))
    found = collect([tmp_path])
    assert (len(found.runs), len(found.diverged)) == (0, 1)


def test_other_code_versions_give_warnings(tmp_path):
    write(tmp_path, 'a', record(code={'version': '0.0.1', 'commit': 'abc'}))
    write(tmp_path, 'b', record(seed=1, code={'version': '0.0.1', 'commit': 'def+'}))
    assert collect([tmp_path]).warnings == [
        '2 runs are of version 0.0.1 of the package, this is ' + __version__ + '.',
        'the runs are of 2 commits: abc, def+.',
        'runs of a changed checkout (commit with "+"): 1.',
    ]


def test_one_version_gives_no_warning(tmp_path):
    write(tmp_path, 'a', record())
    assert collect([tmp_path]).warnings == []


@pytest.mark.parametrize('name, said', [('', 'no record.json below'), ('absent', 'no such directory')])
def test_without_records_there_is_an_error(tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        collect([tmp_path / name])
