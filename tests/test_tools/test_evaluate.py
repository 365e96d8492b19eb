"""tools/test.py gives the metrics that training logged."""

import json

import pytest
from helpers.demo_run import CONFIG, scalars


def test_evaluating_the_checkpoint_gives_the_metrics_of_training(trained, inside, run_tool):
    work_dir = trained
    code, err = run_tool(
        'test', CONFIG, work_dir / 'epoch_1.pth', '--work-dir', 'eval', '--out', 'm.json', '--out-item', 'metrics'
    )
    assert code == 0, err
    found = json.loads((inside / 'm.json').read_text())
    logged = next(line for line in scalars(work_dir) if 'id/accuracy' in line)
    keys = [key for key in logged if '/' in key]
    assert len(keys) == 9
    assert {key: found[key] for key in keys} == pytest.approx({key: logged[key] for key in keys})
