"""Plans: their runs, the mistakes they are refused for, one plan per directory."""

import json
from collections import Counter

import pytest
from helpers import ROOT
from helpers.tiny_sweep import write_plan

from ftsgd_plugin.sweep.plan import Run, claim_directory, read_plan
from ftsgd_plugin.utils.errors import UserError

PAPER = ROOT / 'configs/sweeps/paper.py'


def test_paper_is_7_models_5_datasets_4_methods_6_rates_and_3_seeds_of_clip():
    runs = read_plan(str(PAPER)).runs()
    assert len(runs) == len(set(runs)) == len({run.name for run in runs}) == 7 * 5 * 4 * 6 + 2 * 5 * 4 * 6
    assert Counter(run.seed for run in runs) == {0: 840, 1: 120, 2: 120}
    assert {run.model for run in runs if run.seed} == {'clip-vit-b16'}
    assert all(run.seed == 0 for run in runs[:840])
    assert {run.method for run in runs} == {'sgd', 'adamw', 'freeze-embed', 'adamw-freeze-embed'}


def test_grids_are_those_of_the_method_parts():
    """The docstring of every method part contains the paper's grid."""
    for name in ('paper', 'clip'):
        for method, grid in read_plan(str(ROOT / f'configs/sweeps/{name}.py')).lrs.items():
            text = ' '.join((ROOT / f'configs/_base_/methods/{method}.py').read_text().split())
            assert ', '.join(f'{lr:.0e}'.replace('e-0', 'e-') for lr in grid) in text, method


def test_clip_is_six_methods_three_seeds():
    runs = read_plan(str(ROOT / 'configs/sweeps/clip.py')).runs()
    assert len(runs) == 6 * 5 * 6 * 3 and {run.model for run in runs} == {'clip-vit-b16'}


def test_name_of_a_run_holds_its_settings():
    run = Run('clip-vit-b16', 'freeze-embed', 'fmow', 0.0003, 0)
    assert run.name == 'clip-vit-b16_freeze-embed_fmow_lr3e-4_seed0'
    assert Run('a', 'b', 'c', 2.5e-5, 1).name == 'a_b_c_lr2.5e-5_seed1'
    assert Run('a', 'b', 'c', 1.0, 1).name == 'a_b_c_lr1e+0_seed1'


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        (dict(models=['vit-tyni']), "models: 'vit-tyni' is unknown; did you mean 'vit-tiny'?"),
        (dict(datasets=['digit']), "datasets: 'digit' is unknown; did you mean 'digits'?"),
        (dict(lrs={'sgdd': [1.0]}), "lrs: 'sgdd' is unknown; did you mean 'sgd'?"),
        (dict(datasets=['fmow']), 'vit-tiny_sgd_fmow.py: no such config in'),
        (dict(lrs={'sgd': [0.1, 1e-1]}), "lrs['sgd']: 0.1 is listed twice; remove one."),
        (dict(lrs={'sgd': [0.1, 0]}), "lrs['sgd']: 0 is not a positive number; correct it."),
        (dict(lrs={'sgd': [-0.1]}), "lrs['sgd']: -0.1 is not a positive number; correct it."),
        (dict(lrs={'sgd': [1e999]}), 'is not a positive number; correct it.'),
        (dict(lrs={'sgd': ['0.1']}), "lrs['sgd']: '0.1' is not a positive number; correct it."),
        (dict(lrs={'sgd': []}), "lrs['sgd']: [] is not a list with values; correct it."),
        (dict(lrs=[0.1]), 'lrs must be a dict, not [0.1]; see configs/sweeps/paper.py.'),
        (dict(seeds=[0, 0]), 'seeds: 0 is listed twice; remove one.'),
        (dict(seeds=[-1]), 'seeds: -1 is not a whole number from 0 up; correct it.'),
        (dict(seeds=None), 'seeds is missing or empty; see configs/sweeps/paper.py.'),
        (dict(model_seeds={'vit-b16': [0]}), "model_seeds: 'vit-b16' is unknown; known: vit-tiny."),
        (dict(epochs=0), 'epochs: 0 is not a positive whole number; correct it or leave it out.'),
        (
            dict(budget=1),
            "'budget' is not a key of a plan; its keys are data_roots, dataset_options, datasets, epochs,",
        ),
    ],
)
def test_bad_plan_is_one_line(tmp_path, keys, message):
    if keys.get('lrs') == {'sgd': [float('inf')]}:
        path = write_plan(tmp_path, lrs=None)
        path.write_text(path.read_text() + "lrs = {'sgd': [1e999]}\n")
    else:
        path = write_plan(tmp_path, **keys)
        if 'datasets' in keys:
            path.write_text(path.read_text().replace("'digits': ", f'{keys["datasets"][0]!r}: '))
    with pytest.raises(UserError) as caught:
        read_plan(str(path))
    assert message in str(caught.value) and '\n' not in str(caught.value)


def test_bad_plan_of_the_program_and_missing_file(run_tool, tmp_path):
    path = write_plan(tmp_path, lrs={'sgd': [0.1, 0.1]})
    assert run_tool('sweep', path, '--dry-run') == (2, f"error: {path}: lrs['sgd']: 0.1 is listed twice; remove one.\n")
    code, err = run_tool('sweep', tmp_path / 'none.py', '--dry-run')
    assert code == 2 and err.startswith(f'error: {tmp_path}/none.py: no such config')


def test_one_plan_per_directory(tmp_path):
    plan = read_plan(str(write_plan(tmp_path)))
    claim_directory(plan, tmp_path / 'out')
    before = (tmp_path / 'out/plan.json').read_bytes()
    claim_directory(plan, tmp_path / 'out')
    other = read_plan(str(write_plan(tmp_path, seeds=[0, 1], epochs=2)))
    message = (
        r'plan\.json: belongs to another plan \(seeds, epochs differ\); choose another directory, or remove that file'
    )
    with pytest.raises(UserError, match=message):
        claim_directory(other, tmp_path / 'out')
    assert (tmp_path / 'out/plan.json').read_bytes() == before
    assert json.loads(before)['lrs'] == {'sgd': [1e-3, 1e-2], 'freeze-embed': [1e-3, 1e-2]}


@pytest.mark.parametrize('option', ['--workers', '--cpus-per-run', '--gpus-per-run', '--tflops'])
def test_bad_count_is_a_usage_error(run_tool, tmp_path, option):
    code, err = run_tool('sweep', write_plan(tmp_path), option, '-1', '--dry-run')
    assert code == 2 and err.startswith('usage: sweep.py') and f"argument {option}: '-1' is not" in err
