"""Multipliers of learning rates by role, block and glob, against groups written by hand and closed forms."""

import math
from statistics import median

import pytest
import torch
from helpers.small_models import SMALL, batch, loss_of, small_classifier
from mmengine.optim import build_optim_wrapper

from ftsgd_plugin import gradient_lr_mult, list_layers, param_groups
from ftsgd_plugin.optim.rates import multipliers_of
from ftsgd_plugin.utils.errors import UserError

LR = 0.01


def rates(optimizer: torch.optim.Optimizer, model) -> dict[str, float]:
    names = {id(param): name for name, param in model.named_parameters()}
    return {names[id(param)]: group['lr'] for group in optimizer.param_groups for param in group['params']}


def constructed(model, kind: str = 'SGD', **paramwise):
    cfg = dict(
        optimizer=dict(type=kind, lr=LR),
        constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
        paramwise_cfg=dict(freeze='none', **paramwise),
    )
    return build_optim_wrapper(model, cfg).optimizer


LR_MULT = {'block': 0.5, 'blocks.1': 0.25, 'blocks.*.mlp': 2.0, 'embed': 0.1, 'blocks.2.attn': 1}


def by_hand(name: str) -> float:
    """What ``LR_MULT`` means for a parameter of a ViT of timm, from its name."""
    if 'patch_embed' in name:
        return 0.1
    if '.blocks.' not in name:
        return 1.0
    index, part = name.split('.blocks.')[1].split('.')[:2]
    if (index, part) == ('2', 'attn'):
        return 1.0
    return 2.0 if part == 'mlp' else 0.25 if index == '1' else 0.5


@pytest.mark.parametrize('kind', ['SGD', 'AdamW'])
def test_the_last_role_block_or_glob_that_matches_multiplies_the_rate(kind):
    model = small_classifier('vit-b16')
    optimizer = constructed(model, kind, lr_mult=LR_MULT)
    assert rates(optimizer, model) == {name: pytest.approx(LR * by_hand(name)) for name, _ in model.named_parameters()}
    plain = getattr(torch.optim, kind)(param_groups(model, 'none', lr=LR, lr_mult=LR_MULT))
    described = [[(g['name'], g['role'], g['block'], g['lr']) for g in o.param_groups] for o in (optimizer, plain)]
    assert described[0] == described[1]
    assert len(described[0]) == len({(role, block, lr) for _, role, block, lr in described[0]})  # merged by equal rate


def test_twenty_steps_are_those_of_groups_written_by_hand():
    models = [small_classifier('vit-b16') for _ in range(2)]
    ours = torch.optim.SGD(param_groups(models[0], 'none', lr=LR, lr_mult=LR_MULT), momentum=0.9)
    hand = [dict(params=[param], lr=LR * by_hand(name)) for name, param in models[1].named_parameters()]
    theirs = torch.optim.SGD(hand, lr=LR, momentum=0.9)
    for step in range(20):
        images, labels = batch('vit-b16', step)
        for model, optimizer in zip(models, (ours, theirs)):
            loss_of(model, images, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(*(model.parameters() for model in models)))


def test_blocks_of_a_convnet_are_counted_through_and_other_options_multiply_too():
    model = small_classifier('convnext-b')
    plain = rates(constructed(model, layer_decay_rate=0.5), model)
    scaled = rates(constructed(model, layer_decay_rate=0.5, lr_mult={'blocks.3': 0.1}), model)
    changed = {name for name in plain if scaled[name] != plain[name]}
    assert changed == {name for name in plain if '.stages.3.blocks.0.' in name or '.stages.3.downsample.' in name}
    assert all(scaled[name] == pytest.approx(0.1 * plain[name]) for name in changed)


@pytest.mark.parametrize('lr_mult, reason', [
    ({'blcks.1': 0.1}, r"lr_mult\['blcks.1'\] matches no layer; did you mean 'blocks.1'"),
    ({'embed': 0}, r"lr_mult\['embed'\]=0 is not a number above 0; to freeze layers name them in freeze"),
    ({'embed': math.inf}, 'is not a number above 0'),
    ({'embed': True}, 'is not a number above 0'),
    (0.1, "lr_mult=0.1 is not 'gradient' or a dict such as"),
    ({}, 'is not .gradient. or a dict such as'),
    ('gradients', "lr_mult='gradients' is not 'gradient' or a dict"),
])  # fmt: skip
def test_what_is_no_multiplier_is_refused_in_a_line(lr_mult, reason):
    with pytest.raises(UserError, match=reason):
        constructed(small_classifier('vit-b16'), lr_mult=lr_mult)


def test_a_plain_loop_measures_first_and_needs_a_rate():
    model = small_classifier('vit-b16')
    with pytest.raises(UserError, match=r'lr_mult multiplies the learning rate and there is none; give lr'):
        param_groups(model, lr_mult={'embed': 0.1})
    with pytest.raises(UserError, match=r'gradient_lr_mult\(model\) after a backward pass'):
        param_groups(model, lr=LR, lr_mult='gradient')
    with pytest.raises(UserError, match='the typical block has no gradient to compare with'):
        gradient_lr_mult(model)


@pytest.mark.parametrize('name', ['vit-b16', 'clip-vit-b16', 'convnext-b'])
def test_the_rule_is_the_closed_form(name):
    """From torch.autograd's gradients: how far a parameter moves at rate 1, compared with the median block."""
    model = small_classifier(name)
    images, labels = batch(name, 0)
    loss_of(model, images, labels).backward()
    found = gradient_lr_mult(model)
    blocks = SMALL[name][1]
    assert next(iter(found)) == 'embed' and list(found)[-1] == 'head' and found['head'] == 1.0

    def moved(names) -> float:
        squares = [model.get_parameter(name).grad.double().square().flatten() for name in names]
        return torch.cat(squares).mean().sqrt().item()

    stages: dict[str, list[str]] = {}
    for layer in list_layers(model):
        stages.setdefault(layer.role if layer.block is None else f'blocks.{layer.block}', []).extend(layer.params)
    middle = median(moved(stages[f'blocks.{i}']) for i in range(blocks))
    expected = {stage: min(1.0, middle / moved(names)) for stage, names in stages.items()}
    assert found == pytest.approx({**expected, 'head': 1.0}, rel=1e-4)
    optimizer = torch.optim.SGD(param_groups(model, 'none', lr=LR, lr_mult=found))
    assert {group['lr'] for group in optimizer.param_groups if group['role'] == 'embed'} == {LR * found['embed']}


def test_a_zero_gradient_keeps_its_rate_and_no_rate_becomes_zero():
    sizes = {'embed': 4, 'blocks.0': 4, 'norm': 1}
    assert multipliers_of({'embed': 0.0, 'blocks.0': 1.0, 'norm': 0.0}, sizes) == dict.fromkeys(sizes, 1.0)
    for norms in ({'embed': 1.0, 'blocks.0': 0.0, 'norm': 1.0}, dict.fromkeys(sizes, 0.0)):  # the last: a head of zeros
        with pytest.raises(UserError, match='the typical block has no gradient'):
            multipliers_of(norms, sizes)
    with pytest.raises(UserError, match='the gradient of norm is not finite'):
        multipliers_of({'embed': 1.0, 'blocks.0': 1.0, 'norm': math.nan}, sizes)
