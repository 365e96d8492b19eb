"""What every layer list promises: each parameter once, names of the model inside, registration."""

import contextlib
import re
from dataclasses import FrozenInstanceError
from unittest import mock

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmpretrain.registry import MODELS
from torch import nn

from ftsgd_plugin.freezing import freeze_layers
from ftsgd_plugin.layers import (
    Entry,
    list_layers,
    register,
    register_layer_list,
    unwrap,
    unwrap_state_dict,
)
from ftsgd_plugin.optim import InBackwardDataParallel
from ftsgd_plugin.utils.errors import UserError


@pytest.mark.parametrize('pre_norm', [False, True])
def test_every_parameter_is_in_exactly_one_layer(vit, pre_norm):
    model = vit(pre_norm)
    listed = [name for layer in list_layers(model) for name in layer.params]
    assert sorted(listed) == sorted(name for name, _ in model.named_parameters())
    own = dict(model.named_parameters())
    assert all(own[name] is param for layer in list_layers(model) for name, param in layer.params.items())


def test_layers_name_their_modules(vit):
    model = vit(pre_norm=True)
    modules = {layer.name: list(layer.modules) for layer in list_layers(model)}
    assert modules['patch_embed'] == ['backbone.patch_embed']
    assert modules['blocks.1.mlp'] == ['backbone.layers.1.ffn']
    assert modules['cls_token'] == []
    assert modules['head'] == ['head']


def test_shared_parameter_is_named_once(vit):
    model = vit()
    model.backbone.layers[1].ln1.weight = model.backbone.layers[0].ln1.weight
    names = [name for layer in list_layers(model) for name in layer.params]
    assert 'backbone.layers.0.ln1.weight' in names
    assert 'backbone.layers.1.ln1.weight' not in names
    assert len(names) == len(list(model.parameters()))


def test_wrapped_model_lists_the_names_inside(vit):
    wrapper = nn.DataParallel(vit())
    assert 'backbone.cls_token' in [name for layer in list_layers(wrapper) for name in layer.params]


def test_head_of_mmpretrains_vit_configs_is_the_head():
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='mmpretrain.VisionTransformer', arch='deit-tiny', img_size=32),
            head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=5, in_channels=192),
        )
    )
    assert list(list_layers(model)[-1].params) == ['head.layers.head.weight', 'head.layers.head.bias']


def test_timm_backbone_inside_mmpretrain():
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='mmpretrain.TIMMBackbone', model_name='vit_tiny_patch16_224', pretrained=False),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=192),
        )
    )
    layers = list_layers(model)
    assert layers[0].name == 'patch_embed'
    assert 'backbone.timm_model.patch_embed.proj.weight' in layers[0].params
    assert [layer.name for layer in layers if layer.role == 'head'] == ['head']


class Stem(nn.Module):
    """A backbone that is not registered."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.LayerNorm(4)


class RegisteredStem(Stem):
    pass


class ForgetfulStem(Stem):
    pass


@register_layer_list(RegisteredStem)
def _registered_stem(net):
    yield Entry('stem', 'embed', 'conv')
    yield Entry('absent', 'block', 'no_such_module', block=0)
    yield Entry('post_norm', 'norm', 'norm')


@register_layer_list(f'{ForgetfulStem.__module__}.ForgetfulStem')
def _forgetful_stem(net):
    yield Entry('stem', 'embed', 'conv')


def test_error_for_an_unknown_backbone_names_its_class_and_has_a_list_that_works_when_pasted():
    with pytest.raises(UserError, match=rf'no layer list for {re.escape(Stem.__module__)}\.Stem \(') as caught:
        list_layers(Stem())
    assert '\n' not in str(caught.value)
    code = str(caught.value).partition('correct its roles: ')[2]
    assert code.startswith('from ftsgd_plugin.layers import Entry, register_layer_list; register_layer_list(')
    with registered(code):
        layers = list_layers(Stem())
    assert [name for layer in layers for name in layer.params] == [
        'conv.weight',
        'conv.bias',
        'norm.weight',
        'norm.bias',
    ]


@contextlib.contextmanager
def registered(code: str):
    """Run a pasted line, and forget afterwards what it has registered."""
    with mock.patch.dict(register._LAYER_LISTS):
        exec(code, {})
        yield


def test_one_decorated_function_registers_a_backbone():
    assert [layer.name for layer in list_layers(RegisteredStem())] == ['stem', 'post_norm']


def test_forgotten_parameter_is_an_error():
    with pytest.raises(UserError, match=r'ForgetfulStem leaves out norm\.weight, norm\.bias; add an Entry'):
        list_layers(ForgetfulStem())


def test_unknown_role_is_refused():
    with pytest.raises(ValueError, match="layer 'stem': role 'embedding' is not one of embed, position"):
        Entry('stem', 'embedding', 'conv')


def test_entries_are_values_that_cannot_change():
    entry = Entry('blocks.0', 'block', 'attn', 'mlp', block=0)
    assert (entry.members, entry.block, entry.group) == (('attn', 'mlp'), 0, 'blocks.0')
    assert entry == Entry('blocks.0', 'block', 'attn', 'mlp', block=0, group='blocks.0') != Entry('blocks.0', 'block')
    with pytest.raises(FrozenInstanceError):
        entry.role = 'norm'


WRAPPERS = {
    'DataParallel': nn.DataParallel,
    'InBackwardDataParallel': InBackwardDataParallel,  # registered in MMEngine
    'AveragedModel': torch.optim.swa_utils.AveragedModel,
    'ExponentialMovingAverage': ExponentialMovingAverage,
}


@pytest.mark.parametrize('name', WRAPPERS)
def test_state_dicts_of_wrapped_models_get_the_names_inside(vit, name):
    model = vit()
    wrapper = WRAPPERS[name](model)
    assert type(unwrap(wrapper)) is type(model) and unwrap(model) is model
    found = unwrap_state_dict(wrapper.state_dict())
    assert [key for key in found if key not in ('n_averaged', 'steps')] == list(model.state_dict())
    assert list(unwrap_state_dict(model.state_dict())) == list(model.state_dict())


class WithChildCalledModule(nn.Module):
    """A classifier whose backbone happens to be called ``module``."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.module, self.fc = backbone, nn.Linear(16, 3)


def test_a_child_called_module_is_not_a_wrapper(vit):
    model = WithChildCalledModule(vit().backbone)
    assert unwrap(model) is model
    layers = list_layers(model)
    assert layers[-1].role == 'head' and list(layers[-1].params) == ['fc.weight', 'fc.bias']
    assert sum(layer.num_params for layer in layers) == sum(param.numel() for param in model.parameters())
    freeze_layers(model, layers[:1])
    assert [name for name, param in model.named_parameters() if not param.requires_grad] == list(layers[0].params)
    assert list(unwrap_state_dict(model.state_dict())) == list(model.state_dict())
    inner = list(model.state_dict())
    assert list(unwrap_state_dict(nn.DataParallel(model).state_dict())) == inner
