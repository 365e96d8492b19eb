"""Freezing, promise by promise."""

import copy
import io

import pytest
import torch
from helpers.small_models import classifier, trained
from mmengine.optim import build_optim_wrapper
from torch import nn

from ftsgd_plugin.freezing import _all_parameters, freeze_layers, keep_eval_mode, select_layers, set_trainable
from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim import GradualUnfreezingLR
from ftsgd_plugin.utils.errors import UserError

OPTIMIZER = dict(optimizer=dict(type='SGD', lr=0.1), constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor')


def names(layers) -> list[str]:
    return [layer.name for layer in layers]


def freeze(model, choice):
    layers = list_layers(model)
    freeze_layers(model, select_layers(layers, choice))
    return layers


def test_embed_is_patch_convolution_and_ln_pre(vit):
    assert names(select_layers(list_layers(vit(pre_norm=True)), 'embed')) == ['patch_embed', 'ln_pre']
    assert names(select_layers(list_layers(vit(pre_norm=False)), 'embed')) == ['patch_embed']


def test_stem_none_names_and_globs(vit):
    layers = list_layers(vit(pre_norm=True))
    assert names(select_layers(layers, 'stem')) == ['patch_embed']
    assert select_layers(layers, 'none') == []
    # Patterns in another order than the layers.
    assert names(select_layers(layers, ['blocks.0.*', 'pos_embed'])) == [
        'pos_embed',
        'blocks.0.norm1',
        'blocks.0.attn',
        'blocks.0.norm2',
        'blocks.0.mlp',
    ]


@pytest.mark.parametrize(
    'choice, message',
    [
        (['patch_embd'], r"freeze=\['patch_embd'\]: 'patch_embd' matches no layer; did you mean 'patch_embed'"),
        (['blocks.7.*'], r"'blocks\.7\.\*' matches no layer"),
        (['xyz'], r"'xyz' matches no layer; the layers run from 'patch_embed', 'pos_embed' to 'head'"),
        (['*'], r"freeze=\['\*'\] leaves nothing to train; name fewer of the 13 layers"),
        ('embedding', r"freeze='embedding' is none of 'embed', 'stem', 'none'"),
        (3, 'freeze=3 is none of'),
        ([3], r'freeze=\[3\] is none of'),
    ],
)
def test_impossible_choices_are_refused_in_one_line(vit, choice, message):
    with pytest.raises(UserError, match=message) as caught:
        select_layers(list_layers(vit()), choice)
    assert '\n' not in str(caught.value)


def test_exactly_the_chosen_layers_are_frozen(vit):
    model = vit(pre_norm=True)
    every = trained(model)
    freeze(model, 'embed')
    assert every - trained(model) == {
        'backbone.patch_embed.projection.weight',
        'backbone.pre_norm.weight',
        'backbone.pre_norm.bias',
    }


def test_frozen_gradients_are_dropped(vit):
    model = vit()
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    freeze(model, 'embed')
    assert {name for name, param in model.named_parameters() if param.grad is None} == {
        'backbone.patch_embed.projection.weight',
        'backbone.patch_embed.projection.bias',
    }


def test_frozen_modules_stay_in_eval_mode_after_train(vit):
    model = vit(pre_norm=True)
    freeze(model, ['patch_embed', 'ln_pre', 'blocks.0.mlp'])
    model.eval()
    model.train()
    assert not model.backbone.patch_embed.training
    assert not model.backbone.patch_embed.projection.training
    assert not model.backbone.pre_norm.training
    assert not any(module.training for module in model.backbone.layers[0].ffn.modules())
    assert model.training and model.backbone.layers[0].attn.training and model.backbone.layers[1].ffn.training
    model.eval()
    assert not any(module.training for module in model.modules())


def test_dropout_of_a_frozen_layer_is_off(vit):
    model = vit(drop_rate=0.5)
    freeze(model, ['blocks.0.mlp'])
    model.train()
    ffn, inputs = model.backbone.layers[0].ffn, torch.randn(2, 5, 16)
    assert torch.equal(ffn(inputs), ffn(inputs))
    trained_ffn = model.backbone.layers[1].ffn
    assert not torch.equal(trained_ffn(inputs), trained_ffn(inputs))


def test_freezing_again_with_other_layers_leaves_no_trace(vit):
    model = vit(pre_norm=True)
    every = trained(model)
    freeze(model, 'embed')
    freeze(model, ['blocks.1.*'])
    assert every - trained(model) == {name for name in every if name.startswith('backbone.layers.1.')}
    model.train()
    assert model.backbone.patch_embed.training and not model.backbone.layers[1].attn.training
    freeze(model, 'none')
    assert trained(model) == every
    assert all(module.training for module in model.modules())


def test_freezing_twice_is_freezing_once(vit):
    model = vit()
    freeze(model, 'embed')
    once = trained(model)
    freeze(model, 'embed')
    assert trained(model) == once
    freeze(model, 'none')
    assert len(trained(model)) == len(list(model.parameters()))


def test_what_the_model_holds_fixed_stays_fixed(vit):
    model = vit()
    model.backbone.pos_embed.requires_grad = False
    freeze(model, 'embed')
    freeze(model, 'none')
    assert 'backbone.pos_embed' not in trained(model)


def test_deep_copy_freezes_its_own_modules(vit):
    model = vit()
    freeze(model, 'embed')
    twin = copy.deepcopy(model)
    twin.train()
    assert not twin.backbone.patch_embed.training
    model.backbone.patch_embed.projection.training = True  # must not be reset through the copy
    twin.eval()
    assert model.backbone.patch_embed.projection.training


def test_a_model_saved_whole_loads_again(vit):
    model = vit()
    freeze(model, 'embed')
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded.backbone.cls_token, model.backbone.cls_token)
    loaded.train()


def test_set_trainable_drops_gradients_and_returns_whether_anything_changed():
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)]
    for param in params:
        param.grad = torch.ones(2)
    assert set_trainable(params, False) and not set_trainable(params, False)
    assert [param.grad for param in params] == [None, None]
    assert set_trainable(params, True) and not set_trainable(params, True)
    assert all(param.requires_grad for param in params)
    assert not set_trainable([], True)


def test_eval_mode_follows_parameters_that_are_frozen_without_the_model(vit):
    model = vit()
    handles = [keep_eval_mode(model), keep_eval_mode(model)]
    handles[0].remove()  # the other one continues
    images = torch.randn(2, 3, 16, 16)
    model.train()
    for wanted in (False, True):
        set_trainable(model.backbone.layers[1].parameters(), wanted)
        model(images)
        model.train()
        assert {module.training for module in model.backbone.layers[1].ffn.modules()} == {wanted}
        assert model.backbone.layers[0].ffn.training
    handles[1].remove()
    assert not model._forward_pre_hooks


@pytest.mark.parametrize('schedule', ['ended early', 'ended early, then copied', 'never began'])
def test_freezing_again_opens_what_a_schedule_had_closed(vit, schedule):
    """As in a notebook: a schedule is left in the middle, and the next constructor gets the same model."""
    model = vit()
    model.backbone.pos_embed.requires_grad = False  # by the model itself
    expected = trained(model)
    optim_wrapper = build_optim_wrapper(model, OPTIMIZER)
    scheduler = GradualUnfreezingLR(optim_wrapper, end=10)
    if schedule != 'never began':
        model.train()(torch.randn(2, 3, 16, 16))
        scheduler.step()
        assert trained(model) == {'head.fc.weight', 'head.fc.bias'}
    if schedule.endswith('copied'):
        model = copy.deepcopy(model)
    build_optim_wrapper(model, OPTIMIZER)
    embed = {name for name in expected if 'patch_embed' in name}
    assert trained(model) == expected - embed
    freeze(model, 'none')
    assert trained(model) == expected


def modes(model) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize('norm_eval', [False, True])
def test_opening_gives_the_modes_of_the_models_own_train(norm_eval):
    """MMPretrain's ResNet keeps its batch norms in eval mode with ``norm_eval``."""
    resnet = dict(type='mmpretrain.ResNet', depth=18, norm_eval=norm_eval, stem_channels=4, base_channels=4)
    model = classifier(resnet, 32, neck=dict(type='mmpretrain.GlobalAveragePooling'))
    model.train()
    expected = modes(model)
    assert expected['backbone.layer4.0.bn1'] is not norm_eval
    images = torch.randn(2, 3, 32, 32)
    statistics = model.backbone.layer4[0].bn1.running_mean.clone()
    keep_eval_mode(model)
    blocks = [param for layer in list_layers(model) if layer.role == 'block' for param in layer.params.values()]
    set_trainable(blocks, False)
    model(images)
    assert not any(module.training for block in model.backbone.layer4 for module in block.modules())
    assert torch.equal(statistics, model.backbone.layer4[0].bn1.running_mean)
    set_trainable(blocks, True)
    model.head.training = False  # by hand, and not ours to change
    model(images)
    assert modes(model) == {**expected, 'head': False}
    assert torch.equal(statistics, model.backbone.layer4[0].bn1.running_mean) is norm_eval
    freeze(model, 'none')
    model.train()
    assert modes(model) == expected


def test_eval_mode_follows_in_a_deep_copy_without_reaching_the_original(vit):
    model = vit()
    keep_eval_mode(model)
    twin = copy.deepcopy(model)
    set_trainable(twin.backbone.layers[1].parameters(), False)
    twin.train()(torch.randn(2, 3, 16, 16))
    assert not twin.backbone.layers[1].ffn.training and model.train().backbone.layers[1].ffn.training


def test_what_trains_is_read_from_every_parameter(vit):
    """As by ``model.parameters()``, which takes ten times as long, in every step."""
    model = vit()
    model.head.tied, model.head.none = model.backbone.ln1, None
    model.head.register_parameter('empty', None)
    assert {id(param) for param in _all_parameters(model)} == {id(param) for param in model.parameters()}
