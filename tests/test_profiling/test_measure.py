"""tools/resources.py: one table, one file, one figure for every method of a model."""

import json

import pytest
from helpers import ROOT
from mmengine.logging import MMLogger
from PIL import Image

DEMO = ROOT / 'configs/vit-tiny_freeze-embed_digits.py'


@pytest.fixture(autouse=True)
def restored_logger():
    """The program changes the level of MMEngine's logger, which outlives it in this process."""
    yield
    MMLogger.get_instance('after-resources', log_level='INFO')


def test_table_has_predicted_and_measured_cost(run_tool, tmp_path):
    methods = ('adamw', 'freeze-embed', 'sgd-in-backward')
    options = ('--batch-size', 4, '--steps', 2, '--rounds', 1, '--device', 'cpu', '--out', tmp_path / 'out')
    code, err = run_tool('resources', DEMO, '--methods', *methods, *options)
    assert code == 0, err
    record = json.loads((tmp_path / 'out/resources.json').read_text())
    assert {'date', 'device', 'command', 'torch'} <= record.keys()
    (result,) = record['results']
    assert (result['batch_size'], result['autocast']) == (4, None)
    for planned, measured in zip(result['planned'], result['measured'], strict=True):
        assert planned['name'] == measured['name']
        assert planned['peak'] == pytest.approx(measured['peak'], rel=0.05)
        assert len(measured['phases'][0]['step_seconds']) == 2 and measured['seconds_per_step'] > 0
    rows = [line for line in run_tool.stdout.splitlines() if line.startswith('| ')]
    first, phases = rows[: 2 + len(methods)], rows[2 + len(methods) :]
    assert [row.split(' | ')[0] for row in first] == ['| method', '| ---', *(f'| {name}' for name in methods)]
    assert [row.split(' | ')[0] for row in phases] == [row.split(' | ')[0] for row in first]  # one phase each
    assert Image.open(tmp_path / 'out/resources.png').size[0] > 1000
    assert not list((tmp_path / 'out').glob('.*'))


@pytest.mark.slow
def test_table_has_the_papers_ratios_for_vit_b16_and_l14(run_tool):
    methods = ('adamw', 'freeze-embed', 'freeze-embed-no-momentum')
    models = ('clip-vit-b16', 'clip-vit-l14')
    code, err = run_tool('resources', '--models', *models, '--batch-size', 8, '--methods', *methods, '--plan-only')
    assert code == 0, err
    cells = [
        [cell.strip() for cell in line.split('|')] for line in run_tool.stdout.splitlines() if line.startswith('| fr')
    ]
    assert [line[7] for line in cells] == ['1.16', '1.36', '1.18', '1.49']
    assert all(float(line[5]) > 1 for line in cells)


def test_bfloat16_and_several_batches(run_tool):
    code, err = run_tool(
        'resources', DEMO, '--batch-size', 1, 8, '--autocast', 'bfloat16', '--methods', 'sgd', '--plan-only'
    )
    assert code == 0, err
    assert [line for line in run_tool.stdout.splitlines() if line.startswith('## ')] == [
        f'## {DEMO.stem}, batch {batch_size}, bfloat16' for batch_size in (1, 8)
    ]


@pytest.mark.parametrize(
    'argv, words',
    [
        ([], 'nothing to measure'),
        (['--models', 'clip-vit-b61'], 'no such config'),
        ([DEMO, '--methods', 'sdg', '--plan-only'], 'no such config'),
        ([DEMO, '--steps', '0'], 'are positive'),
    ],
)
def test_mistakes_are_one_line(run_tool, argv, words):
    code, err = run_tool('resources', *argv)
    assert code == 2 and words in err.strip().splitlines()[-1]
