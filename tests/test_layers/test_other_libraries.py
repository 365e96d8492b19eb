"""Verified lists of MMPretrain, torchvision and transformers, against lists by hand and what the libraries count."""

import re
from collections.abc import Callable, Iterable

import pytest
import torch
import torchvision
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from ftsgd_plugin.freezing import freeze_layers, select_layers
from ftsgd_plugin.layers import Entry, Layer, list_layers
from ftsgd_plugin.layers.generic import generic_list
from ftsgd_plugin.layers.trace import owners_of
from ftsgd_plugin.utils.errors import UserError

transformers = pytest.importorskip('transformers')


def mmpretrain(**cfg) -> nn.Module:
    return MODELS.build({**cfg, 'type': f'mmpretrain.{cfg["type"]}'})


def on_meta(**cfg) -> nn.Module:
    """A backbone of MMPretrain that reads no number from a tensor while it is built."""
    with torch.device('meta'):
        return mmpretrain(**cfg)


def fast(cases: Iterable, chosen: set[str]) -> list:
    """The chosen cases for the fast tests; the others are slow."""
    return [case if case in chosen else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def vision(name: str) -> nn.Module:
    with torch.device('meta'):
        return torchvision.models.get_model(name, weights=None)


def hugging_face(config: str, model: str, **options) -> nn.Module:
    with torch.device('meta'):
        return getattr(transformers, model)(getattr(transformers, config)(**options))


def counts(layers: list[Layer]) -> tuple[int, int]:
    """Parameters of the embedding and number of blocks."""
    embedding = sum(layer.num_params for layer in layers if layer.role == 'embed')
    return embedding, len({layer.block for layer in layers if layer.role == 'block'})


def stages(net: nn.Module, entries: list[Entry]) -> dict[str, tuple]:
    return {name: (entry.role, entry.block) for name, entry in owners_of(net, entries).items()}


@pytest.mark.parametrize('cfg', [
    dict(type='VisionTransformer', arch='deit-tiny', img_size=32),
    pytest.param(dict(type='VisionTransformer', arch='deit-tiny', pre_norm=True), marks=pytest.mark.slow),
    dict(type='ConvNeXt', arch='atto'),
    dict(type='ResNet', depth=18),
    pytest.param(dict(type='ResNet', depth=18, deep_stem=True), marks=pytest.mark.slow),
    pytest.param(dict(type='SwinTransformer', arch='tiny'), marks=pytest.mark.slow),
], ids=['vit', 'vit pre_norm', 'convnext', 'resnet', 'resnet deep stem', 'swin'])  # fmt: skip
def test_the_verified_list_places_every_parameter_as_the_list_written_by_hand(cfg):
    net = mmpretrain(**cfg)
    found = {name: (layer.role, layer.block) for layer in list_layers(net) for name in layer.params}
    assert stages(net, generic_list(net)) == found


# First parts of the names that the embedding has, and number of blocks, from the papers: depths less the first stage
# where it is part of the embedding, VGG-11's other convolutions and hidden linear layers.
_BEIT = dict(embed_dims=96, num_layers=4, num_heads=2, feedforward_channels=384)
MMPRETRAIN = {
    'DeiT3': (dict(arch='small', img_size=32), {'patch_embed'}, 12),
    'ViTEVA02': (dict(arch='tiny', img_size=28, patch_size=14), {'patch_embed'}, 12),
    'BEiTViT': (dict(arch=_BEIT), {'patch_embed'}, 4),
    'SwinTransformerV2': (dict(arch='tiny', img_size=64, window_size=2), {'patch_embed'}, 12),
    'T2T_ViT': (dict(img_size=32), {'tokens_to_token'}, 14),
    'Conformer': (dict(arch='tiny'), {'conv1', 'bn1', 'conv_1', 'trans_patch_conv'}, 12),
    'LeViT': (dict(arch='128s'), {'patch_embed', 'stages.0'}, 18),
    'PoolFormer': (dict(arch='s12'), {'patch_embed', 'network.0'}, 10),
    'VAN': (dict(arch='tiny'), {'patch_embed1', 'blocks1'}, 10),
    'PCPVT': (dict(arch='small'), {'patch_embeds.0'}, 16),
    'MobileNetV2': (dict(), {'conv1', 'layer1'}, 16),
    'MobileNetV3': (dict(), {'layer0', 'layer1'}, 10),
    'RegNet': (dict(arch='regnetx_400mf'), {'conv1', 'bn1', 'layer1'}, 21),
    'RepVGG': (dict(arch='A0'), {'stem', 'stage_1'}, 19),
    'ShuffleNetV2': (dict(), {'conv1', 'layers.0'}, 12),
    'VGG': (dict(depth=11, num_classes=3), {'features.0', 'features.2'}, 8),
    'EdgeNeXt': (dict(arch='xxsmall'), {'downsample_layers.0', 'stages.0'}, 10),
}


@pytest.mark.parametrize('name', fast(MMPRETRAIN, {'BEiTViT', 'PoolFormer', 'RepVGG', 'VGG', 'ViTEVA02'}))
def test_backbones_of_mmpretrain(name):
    cfg, embedding, blocks = MMPRETRAIN[name]
    net = (on_meta if name == 'VGG' else mmpretrain)(type=name, **cfg)
    layers = list_layers(net)
    listed = [key for layer in layers for key in layer.params]
    assert sorted(listed) == sorted(key for key, _ in net.named_parameters())
    frozen = [key for layer in select_layers(layers) for key in layer.params]
    assert {part for key in frozen for part in embedding if key.startswith(f'{part}.')} == embedding
    assert all(key.startswith(tuple(f'{part}.' for part in embedding)) for key in frozen)
    assert counts(layers)[1] == blocks


@pytest.mark.parametrize('cfg', [
    dict(type='BEiTViT', arch=_BEIT),
    dict(type='MixMIMTransformer', arch=dict(embed_dims=16, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2])),
    pytest.param(dict(type='ViTSAM', arch='base'), marks=pytest.mark.slow),
], ids=['BEiTViT', 'MixMIMTransformer', 'ViTSAM'])  # fmt: skip
def test_blocks_are_in_the_order_of_mmpretrains_own_layer_depth(cfg):
    """``get_layer_depth``, by which MMPretrain decays learning rates, numbers the blocks from the input."""
    with torch.device('meta') if cfg['type'] == 'ViTSAM' else torch.device('cpu'):
        net = mmpretrain(**cfg)
    blocks = {}
    for layer in list_layers(net):
        depths = {net.get_layer_depth(name)[0] for name in layer.params}
        if layer.role == 'block':
            blocks.setdefault(layer.block, set()).update(depths)
    order = [max(depths) for depths in blocks.values()]  # patch merging has the depth of the block before it
    assert order == list(range(1, len(blocks) + 1))


# Of torchvision's families: parameters of the embedding by its papers' sizes where they are simple, and blocks.
TORCHVISION = {
    'resnet18': (9_408 + 128 + 147_968, 6),
    'vit_b_32': (3 * 32 * 32 * 768 + 768, 12),
    'swin_t': (4_608 + 96 + 192, 12),
    'convnext_tiny': (None, 15),  # depths 3, 3, 9, 3
    'squeezenet1_1': (None, 6),  # eight fire modules, two in the first stage
    'mobilenet_v2': (None, 16),  # seventeen, one in the first stage
    'shufflenet_v2_x0_5': (None, 12),
    'alexnet': (None, 5),  # three convolutions and two hidden linear layers
    'vgg11_bn': (None, 8),
    'mnasnet0_5': (None, 13),
}


@pytest.mark.parametrize(
    'name', fast(TORCHVISION, {'alexnet', 'mnasnet0_5', 'resnet18', 'shufflenet_v2_x0_5', 'squeezenet1_1', 'vgg11_bn'})
)
def test_networks_of_torchvision(name):
    embedding, blocks = TORCHVISION[name]
    net = vision(name)
    layers = list_layers(net)
    assert counts(layers)[1] == blocks
    assert embedding is None or counts(layers)[0] == embedding
    last = [name for name, module in net.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    assert layers[-1].role == 'head' and set(layers[-1].params) >= {f'{last}.weight'}
    assert sum(layer.num_params for layer in layers) == sum(param.numel() for param in net.parameters())


_VIT = dict(hidden_size=64, num_hidden_layers=4, num_attention_heads=2, intermediate_size=256, image_size=32)
TRANSFORMERS = {
    'ViTForImageClassification': ('ViTConfig', dict(patch_size=8, **_VIT)),
    'Dinov2Model': ('Dinov2Config', dict(patch_size=8, **_VIT)),
    'DINOv3ViTModel': ('DINOv3ViTConfig', dict(patch_size=8, **_VIT)),
    'BeitForImageClassification': ('BeitConfig', dict(patch_size=8, **_VIT)),
    'CLIPVisionModelWithProjection': ('CLIPVisionConfig', dict(patch_size=8, **_VIT)),
    'SiglipVisionModel': ('SiglipVisionConfig', dict(patch_size=8, **_VIT)),
    'Siglip2VisionModel': ('Siglip2VisionConfig', dict(patch_size=8, **_VIT)),
}  # fmt: skip


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_vision_transformers_of_transformers(name):
    config, options = TRANSFORMERS[name]
    net = hugging_face(config, name, **options)
    layers = list_layers(net)
    assert [layer.block for layer in layers if layer.role == 'block'] == list(range(4))
    (embedding,) = [layer for layer in layers if layer.role == 'embed']
    convolutions = [key for key in embedding.params if re.search(r'patch_embedding|projection', key)]
    norms = [key for key in embedding.params if 'pre_layrnorm' in key]
    assert convolutions and set(convolutions + norms) == set(embedding.params)
    assert bool(norms) == name.startswith('CLIP')  # its ln_pre
    roles = {layer.role for layer in layers}
    assert ('projection' in roles) == name.startswith(('CLIP', 'Siglip'))  # its projection, their attention pooling
    assert ('head' in roles) == name.endswith('Classification')


@pytest.mark.slow
@pytest.mark.parametrize('ours, theirs', [
    (lambda: hugging_face('ResNetConfig', 'ResNetModel'), lambda: mmpretrain(type='ResNet', depth=50)),
    (lambda: hugging_face('SwinConfig', 'SwinModel'), lambda: mmpretrain(type='SwinTransformer', arch='tiny')),
    (lambda: hugging_face('ConvNextConfig', 'ConvNextModel'), lambda: mmpretrain(type='ConvNeXt', arch='tiny')),
], ids=['resnet', 'swin', 'convnext'])  # fmt: skip
def test_one_network_in_two_libraries_has_blocks_of_one_size(ours: Callable, theirs: Callable):
    """Against MMPretrain's networks, whose lists are written by hand."""
    sizes = [
        [layer.num_params for layer in list_layers(build()) if layer.role in ('embed', 'block')]
        for build in (ours, theirs)
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize('build, reason', [
    (lambda: mmpretrain(type='AlexNet'), 'AlexNet (only 3 blocks are found, and 4 are needed)'),
    (lambda: mmpretrain(type='LeNet5', num_classes=3), 'LeNet5 (only 2 blocks are found, and 4 are needed)'),
    (lambda: on_meta(type='RepMLPNet', arch='B'), 'RepMLPNet (the embedding would be 29% of the parameters'),
], ids=['alexnet', 'lenet', 'repmlp'])  # fmt: skip
def test_a_network_that_fails_a_condition_is_refused_with_the_reason(build, reason):
    with pytest.raises(UserError) as caught:
        list_layers(build())
    assert reason in str(caught.value) and '\n' not in str(caught.value)


def test_mmpretrains_wrappers_of_hugging_face_and_timm(tmp_path):
    """Their classifiers hold a whole model, so the head is the model's own."""
    init_default_scope('mmpretrain')
    transformers.ViTConfig(patch_size=8, num_labels=3, **_VIT).save_pretrained(tmp_path)
    model = MODELS.build(dict(type='HuggingFaceClassifier', model_name=str(tmp_path)))
    layers = list_layers(model)
    assert list(layers[-1].params) == ['model.classifier.weight', 'model.classifier.bias']
    freeze_layers(model, select_layers(layers))
    frozen = [name for name, param in model.named_parameters() if not param.requires_grad]
    assert frozen == [f'model.vit.embeddings.patch_embeddings.projection.{kind}' for kind in ('weight', 'bias')]
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert all((param.grad is None) == (name in frozen) for name, param in model.named_parameters())

    model = MODELS.build(dict(type='TimmClassifier', model_name='vit_tiny_patch16_224', depth=4, num_classes=3))
    layers = list_layers(model)
    assert counts(layers) == (3 * 16 * 16 * 192 + 192, 4)
    assert list(layers[-1].params) == ['model.head.weight', 'model.head.bias']
