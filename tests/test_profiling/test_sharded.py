"""The plan of sharded training: parts as torch cuts them, the option of the tool, the diagnosis."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from torch import nn

from ftsgd_plugin.optim.sharding.units import block_modules
from ftsgd_plugin.profiling.choice import Diagnosis
from ftsgd_plugin.profiling.diagnosis import RANKS, recommend_sharding
from ftsgd_plugin.profiling.fake_step import FakeModel
from ftsgd_plugin.profiling.sharded import plan_sharded
from ftsgd_plugin.utils.errors import UserError

METHODS = ['freeze-embed', 'adamw', 'sgd-in-backward', 'gradual-unfreezing']


@pytest.fixture(scope='module')
def cfg():
    return Config.fromfile(ROOT / 'configs/vit-tiny_freeze-embed_digits.py')


@pytest.fixture(scope='module')
def plans(cfg):
    return {plan.name: plan for plan in plan_sharded(cfg, 4, METHODS, batch_size=8, device='cpu')}


def test_parts_are_those_that_torch_cuts(cfg, plans):
    model = FakeModel(cfg, 'cpu').model
    first = sum(torch.chunk(torch.empty(param.shape), 4)[0].nbytes for param in model.parameters())
    for plan in plans.values():
        assert all(phase.weights == first for phase in plan.phases)
        assert plan.batch_size == 2 and plan.peak > first
    adamw, freeze = plans['adamw'].phases[0], plans['freeze-embed'].phases[0]
    tensors = len(list(model.parameters()))
    assert adamw.gradients == first and adamw.state == 2 * first + 4 * tensors  # moments, and a count of steps
    assert freeze.state == freeze.gradients < first
    backward = plans['sgd-in-backward'].phases[0]
    assert backward.state == 0 and 0 < backward.gradients < freeze.gradients


def test_closed_blocks_have_no_gradients_and_no_state(plans):
    phases = plans['gradual-unfreezing'].phases
    assert [phase.gradients for phase in phases] == sorted(phase.gradients for phase in phases)
    assert phases[0].gradients < 0.1 * phases[-1].gradients
    assert all(phase.state == phase.gradients for phase in phases)


def test_more_ranks_need_less_of_each(cfg, plans):
    for two in plan_sharded(cfg, 2, METHODS[:2], batch_size=8, device='cpu'):
        four = plans[two.name].phases[0]
        for what in ('weights', 'gradients', 'state', 'peak'):
            assert getattr(four, what) < getattr(two.phases[0], what), what


def test_what_cannot_be_sharded_is_left_out_with_its_reason(cfg):
    left_out = {}
    assert plan_sharded(cfg, 2, ['lars', 'lora'], device='cpu', left_out=left_out) == []
    assert {name: 'does not work with ShardedDataParallel' in reason for name, reason in left_out.items()} == {
        'lars': True,
        'lora': True,
    }
    with pytest.raises(UserError, match='--ranks 0'):
        plan_sharded(cfg, 0)
    model = nn.ModuleDict({'a': nn.Linear(2, 2)})
    model.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(UserError, match='scale has no dimension to divide'):
        block_modules(model, [])


def test_the_tool_prints_and_writes_the_plan_of_a_rank(run_tool, tmp_path):
    options = ['--methods', 'freeze-embed', 'lars', '--batch-size', '8', '--device', 'cpu', '--out', tmp_path / 'plan']
    code, err = run_tool('resources', '--models', 'vit-tiny', '--ranks', '2', '--shard', *options)
    assert code == 0, err
    assert 'one of 2 ranks, sharded' in run_tool.stdout and '- lars: left out: ' in run_tool.stdout
    (result,) = json.loads((tmp_path / 'plan/resources.json').read_text())['results']
    assert result['ranks'] == 2 and result['sharded'][0]['peak'] > 0
    assert run_tool('resources', '--models', 'vit-tiny', '--ranks', '2')[0] == 2


@pytest.mark.slow  # the plans are those of the tests above
def test_the_diagnosis_names_the_smallest_number_of_devices_that_is_enough(cfg):
    (two,) = plan_sharded(cfg, 2, ['freeze-embed'], batch_size=32, device='cpu')
    (four,) = plan_sharded(cfg, 4, ['freeze-embed'], batch_size=32, device='cpu')
    for memory, expected in ((int(1.2 * two.peak), 2), (int(1.2 * four.peak), 4), (2**10, None)):
        answer = Diagnosis(2.0, 'freeze-embed', [], {}, memory, 32, SimpleNamespace(ratio=2.0), [], None)
        found = recommend_sharding(answer, cfg)
        assert found.ranks == expected
        assert f'over {expected or f"up to {RANKS[-1]}"} devices' in found.reasons[-1]


def test_the_diagnosis_says_how_many_images_a_device_computes_and_why_a_model_cannot_be_sharded(monkeypatch):
    """A batch of 6 on 4 devices is one of 8; a model that cannot be divided gets its diagnosis all the same."""
    answer = Diagnosis(2.0, 'freeze-embed', [], {}, 2**20, 6, SimpleNamespace(ratio=2.0), [], None)
    model = nn.ModuleDict()
    model.scale = nn.Parameter(torch.ones(()))

    def plan(cfg, ranks, methods, batch_size, autocast, device, left_out):
        if cfg is None:
            return [SimpleNamespace(peak=2**20 if ranks < 4 else 2**19, batch_size=-(-batch_size // ranks))]
        try:
            block_modules(model, [])
        except UserError as error:
            left_out[methods[0]] = str(error)
        return []

    monkeypatch.setattr('ftsgd_plugin.profiling.diagnosis.plan_sharded', plan)
    reason = recommend_sharding(answer, None).reasons[-1]
    assert 'Sharded over 4 devices' in reason and 'with 2 images on each' in reason and 'same batch' not in reason
    found = recommend_sharding(answer, {})
    assert found.ranks is None and 'Nor can it be sharded: ' in found.reasons[-1]
    assert 'scale has no dimension to divide' in found.reasons[-1]
