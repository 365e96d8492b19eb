"""param_groups against the groups of the constructor, for every tiny model and option."""

import math

import pytest
import torch
from helpers.gradual import build
from helpers.small_models import SMALL, small_classifier, trained
from mmengine.optim import build_optim_wrapper
from torch import nn

from ftsgd_plugin import freeze_layers, list_layers, param_groups, select_layers
from ftsgd_plugin.utils.errors import UserError

OPTIMIZERS = {
    'SGD': (torch.optim.SGD, dict(momentum=0.9)),
    'AdamW': (torch.optim.AdamW, dict(betas=(0.9, 0.95))),
    'RMSprop': (torch.optim.RMSprop, {}),
}
OPTIONS = {
    'nothing': dict(),
    'decay of norms and biases': dict(weight_decay=0.05, norm_decay_mult=0.0, bias_decay_mult=0.5),
    'a multiplier of one': dict(weight_decay=0.05, norm_decay_mult=1.0),
    'biases of norms too': dict(weight_decay=0.05, bias_decay_mult=0.0),
    'norms and biases alone': dict(weight_decay=0.05, train='norms-and-biases', bias_decay_mult=0.0),
    'layer decay': dict(weight_decay=0.05, norm_decay_mult=0.0, layer_decay_rate=0.65),
}


def described(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[dict]:
    """The groups with names in place of parameters."""
    names = {id(param): name for name, param in model.named_parameters()}
    return [{**group, 'params': [names[id(param)] for param in group['params']]} for group in optimizer.param_groups]


def constructed(
    model: nn.Module, freeze, kind: str, lr: float, weight_decay=None, **paramwise
) -> torch.optim.Optimizer:
    """The optimizer that the constructor builds for the same options."""
    given = {} if weight_decay is None else dict(weight_decay=weight_decay)
    optimizer = dict(type=kind, lr=lr, **OPTIMIZERS[kind][1], **given)
    constructor = 'mmpretrain.FreezeEmbedOptimWrapperConstructor'
    cfg = dict(optimizer=optimizer, constructor=constructor, paramwise_cfg=dict(freeze=freeze, **paramwise))
    return build_optim_wrapper(model, cfg).optimizer


def same(model: nn.Module, freeze, kind: str = 'SGD', **options) -> None:
    """Assert that both build the same groups, and freeze the same."""
    theirs = described(constructed(model, freeze, kind, lr=0.01, **options), model)
    wanted = trained(model)
    for param in model.parameters():
        param.requires_grad_(True)
    optimizer, settings = OPTIMIZERS[kind]
    ours = described(optimizer(param_groups(model, freeze, lr=0.01, **options), **settings), model)
    assert ours == theirs and trained(model) == wanted


@pytest.mark.filterwarnings('ignore:the frozen embedding')
@pytest.mark.parametrize('name', [name for name in SMALL if name != 'bit-r101'])  # it only has more blocks than bit-r50
def test_groups_order_and_keys_are_those_of_the_constructor(name):
    model = small_classifier(name)
    some = [layer.name for layer in list_layers(model) if layer.role == 'head' or layer.block == 0]
    same(model, 'embed', **OPTIONS['decay of norms and biases'])
    same(model, some, **OPTIONS['layer decay'])


@pytest.mark.filterwarnings('ignore:the frozen embedding')
@pytest.mark.parametrize('freeze', ['embed', 'stem', 'none'])
def test_for_every_option_and_optimizer(freeze):
    model = small_classifier('clip-vit-b16')
    for options in OPTIONS.values():
        same(model, freeze, **options)
    for kind in OPTIMIZERS:
        same(model, freeze, kind, **OPTIONS['decay of norms and biases'])


def test_a_model_without_a_layer_list_can_train_whole_but_not_frozen_by_name():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    for options in OPTIONS.values():
        if 'layer_decay_rate' in options or 'train' in options:
            with pytest.raises(UserError, match='no layer list'):
                param_groups(model, 'none', lr=0.1, **options)
            continue
        theirs = constructed(model, 'none', 'SGD', lr=0.1, **options)
        ours = torch.optim.SGD(param_groups(model, 'none', lr=0.1, **options), momentum=0.9)
        assert described(ours, model) == described(theirs, model)
    with pytest.raises(UserError, match='no layer list'):
        param_groups(model)


def test_without_a_rate_it_is_the_optimizers():
    model = small_classifier('vit-b16')
    optimizer = torch.optim.AdamW(param_groups(model), lr=0.5, weight_decay=0.25)
    assert {(group['lr'], group['weight_decay']) for group in optimizer.param_groups} == {(0.5, 0.25)}


def test_a_shared_parameter_is_in_one_group():
    model = small_classifier('vit-b16')
    model.backbone.net.blocks[1].mlp.fc1.weight = model.backbone.net.blocks[0].mlp.fc1.weight
    held = [id(param) for group in param_groups(model, 'none', lr=0.1) for param in group['params']]
    assert len(held) == len(set(held)) == len(list(model.parameters()))


def test_a_second_call_frees_what_the_first_froze_and_the_models_own_stay_frozen():
    model = small_classifier('vit-b16')
    model.backbone.net.pos_embed.requires_grad_(False)
    everything = trained(model)
    param_groups(model, ['blocks.*'], lr=0.1)
    assert not any('blocks' in name for name in trained(model))
    param_groups(model, 'none', lr=0.1)
    assert trained(model) == everything and 'backbone.net.pos_embed' not in everything


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(freeze='embedding'), "freeze='embedding' is none of 'embed'"),
        (dict(freeze=['block.*']), "'block.*' matches no layer; did you mean"),
        (dict(freeze=['*']), 'leaves nothing to train'),
        (dict(lr='fast'), "lr='fast' is not a number"),
        (dict(lr=math.nan), 'param_groups.lr=nan is not a finite number; set one, such as 1e-3'),
        (dict(lr=-0.1), 'param_groups.lr=-0.1 is negative'),
        (dict(weight_decay=math.inf), 'weight_decay=inf is not a finite number'),
        (dict(norm_decay_mult=0), 'norm_decay_mult multiplies the weight decay and there is none; give weight_decay'),
        (dict(bias_decay_mult=0), 'bias_decay_mult multiplies the weight decay and there is none; give weight_decay'),
        (dict(layer_decay_rate=0.65), 'layer_decay_rate multiplies the learning rate and there is none; give lr'),
        (dict(lr=0.1, layer_decay_rate=1.5), 'layer_decay_rate=1.5 is not a number above 0 and at most 1'),
    ],
)
def test_a_mistake_is_one_line_and_freezes_nothing(options, message):
    model = small_classifier('vit-b16')
    with pytest.raises(UserError) as error:
        param_groups(model, **options)
    assert message in str(error.value) and '\n' not in str(error.value)
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_a_large_embedding_is_warned_of_and_a_model_that_freezes_the_rest_is_refused(vit):
    with pytest.warns(UserWarning, match=r'the frozen embedding \(patch_embed to patch_embed\) is .*freeze may name'):
        param_groups(vit())
    model = vit()
    freeze_layers(model, select_layers(list_layers(model), 'none'))
    for name, param in model.named_parameters():
        param.requires_grad_('patch_embed' in name)
    with pytest.raises(UserError, match='leaves nothing to train, as the model itself freezes the rest'):
        param_groups(model)


def test_groups_of_the_constructor_are_as_before():
    """A fixed example: the merging rule moved from the constructor."""
    groups = build(small_classifier('vit-b16')).optimizer.param_groups
    stages = [(group['name'], group['role'], group['block'], len(group['params'])) for group in groups]
    assert stages == [
        ('pos_embed', 'position', None, 2),
        ('blocks.0', 'block', 0, 12),
        ('blocks.1', 'block', 1, 12),
        ('blocks.2', 'block', 2, 12),
        ('post_norm', 'norm', None, 2),
        ('head', 'head', None, 2),
    ]
