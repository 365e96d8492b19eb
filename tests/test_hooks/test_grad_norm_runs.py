"""LayerGradNormHook in two processes, in a run of the demo and in its resumption."""

import csv
import json
from pathlib import Path

import pytest
from helpers.chain import Chain
from helpers.grad_norms import assert_close, measured, train_chain, train_chain_on_two_ranks
from helpers.ranks import run_two_ranks
from mmengine.runner import Runner

from ftsgd_plugin.hooks.grad_norm import NORM_COLUMNS
from ftsgd_plugin.layers import list_layers


@pytest.mark.multiprocess
def test_two_processes_equal_one(tmp_path):
    run_two_ranks(train_chain_on_two_ranks, tmp_path)
    for accumulate in (1, 2):
        out = tmp_path / f'one{accumulate}'
        out.mkdir()
        alone = train_chain(Chain(), out, 0, 1, accumulate).rows()
        with open(tmp_path / f'two{accumulate}/layer_grad_norms.csv', newline='') as file:
            together = list(csv.DictReader(file))
        assert [(row['iter'], row['layer'], row['updates']) for row in together] == [
            (row['iter'], row['layer'], row['updates']) for row in alone
        ]
        frozen = ['blocks.0', 'blocks.1', 'head']
        assert [row['layer'] for row in alone] == [*frozen, 'stem', *frozen]
        for row, expected in zip(together, alone):
            assert_close(measured([row]), measured([expected]), 1e-5)


def test_an_ordinary_run_and_its_resumption(digits_config):
    hooks = [dict(type='LayerGradNormHook', interval=4)]
    options = {'train_cfg.max_epochs': 2, 'custom_hooks': hooks, 'default_hooks.logger.interval': 4}
    runner = Runner.from_cfg(digits_config(subset=160, **options))
    runner.train()
    with open(f'{runner.log_dir}/layer_grad_norms.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == NORM_COLUMNS
    layers = [layer.name for layer in list_layers(runner.model) if layer.role != 'embed']
    assert [row['layer'] for row in rows] == layers * 3  # after 4, 8 and 10 iterations
    assert [row['iter'] for row in rows[:: len(layers)]] == ['4', '8', '10']
    with open(f'{runner.log_dir}/vis_data/scalars.json') as file:
        lines = [json.loads(line) for line in file]
    ours = [line for line in lines if 'norm/head' in line]
    assert [line['step'] for line in ours] == [4, 8, 10]
    assert ours[0]['norm_per_sqrt_n/blocks.0.attn'] == pytest.approx(
        next(float(row['norm_per_sqrt_n']) for row in rows if row['layer'] == 'blocks.0.attn'), rel=1e-6
    )
    (text,) = Path(runner.log_dir).glob('*.log')
    log = next(line for line in text.read_text().splitlines() if 'Epoch(train)' in line)
    assert 'grad/middle: ' in log and 'grad/head: ' in log and 'grad/embed' not in log
    assert len(log) < 260

    cfg = digits_config(subset=160, **{**options, 'train_cfg.max_epochs': 3}, resume=True)
    again = Runner.from_cfg(cfg)
    again.train()
    assert again.log_dir != runner.log_dir
    with open(f'{again.log_dir}/layer_grad_norms.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(row['iter'], row['updates']) for row in rows[:: len(layers)]] == [('12', '2'), ('15', '3')]
