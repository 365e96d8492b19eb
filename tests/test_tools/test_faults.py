"""benchmarks/faults.py: that its faults are faults, that it counts, and a first fault of each quick section."""

import importlib
import io
import pickle
import subprocess
import sys

import pytest
import torch
from helpers import ROOT


@pytest.fixture(scope='module')
def faults():
    """The program, and with it the package ``fault_cases``."""
    sys.path.insert(0, str(ROOT / 'benchmarks'))
    try:
        yield importlib.import_module('faults')
    finally:
        sys.path.remove(str(ROOT / 'benchmarks'))


def test_there_are_as_many_faults_as_promised(faults, tmp_path):
    from fault_cases import files, inputs, runs
    from fault_cases.place import table_of

    tables = table_of(inputs.DATA_SETS)
    found = {
        'kills': len(runs.KILLED_AFTER) + len(runs.KILLED_WRITING),
        'signals': len(runs.SIGNALS),
        'deaths': len(runs.WORKERS) + len(runs.RANKS),
        'checkpoints': len({changed for _, changed in files.damages(torch.randn(50_000).numpy().tobytes())}),
        'malicious': 4 * len(files.gadgets(tmp_path / 'executed')),
        'configs': len(table_of(inputs.CONFIGS).TABLE),
        'tool_inputs': len(list(inputs.tool_cases(tmp_path / 'wrong', tmp_path / 'config.py', tmp_path))),
        'data_sets': len(tables.FAULTS) + len(tables.FLAT_FAULTS),
    }
    assert len(runs.KILLED_WRITING) == 8
    assert all(count >= faults.SECTIONS[name].least for name, count in found.items()), found


def test_every_gadget_would_run_code_if_it_were_unpickled(faults, tmp_path):
    from fault_cases.files import gadgets

    for name in gadgets(tmp_path / 'executed'):
        mark = tmp_path / name.replace('.', '_') / 'executed'
        mark.parent.mkdir()
        pickle.load(io.BytesIO(pickle.dumps(gadgets(mark)[name])))
        assert mark.exists(), name


@pytest.mark.parametrize(
    'code, stderr, wrong',
    [
        (2, 'a warning\nerror: a.py: no such config; correct it.\n', ''),
        (2, 'usage: train.py [-h] config\ntrain.py: error: the following arguments are required: config\n', ''),
        (1, 'error: a.py\n', 'exit code 1 instead of 2'),
        (2, 'error: a.py\nerror: b.py\n', '2 lines'),
        (2, '', '0 lines'),
        (2, 'Traceback (most recent call last):\nerror: a.py\n', 'traceback'),
    ],
)
def test_only_one_line_and_its_code_count_as_right(faults, code, stderr, wrong):
    from fault_cases.place import said

    found = said(subprocess.CompletedProcess([], code, '', stderr), also='' if wrong else 'config')
    assert found.startswith(wrong) and bool(found) == bool(wrong)


def test_states_are_compared_to_the_last_bit(faults):
    from fault_cases.place import difference

    one = {'weights': {'a': torch.ones(3)}, 'lr': [{'step': 3}]}
    assert difference(one, {'weights': {'a': torch.ones(3)}, 'lr': [{'step': 3}]}) == ''
    other = {'weights': {'a': torch.tensor([1, 1, 1 + 2**-23])}, 'lr': [{'step': 3}]}
    assert difference(one, other) == '/weights/a differs'
    assert difference(one, {**one, 'lr': [{'step': 4}]}) == '/lr/0/step differs'


def test_sections_try_faults_in_child_processes_and_count_them(faults, tmp_path, run_forked):
    """The first fault of two sections; the others train whole runs."""
    lines = []
    outcomes = faults.try_sections(['configs', 'data_sets'], tmp_path, 1, lines.append)
    assert len(lines) == 2 and all(outcome.right for tried in outcomes.values() for outcome in tried), lines
    assert faults.table(outcomes).splitlines()[2:] == [
        '| malformed configs | 1 | 1 |',
        '| malformed data sets | 1 | 1 |',
    ]
