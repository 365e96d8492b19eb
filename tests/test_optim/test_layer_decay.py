"""Layer-wise learning-rate decay against MMPretrain's own constructor, and beside every other option."""

import os.path as osp

import mmpretrain
import pytest
import torch
from helpers.small_models import SMALL, small_classifier
from mmengine.config import Config
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from mmpretrain.registry import MODELS, PARAM_SCHEDULERS
from torch import nn

from ftsgd_plugin.layers import layer_depths, list_layers
from ftsgd_plugin.optim import FreezeEmbedOptimWrapperConstructor
from ftsgd_plugin.optim.paramwise import check_paramwise
from ftsgd_plugin.optim.schedule import lr_factor
from ftsgd_plugin.utils.errors import UserError

STOCK = osp.join(osp.dirname(mmpretrain.__file__), '.mim/configs')
SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.05)
VIT = dict(arch=dict(embed_dims=64, num_layers=12, num_heads=2, feedforward_channels=128), img_size=32)
SWIN = dict(arch=dict(embed_dims=8, depths=[2, 2, 6, 2], num_heads=[1, 2, 4, 8]))
# Stock configs with layer-wise decay, with narrow networks of the same depth.
RECIPES = {
    'mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k': VIT,
    'beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k': VIT,
    'simmim/benchmarks/swin-base-w6_8xb256-coslr-100e_in1k-192px': SWIN,
}


def build(model: nn.Module, optimizer=SGD, wrapper=None, **paramwise):
    cfg = dict(type='OptimWrapper', optimizer=dict(optimizer), **(wrapper or {}))
    return FreezeEmbedOptimWrapperConstructor(cfg, paramwise)(model)


def hyper_parameters(model: nn.Module, optim_wrapper) -> dict[str, tuple[float, float]]:
    """Parameter name -> learning rate and weight decay of its group."""
    names = {id(param): name for name, param in model.named_parameters()}
    return {
        names[id(param)]: (group['lr'], group['weight_decay'])
        for group in optim_wrapper.optimizer.param_groups
        for param in group['params']
    }


@pytest.mark.parametrize('name', RECIPES)
def test_rates_and_weight_decays_equal_mmpretrains_own(name):
    cfg = Config.fromfile(f'{STOCK}/{name}.py')
    cfg.model.backbone.update(RECIPES[name], _scope_='mmpretrain')
    cfg.model.backbone.pop('init_cfg', None)
    model = MODELS.build(cfg.model)
    wrapper = dict(cfg.optim_wrapper)
    wrapper.update(type='OptimWrapper')  # of SimMIM's: AMP, which needs a GPU
    wrapper.pop('loss_scale', None)
    paramwise = dict(wrapper.pop('paramwise_cfg'))
    assert 0 < paramwise['layer_decay_rate'] < 1 and paramwise['custom_keys']
    assert wrapper.pop('constructor') == 'LearningRateDecayOptimWrapperConstructor'
    theirs = LearningRateDecayOptimWrapperConstructor(dict(wrapper), dict(paramwise))(model)
    ours = FreezeEmbedOptimWrapperConstructor(dict(wrapper), dict(paramwise, freeze='none'))(model)
    expected, found = hyper_parameters(model, theirs), hyper_parameters(model, ours)
    assert found == expected and len({lr for lr, _ in found.values()}) == 14  # 12 blocks
    assert len(ours.optimizer.param_groups) < 50 < len(theirs.optimizer.param_groups)


@pytest.mark.parametrize('name', SMALL)
def test_every_listed_backbone_decays_by_the_order_of_its_layers(name):
    model = small_classifier(name)
    layers = list_layers(model)
    found = hyper_parameters(model, build(model, freeze='none', layer_decay_rate=0.5))
    blocks = SMALL[name][1]
    for layer in layers:
        above = {'embed': blocks + 1, 'position': blocks + 1}.get(layer.role, 0)
        above = above if layer.block is None else blocks - layer.block
        for param in layer.params:
            assert found[param][0] == pytest.approx(0.1 * 0.5**above), (layer.name, param)
    assert set(layer_depths(layers).values()) == set(range(blocks + 2))


def test_frozen_layers_are_in_no_group_and_count_all_the_same(vit):
    model = vit()
    found = hyper_parameters(model, build(model, layer_decay_rate=0.5))
    assert not any('patch_embed' in name for name in found)
    assert found['backbone.cls_token'][0] == 0.1 * 0.5**3
    model = vit()
    found = hyper_parameters(model, build(model, freeze=['patch_embed', 'blocks.0.*'], layer_decay_rate=0.5))
    assert found['backbone.cls_token'][0] == 0.1 * 0.5**3 and found['backbone.layers.1.ln1.weight'][0] == 0.1 * 0.5
    assert not any(name.startswith('backbone.layers.0.') for name in found)


def test_it_multiplies_what_the_other_keys_give(vit):
    other = dict(norm_decay_mult=0.0, bias_lr_mult=2.0, custom_keys={'attn.qkv': dict(lr_mult=3.0, decay_mult=0.5)})
    models = vit(), vit()
    plain = hyper_parameters(models[0], build(models[0], **other))
    decayed = hyper_parameters(models[1], build(models[1], **other, layer_decay_rate=0.5))
    depths = layer_depths(list_layers(models[1]))
    for name, (lr, weight_decay) in plain.items():
        assert decayed[name] == (pytest.approx(lr * 0.5 ** (3 - depths[name])), weight_decay), name
    assert decayed['backbone.layers.1.attn.qkv.weight'] == (pytest.approx(0.15), 0.025)
    assert decayed['backbone.layers.0.ffn.layers.1.bias'][0] == pytest.approx(0.05)
    model = vit()
    assert hyper_parameters(model, build(model, **other, layer_decay_rate=1)) == plain


def test_gradual_unfreezing_multiplies_the_decayed_rates(vit):
    model = vit()
    optim_wrapper = build(model, layer_decay_rate=0.5)
    groups = optim_wrapper.optimizer.param_groups
    decayed = [group['lr'] for group in groups]
    scheduler = PARAM_SCHEDULERS.build(
        dict(type='GradualUnfreezingLR', by_epoch=False, end=6), default_args=dict(optimizer=optim_wrapper)
    )
    for step in range(6):
        factor = lr_factor(step, 6)
        assert [group['lr'] for group in groups] == pytest.approx([rate * factor for rate in decayed]), step
        optim_wrapper.optimizer.step()
        scheduler.step()
    assert [group['lr'] for group in groups] == pytest.approx(decayed)


def test_updates_are_those_of_plain_sgd_with_these_rates(vit):
    """Also with SGD in backward, which takes its rates from the groups."""
    rates = {}
    trained = []
    for kind in ('OptimWrapper', 'SGDInBackwardOptimWrapper'):
        model = vit()
        plain = {name: param.detach().clone() for name, param in model.named_parameters()}
        cfg = dict(type=kind, optimizer=dict(type='SGD', lr=0.1))
        constructor = FreezeEmbedOptimWrapperConstructor(cfg, dict(layer_decay_rate=0.5))
        optim_wrapper = constructor(model)
        rates = {name: lr for name, (lr, _) in hyper_parameters(model, optim_wrapper).items()}
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        loss = model(images).square().mean()
        names = [name for name, param in model.named_parameters() if param.requires_grad]
        params = [param for param in model.parameters() if param.requires_grad]
        grads = dict(zip(names, torch.autograd.grad(loss, params, retain_graph=True)))
        optim_wrapper.update_params(loss)
        for name, param in model.named_parameters():
            expected = plain[name] - rates[name] * grads[name] if name in grads else plain[name]
            torch.testing.assert_close(param.detach(), expected)
        trained.append(param.detach())
    assert len(set(rates.values())) == 4


@pytest.mark.parametrize('rate', [0, -0.5, 1.5, float('nan'), float('inf'), 'x', '0.65', True, [0.5]])
def test_a_rate_that_is_none_is_one_line(vit, rate):
    with pytest.raises(
        UserError, match=r'paramwise_cfg\.layer_decay_rate=.* is not a number above 0 and at most 1'
    ) as e:
        build(vit(), layer_decay_rate=rate)
    assert '\n' not in str(e.value)


def test_other_mistakes_are_one_line(vit):
    with pytest.raises(UserError, match='multiplies the learning rate and the optimizer has none; add lr to'):
        build(vit(), optimizer=dict(type='AdamW'), layer_decay_rate=0.5)
    with pytest.raises(UserError, match='layer list'):  # nothing to freeze, but the order of the layers is needed
        build(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), freeze='none', layer_decay_rate=0.5)
    with pytest.raises(UserError, match=r"set optim_wrapper\.constructor='FreezeEmbedOptimWrapperConstructor'"):
        check_paramwise(dict(layer_decay_rate=0.5))
    model = vit()
    assert {lr for lr, _ in hyper_parameters(model, build(model, layer_decay_rate=None)).values()} == {0.1}
