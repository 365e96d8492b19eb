"""Verified lists of timm's and open_clip's networks, against published depths and the lists written by hand."""

import contextlib
import copy
from unittest import mock

import pytest
import timm
import torch
from helpers.small_models import classifier
from mmengine.optim import build_optim_wrapper
from timm.models import group_parameters
from torch import nn

from ftsgd_plugin.freezing import freeze_layers, keep_eval_mode, select_layers
from ftsgd_plugin.layers import list_layers, paper_parts, register
from ftsgd_plugin.layers.generic import generic_list, layer_list_of
from ftsgd_plugin.layers.trace import owners_of
from ftsgd_plugin.models import OpenCLIPVisionTower, TimmPooledBackbone
from ftsgd_plugin.optim import FreezeEmbedOptimWrapperConstructor, GradualUnfreezingLR
from ftsgd_plugin.utils.errors import UserError


def build(name: str, **options) -> nn.Module:
    with torch.device('meta'):
        return timm.create_model(name, **{'num_classes': 5, **options})


# name, options, the embedding's parts, blocks: the published depths, less the first stage where it is embedding.
_TINY = dict(depth=6, embed_dim=96, num_heads=2)  # an embedding of less than 15 %
FAMILIES = [
    ('beit_base_patch16_224', _TINY, ['patch_embed'], 6),
    ('beitv2_base_patch16_224', _TINY, ['patch_embed'], 6),
    ('cait_xxs24_224', _TINY, ['patch_embed'], 6 + 2),
    ('convmixer_768_32', {}, ['stem'], 32),
    ('crossvit_tiny_240', {}, ['patch_embed'], 3 * (1 + 4 + 2)),
    ('dla34', {}, ['base_layer', 'level0', 'level1', 'level2'], 6),
    ('edgenext_xx_small', {}, ['stem', 'stages.0'], 10),
    ('efficientnet_b0', {}, ['conv_stem', 'bn1', 'blocks.0'], 15),
    ('eva02_tiny_patch14_224', _TINY, ['patch_embed'], 6),
    ('ghostnet_050', {}, ['conv_stem', 'bn1', 'blocks.0'], 15 + 1),
    ('hiera_tiny_224', {}, ['patch_embed', 'blocks.0'], 11),
    ('hrnet_w18_small', {}, ['conv1', 'bn1', 'conv2', 'bn2', 'layer1'], 3 + 4),
    ('levit_128s', {}, ['stem', 'stages.0'], 7),
    ('maxvit_tiny_rw_224', {}, ['stem', 'stages.0'], 9),
    ('mixer_s16_224', {}, ['stem'], 8),
    ('mobilenetv3_small_050', {}, ['conv_stem', 'bn1', 'blocks.0'], 10 + 1),
    ('poolformer_s12', {}, ['stem', 'stages.0'], 10),
    ('pvt_v2_b0', {}, ['patch_embed', 'stages.0'], 6),
    ('regnetx_002', {}, ['stem', 's1'], 12),
    ('resnet18', {}, ['conv1', 'bn1', 'layer1'], 6),
    ('swin_tiny_patch4_window7_224', dict(depths=(1, 1, 2, 1), embed_dim=24), ['patch_embed'], 5),
    ('twins_svt_small', dict(depths=(1, 1, 2, 2)), ['patch_embeds.0'], 6),
    ('vgg11', {}, ['features.0', 'features.3'], 6 + 2),
    ('vit_small_patch16_dinov3', _TINY, ['patch_embed'], 6),
    ('vit_small_patch16_18x2_224', _TINY, ['patch_embed'], 6),
    ('xcit_nano_12_p16_224', dict(depth=4), ['patch_embed'], 4 + 2),
]


@pytest.mark.parametrize('name, options, embedding, blocks', FAMILIES, ids=[family[0] for family in FAMILIES])
def test_families_of_timm(name, options, embedding, blocks):
    net = build(name, **options)
    layers = list_layers(net)
    listed = [key for layer in layers for key in layer.params]
    assert sorted(listed) == sorted(key for key, _ in net.named_parameters())
    frozen = {key for layer in select_layers(layers) for key in layer.params}
    below = tuple(f'{part}.' for part in embedding)
    assert frozen == {key for key, _ in net.named_parameters() if key.startswith(below)}
    assert {layer.block for layer in layers if layer.role == 'block'} == set(range(blocks))
    assert layers[-1].role == 'head' and {id(p) for p in layers[-1].params.values()} == {
        id(param) for part in _modules(net.get_classifier()) for param in part.parameters()
    }


def _modules(found) -> list[nn.Module]:
    return list(found) if isinstance(found, (tuple, list)) else [found]


@pytest.mark.parametrize('name', ['regnetx_002', 'efficientnet_b0', 'swin_tiny_patch4_window7_224', 'resnet18'])
def test_blocks_are_in_the_order_of_timms_own_groups(name):
    """``group_parameters``, by which timm decays learning rates, numbers the groups from the input."""
    net = build(name)
    groups = {key: i for i, keys in group_parameters(net, net.group_matcher()).items() for key in keys}
    order = [max(groups[key] for key in layer.params) for layer in list_layers(net) if layer.role == 'block']
    assert order == sorted(order)


WRITTEN = {
    'vit': lambda: build('vit_tiny_patch16_224', depth=4),
    'vit with pre-norm': lambda: build('vit_base_patch16_clip_224', depth=4),
    'distilled': lambda: build('deit_tiny_distilled_patch16_224', depth=4),
    'attention pooling': lambda: build('vit_base_patch16_siglip_224', depth=4),
    'hybrid': lambda: build('vit_small_r26_s32_224', depth=4),
    'hybrid with a stem alone': lambda: build('vit_tiny_r_s16_p8_224', depth=4),
    'convolutional patch embedding': lambda: build('vit_base_mci_224', depth=4),
    'convnext': lambda: build('convnext_atto'),
    'convnext with a hidden layer': lambda: build('convnext_large_mlp', depths=(1, 1, 2, 1)),
    'bit': lambda: build('resnetv2_50x1_bit'),
    'open_clip': lambda: tower('ViT-B-16', vision_cfg=dict(layers=4, width=256)),
    'coca': lambda: tower('coca_ViT-B-32'),
}


def tower(name: str, **options) -> nn.Module:
    with torch.device('meta'):
        return OpenCLIPVisionTower(name, **options).net


@pytest.mark.parametrize('name', WRITTEN)
def test_the_verified_list_equals_the_one_written_by_hand(name):
    net = WRITTEN[name]()
    by_hand, verified = (owners_of(net, entries) for entries in (register.written_list(net)(net), generic_list(net)))
    assert {key: (entry.role, entry.block) for key, entry in by_hand.items()} == {
        key: (entry.role, entry.block) for key, entry in verified.items()
    }
    assert set(by_hand) == {key for key, _ in net.named_parameters()}


def test_towers_of_open_clip_are_listed_by_their_trunk_and_pooling_is_a_projection():
    layers = list_layers(tower('ViT-B-16-SigLIP'))
    assert layers[0].name == 'patch_embed' and list(layers[0].params) == [
        'trunk.patch_embed.proj.weight',
        'trunk.patch_embed.proj.bias',
    ]
    projection = [layer for layer in layers if layer.role == 'projection']
    assert all(key.startswith('trunk.attn_pool.') for layer in projection for key in layer.params)
    assert 'head' not in {layer.role for layer in layers}
    layers = list_layers(tower('RN50'))
    assert {layer.block for layer in layers if layer.role == 'block'} == set(range(4 + 6 + 3))
    frozen = {key.partition('.')[0] for layer in layers if layer.role == 'embed' for key in layer.params}
    assert frozen == {'conv1', 'bn1', 'conv2', 'bn2', 'conv3', 'bn3', 'layer1'}
    assert [list(layer.modules) for layer in layers if layer.role == 'projection'] == [['attnpool']]
    layers = list_layers(tower('convnext_base'))
    assert [layer.name for layer in layers if layer.role == 'embed'][:2] == ['stem', 'stages.0.blocks.0']


def test_the_papers_figure_leaves_out_no_whole_block():
    parts = paper_parts(list_layers(build('beit_base_patch16_224', **_TINY)))
    assert [parts[f'blocks.{i}'] for i in range(6)] == ['middle'] * 6 and parts['cls_token'] == ''


def test_a_users_subclass_of_a_library_network_is_listed():
    class Mine(timm.models.regnet.RegNet):
        pass

    net = build('regnetx_002')
    expected = [layer.name for layer in list_layers(net)]
    net.__class__ = Mine
    assert [layer.name for layer in list_layers(net)] == expected


def small(**options) -> nn.Module:
    """A classifier around a small convnet with batch norms whose list is verified."""
    torch.manual_seed(0)
    backbone = dict(type='TimmPooledBackbone', model_name='resnet18', **options)
    return classifier(backbone, num_features=512)


@pytest.mark.parametrize('options', [{}, dict(channels_last=True), dict(grad_checkpointing=True)], ids=str)
def test_a_wrapped_and_trained_classifier_keeps_its_list(options):
    model = small(**options)
    names = [(layer.name, layer.role, layer.block) for layer in list_layers(model)]
    assert names[0] == ('stem', 'embed', None) and names[-1] == ('head', 'head', None)
    freeze_layers(model, select_layers(list_layers(model)))
    model.train()
    loss = model(torch.randn(2, 3, 32, 32)).sum()
    loss.backward()
    before = copy.deepcopy(model.state_dict())
    for wrapped in (nn.DataParallel(model), copy.deepcopy(model)):
        assert [(layer.name, layer.role, layer.block) for layer in list_layers(wrapped)] == names
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_gradual_unfreezing_opens_the_blocks_of_a_verified_list_from_the_top():
    model = small()
    optim_wrapper = build_optim_wrapper(
        model, dict(optimizer=dict(type='SGD', lr=0.1), constructor=FreezeEmbedOptimWrapperConstructor)
    )
    scheduler = GradualUnfreezingLR(optim_wrapper.optimizer, decay=1.0, begin=0, end=6, by_epoch=False)
    keep_eval_mode(model)
    images, opened = torch.randn(2, 3, 32, 32), []
    for _ in range(6):
        model.train()
        before = {key: value.clone() for key, value in model.state_dict().items() if 'running_mean' in key}
        optim_wrapper.update_params(model(images).square().mean())
        layers = list_layers(model)
        trained = {layer.block for layer in layers if layer.block is not None and _trains(layer)}
        opened.append(len(trained))
        assert trained == set(range(6 - len(trained), 6))
        for layer in layers:
            for name, module in layer.modules.items():
                assert module.training == _trains(layer), name
        moved = {key for key, value in model.state_dict().items() if key in before and (value != before[key]).any()}
        assert moved == {key for key in before if any(key.startswith(f'{name}.') or key == name for layer in layers
                                                      if _trains(layer) for name in layer.modules)}  # fmt: skip
        scheduler.step()
    assert opened == sorted(opened) and opened[0] < opened[-1] == 6


def _trains(layer) -> bool:
    return any(param.requires_grad for param in layer.params.values())


def test_a_refusal_names_the_class_and_prints_a_list_that_works_when_pasted():
    net = build('test_resnet')
    with pytest.raises(UserError, match=r'^no layer list for timm\.models\.resnet\.ResNet \(only 3 blocks') as caught:
        list_layers(net)
    message = str(caught.value)
    assert '\n' not in message
    with pasted(message.partition('correct its roles: ')[2]):
        layers = list_layers(net)
        assert sorted(key for layer in layers for key in layer.params) == sorted(dict(net.named_parameters()))
        assert layers[0].role == 'embed' and {layer.block for layer in layers if layer.role == 'block'} == set(range(4))
    with pytest.raises(UserError):
        list_layers(net)


@contextlib.contextmanager
def pasted(code: str):
    with mock.patch.dict(register._LAYER_LISTS):
        exec(code, {})
        yield


def test_a_network_of_another_kind_with_the_parts_of_a_library_is_not_taken_for_one():
    block = timm.models.convnext.ConvNeXtBlock(8)
    assert layer_list_of(block) is None


# Width of the features, where timm's ``num_features`` is another number (MobileNetV3, HGNet), and of others.
@pytest.mark.parametrize('name', ['mobilenetv3_small_050', 'hgnetv2_b0', 'regnetx_002', 'samvit_base_patch16'])
def test_features_have_the_declared_width(name):
    options = dict(depth=1, embed_dim=32, num_heads=2, img_size=64) if name.startswith('samvit') else {}
    backbone = TimmPooledBackbone(name, **options).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (features,) = backbone(images)
        direct = backbone.net(images)
    assert features.shape == (2, backbone.num_features)
    torch.testing.assert_close(features, direct if direct.ndim == 2 else direct.mean((2, 3)))


def test_coca_returns_its_pooled_features_alone():
    backbone = OpenCLIPVisionTower(
        'coca_ViT-B-32', image_size=32, vision_cfg=dict(layers=1, width=64, patch_size=16)
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        (features,) = backbone(images)
        pooled, tokens = backbone.net(images)
    assert features.shape == (2, backbone.num_features) and tokens.ndim == 3
    torch.testing.assert_close(features, pooled)
