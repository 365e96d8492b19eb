"""tools/print_layers.py --schedule: what it prints, draws and writes; what it writes trains as the default does."""

import pytest
import torch
import yaml
from helpers import ROOT

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim.schedule import lr_factor, open_blocks
from ftsgd_plugin.profiling.phases import Method, list_phases, method_of
from ftsgd_plugin.profiling.schedule_table import format_schedule
from ftsgd_plugin.profiling.schedule_trace import trace_schedule
from ftsgd_plugin.runner.build import build_runner, merge_cfg_options, read_config

GRADUAL = ROOT / 'configs/vit-tiny_gradual-unfreezing_digits.py'


def child(tmp_path, text: str = '', epochs: int = 3):
    (tmp_path / 'child.py').write_text(f'_base_ = {str(GRADUAL)!r}\ntrain_cfg = dict(max_epochs={epochs})\n{text}')
    return tmp_path / 'child.py'


def test_the_printed_schedule_is_the_papers_and_what_it_writes_trains_the_same(run_tool, tmp_path, digits_config):
    code, err = run_tool('print_layers', child(tmp_path), '--schedule', '--write', tmp_path / 'schedule.yaml')
    assert code == 0, err
    lines = run_tool.stdout.splitlines()
    assert [line.split()[1] for line in lines[2:5]] == ['1', '2', '3']
    for step, line in enumerate(lines[2:5]):
        assert f' {open_blocks(step, 6, 3)} ' in line and f'{1e-3 * lr_factor(step, 3):.3g}' in line
    drawn = {line.split()[0]: line.split()[1] for line in lines[6:16]}
    assert drawn == {
        'head': '#' * 60, **dict.fromkeys(['post_norm', 'blocks.5', 'blocks.4', 'blocks.3'], '.' * 20 + '#' * 40),
        **dict.fromkeys(['blocks.2', 'blocks.1', 'blocks.0', 'cls_token', 'pos_embed'], '.' * 40 + '#' * 20),
    }  # fmt: skip
    assert 'never open: patch_embed' in run_tool.stdout
    assert (tmp_path / 'schedule.png').read_bytes().startswith(b'\x89PNG')
    written = yaml.safe_load((tmp_path / 'schedule.yaml').read_text())
    assert [phase['layers'] for phase in written['phases']] == [
        ['head'], ['post_norm', 'blocks.5', 'blocks.4', 'blocks.3'],
        ['blocks.2', 'blocks.1', 'blocks.0', 'cls_token', 'pos_embed'],
    ]  # fmt: skip

    weights = []
    for schedule in ('paper', str(tmp_path / 'schedule.yaml')):
        cfg = digits_config('gradual-unfreezing', 64, launcher='none', work_dir=str(tmp_path / 'run'))
        merge_cfg_options(cfg, 'child.py', {'param_scheduler.schedule': schedule, 'train_cfg.max_epochs': 3})
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = cfg.default_hooks.checkpoint = None
        runner = build_runner(cfg)
        runner.train()
        weights.append(torch.cat([value.flatten().double() for value in runner.model.state_dict().values()]))
    assert cfg.param_scheduler.schedule == written  # not the file's name
    assert torch.equal(*weights)


def test_rates_of_every_scheduler_and_the_costs_of_every_phase(tmp_path):
    text = """
param_scheduler = [
    dict(type='GradualUnfreezingLR', by_epoch=True, convert_to_iter_based=True, schedule='own.yaml'),
    dict(type='LinearLR', by_epoch=False, start_factor=0.5, end=10),
]
"""
    rows = [dict(layers='head', length='1 epoch', lr=10), dict(layers=['post_norm', 'blocks.5'], length='15 steps',
            lr_mult={'head': 0.1}), dict(layers='rest', close='head')]  # fmt: skip
    (tmp_path / 'own.yaml').write_text(yaml.safe_dump(rows))
    cfg = read_config(str(child(tmp_path, text)))
    assert cfg.param_scheduler[0].schedule.phases[1].length == '15 steps'  # from beside the config
    trace = trace_schedule(cfg, epoch_length=20)
    assert (trace.unit, trace.steps) == ('iteration', 60)
    assert [(phase.start, phase.steps, phase.open_blocks) for phase in trace.phases] == [
        (0, 20, 0),
        (20, 15, 1),
        (35, 25, 6),
    ]
    assert [phase.closes for phase in trace.phases] == [(), (), ('head',)]
    rates = trace.rates['head']
    assert rates[0] == 0.5 * 1e-2 and abs(rates[15] - 1e-2) < 1e-15 and abs(rates[30] - 1e-4) < 1e-15
    assert rates[40] != rates[40]  # closed: there is none
    assert abs(trace.rates['pos_embed'][40] - 1e-3) < 1e-15
    peaks = [phase.cost.peak for phase in trace.phases]
    assert peaks == sorted(peaks) and abs(sum(trace.shares_of_time) - 1) < 1e-12
    assert trace.flops(trace.phases[2]) == 25 * trace.phases[2].cost.flops
    planned = list_phases(method_of(cfg, 'own'), list_layers(trace.model), 3, 20)
    assert [tuple(layer.name for layer in phase.frozen) for phase in planned] == [
        phase.frozen for phase in trace.phases
    ]
    assert [phase.fraction_of_steps for phase in planned] == [20 / 60, 15 / 60, 25 / 60]


def test_mistakes_are_one_line_before_anything_is_drawn(run_tool, tmp_path):
    own = "param_scheduler = dict(schedule=[dict(layers='haed', length='1 epoch'), dict(layers='rest')])\n"
    by_iteration = (
        'param_scheduler = dict(convert_to_iter_based=True)\ntrain_dataloader = dict(dataset=dict(data_root="no"))\n'
    )
    for text, options, message in (
        (own, [], "phase 1: layers: 'haed' matches no layer"),
        ("param_scheduler = dict(schedule='none.yaml')\n", [], 'none.yaml: no such schedule'),
        ('', ['--write', tmp_path / 'no/schedule.yaml'], 'its directory does not exist; create it first'),
        (f'{by_iteration}run = dict(dataset="other")\n', [], 'give --epoch-length (iterations per epoch)'),
    ):
        code, err = run_tool('print_layers', child(tmp_path, text), '--schedule', *options)
        assert code == 2 and message in err and err.count('\n') == 1, err
    for config in ('vit-tiny_sgd_digits.py', '_base_/models/vit-b16.py'):
        code, err = run_tool('print_layers', ROOT / 'configs' / config, '--schedule')
        assert code == 2 and 'has no GradualUnfreezingLR' in err
    assert run_tool('print_layers', GRADUAL, '--write', 'x.yaml')[0] == 2
    code, err = run_tool('print_layers', GRADUAL, '--schedule', '--write', tmp_path / 'x.png')
    assert code == 2 and 'x.png: a schedule is a YAML file' in err
    assert run_tool('print_layers', '--model', 'timm/resnet18', '--schedule')[0] == 2
    assert {path.name for path in tmp_path.iterdir()} == {'child.py'}


@pytest.mark.parametrize('document, needed', [
    ([dict(layers='head', length='1 epoch', lr_warmup='20 steps'), dict(layers='rest')], True),
    (dict(lr=dict(curve='paper', warmup='9 steps'), phases=[dict(layers='rest')]), True),
    (dict(lr='paper', phases=[dict(layers='head', length=0.5), dict(layers='rest')]), False),
    ('paper', False),
])  # fmt: skip
def test_any_length_in_steps_needs_the_length_of_an_epoch(document, needed):
    assert Method('m', {}, dict(convert_to_iter_based=True, schedule=document)).needs_epoch_length == needed
    assert not Method('m', {}, dict(schedule=document)).needs_epoch_length


def test_steps_in_which_nothing_trains_are_printed(tmp_path):
    frozen = "optim_wrapper = dict(paramwise_cfg=dict(freeze=['head']))"
    trace = trace_schedule(read_config(str(child(tmp_path, frozen))), costs=False)
    assert 'nothing trains' in format_schedule(trace).splitlines()[2]
