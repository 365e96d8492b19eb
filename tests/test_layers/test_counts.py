"""The layer list against the paper's counts (protocol of arXiv 2211.09359) and against the models themselves."""

import pytest
import timm
import torch
from mmpretrain.registry import MODELS
from torch import nn

from ftsgd_plugin.layers import (
    ROLES,
    list_layers,
    paper_parts,
)
from ftsgd_plugin.utils.errors import UserError

BLOCK = ['norm1', 'attn', 'norm2', 'mlp']


def mmpretrain_vit_b16(pre_norm: bool) -> nn.Module:
    with torch.device('meta'):
        return MODELS.build(
            dict(
                type='mmpretrain.ImageClassifier',
                backbone=dict(type='mmpretrain.VisionTransformer', arch='base', patch_size=16, pre_norm=pre_norm),
                head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=768),
            )
        )


def timm_vit_b16() -> nn.Module:
    with torch.device('meta'):
        return timm.create_model('vit_base_patch16_224', num_classes=10)


# Total with a 10-class head: the backbone of protocol 1.3 and 7,690 for the head. `pre_norm` is CLIP's shape without
# the projection: 86,192,640 - 393,216.
@pytest.mark.parametrize(
    'model, names, embed, total',
    [
        (lambda: mmpretrain_vit_b16(False), ['patch_embed', 'pos_embed', 'cls_token'], 590_592, 85_806_346),
        (lambda: mmpretrain_vit_b16(True), ['patch_embed', 'ln_pre', 'pos_embed', 'cls_token'], 591_360, 85_807_114),
        (timm_vit_b16, ['patch_embed', 'pos_embed', 'cls_token'], 590_592, 85_806_346),
    ],
    ids=['mmpretrain', 'mmpretrain pre_norm', 'timm'],
)
def test_vit_b16_has_the_layers_and_counts_of_the_paper(model, names, embed, total):
    layers = list_layers(model())
    blocks = [f'blocks.{i}.{part}' for i in range(12) for part in BLOCK]
    assert [layer.name for layer in layers] == [*names, *blocks, 'post_norm', 'head']
    assert sum(layer.num_params for layer in layers if layer.role == 'embed') == embed
    assert sum(layer.num_params for layer in layers) == total
    sizes = {layer.name: layer.num_params for layer in layers}
    assert [sizes[f'blocks.3.{part}'] for part in BLOCK] == [1_536, 2_362_368, 1_536, 4_722_432]
    assert sizes['pos_embed'] == 151_296
    assert [layer.block for layer in layers if layer.role == 'block'] == [i for i in range(12) for _ in BLOCK]
    assert {layer.block for layer in layers if layer.role != 'block'} == {None}
    assert {layer.role for layer in layers} <= set(ROLES)
    assert next(layer.group for layer in layers if layer.name == 'blocks.3.attn') == 'trans3_attn'


def test_clip_projection_free_pre_norm_counts_match_the_paper():
    """CLIP's frozen set is its bias-free patch convolution and ln_pre: 589,824 + 1,536."""
    layers = {layer.name: layer.num_params for layer in list_layers(mmpretrain_vit_b16(True))}
    assert (layers['patch_embed'], layers['ln_pre']) == (589_824, 1_536)


def backbone(**cfg) -> nn.Module:
    return MODELS.build({**cfg, 'type': f'mmpretrain.{cfg["type"]}'})


@pytest.mark.parametrize(
    'cfg, stem, embed, total, blocks',
    [
        # The paper's counts: MMPretrain's ConvNeXt-B is the same network.
        (dict(type='ConvNeXt', arch='base'), 'stem', 422_016, 87_566_464, 33),
        # conv1 and bn1 of ResNet-50: 9,408 + 128; its layer1: 215,808.
        (dict(type='ResNet', depth=50), 'stem', 9_408 + 128 + 215_808, 23_508_032, 13),
        (dict(type='ResNet', depth=18, deep_stem=True), 'stem', 28_768 + 147_968, 11_195_744, 6),
        # The patch convolution 4 x 4 x 3 x 96 + 96 and its norm.
        (dict(type='SwinTransformer', arch='tiny'), 'patch_embed', 4_608 + 96 + 192, 27_519_354, 12),
    ],
    ids=['convnext', 'resnet50', 'resnet18 deep stem', 'swin'],
)
def test_mmpretrains_other_backbones(cfg, stem, embed, total, blocks):
    net = backbone(**cfg)
    layers = list_layers(net)
    assert layers[0].name == stem and layers[0].role == 'embed'
    assert sum(layer.num_params for layer in layers if layer.role == 'embed') == embed
    assert sum(layer.num_params for layer in layers) == total
    assert [layer.block for layer in layers if layer.role == 'block'] == list(range(blocks))
    listed = [name for layer in layers for name in layer.params]
    assert sorted(listed) == sorted(name for name, _ in net.named_parameters())


def test_convnets_are_listed_block_by_block_with_the_first_stage_as_embedding():
    with torch.device('meta'):
        layers = list_layers(timm.create_model('resnetv2_50x1_bit', num_classes=10))
    names = [f'stages.{k}.blocks.{j}' for k, depth in enumerate((3, 4, 6, 3)) for j in range(depth)]
    assert [layer.name for layer in layers] == ['stem', *names, 'post_norm', 'head']
    assert [layer.role for layer in layers[:5]] == ['embed'] * 4 + ['block']
    assert {layer.block for layer in layers[:4]} == {None}
    assert layers[4].group == 'conv-block-1' and layers[-2].group == 'head'


@pytest.mark.parametrize('net, prefix', [
    (lambda: backbone(type='ConvNeXt', arch='atto'), 'downsample_layers.1.'),
    (lambda: timm.create_model('convnext_atto', num_classes=0), 'stages.1.downsample.'),
    (lambda: backbone(type='ResNet', depth=18), 'layer2.0.downsample.'),
    (lambda: backbone(type='SwinTransformer', arch='tiny'), 'stages.0.downsample.'),
], ids=['mmpretrain convnext', 'timm convnext', 'resnet', 'swin'])  # fmt: skip
def test_downsampling_belongs_to_the_first_block_of_its_stage(net, prefix):
    owners = {layer.name for layer in list_layers(net()) if any(name.startswith(prefix) for name in layer.params)}
    assert owners == {'stages.1.blocks.0'}


def test_position_embedding_of_swin_is_a_position():
    layers = list_layers(backbone(type='SwinTransformer', arch='tiny', use_abs_pos_embed=True))
    assert [layer.name for layer in layers if layer.role == 'position'] == ['pos_embed']


# timm's hybrids: parameters of the stem and of the convnet's first stage, blocks of the convnet's other stages.
HYBRIDS = {
    'vit_tiny_r_s16_p8_224': (7 * 7 * 3 * 64 + 128, 0, 0),  # a stem alone
    'vit_small_r26_s32_224': (9_536, 2, 6),
    'vit_small_resnet26d_224': (None, 2, 6),
}


@pytest.mark.parametrize('name', HYBRIDS)
def test_a_hybrid_freezes_stem_and_first_stage_and_not_a_whole_convnet(name):
    """The paper's rule for convnets; the ``patch_embed`` of these networks is up to 41 % of their parameters."""
    stem, first_stage, conv_blocks = HYBRIDS[name]
    with torch.device('meta'):
        net = timm.create_model(name, num_classes=10)
    layers = list_layers(net)
    listed = [key for layer in layers for key in layer.params]
    assert sorted(listed) == sorted(key for key, _ in net.named_parameters())
    embed = [layer for layer in layers if layer.role == 'embed']
    assert [layer.name for layer in embed] == ['stem', *(f'stages.0.blocks.{j}' for j in range(first_stage))]
    assert stem is None or embed[0].num_params == stem
    total = sum(layer.num_params for layer in layers)
    assert sum(layer.num_params for layer in embed) < 0.005 * total
    assert sum(param.numel() for param in net.patch_embed.parameters()) > 0.12 * total
    blocks = [layer.block for layer in layers if layer.role == 'block']
    assert blocks == sorted(blocks) and set(blocks) == set(range(conv_blocks + 1 + len(net.blocks)))
    assert next(layer.block for layer in layers if layer.name == 'patch_embed') == conv_blocks
    assert [group for group, part in paper_parts(layers).items() if not part] == [
        'pos_embed', 'cls_token', 'trans0_norm1'
    ]  # fmt: skip


def test_a_patch_embedding_of_unknown_shape_is_refused():
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(3, 8, 3)

    net = timm.create_model('vit_tiny_patch16_224', depth=1, embed_dim=12)
    net.patch_embed.backbone = Stem()
    with pytest.raises(
        UserError, match=r'the patch embedding of this VisionTransformer is a network of its own \(Stem'
    ):
        list_layers(net)


class Around(nn.Module):
    """An unknown network with MMPretrain's ResNet somewhere inside."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def test_a_tower_inside_an_unknown_network_is_refused_unless_the_rest_can_be_a_head():
    tower = backbone(type='ResNet', depth=18, stem_channels=8, base_channels=8)
    size = sum(param.numel() for param in tower.parameters())
    large, small = nn.Linear(size // 64 + 1, 64), nn.Linear(64, 10)
    for network, reason in (
        (Around(patch_embed=Around(backbone=tower), blocks=large), r'\(blocks\.weight, \.\.\.\) has 50% of it'),
        (Around(tower=tower, text=large), r'\(text\.weight, \.\.\.\) has 50% of it'),
        (Around(adapter=small, tower=tower, fc=small), r'\(adapter\.weight, \.\.\.\) comes before it'),
    ):
        with pytest.raises(
            UserError, match=f'ResNet has a layer list, but is only a part of Around: .*{reason}'
        ) as caught:
            list_layers(network)
        assert '\n' not in str(caught.value)
    for network in (
        Around(features=Around(net=tower), fc=small),
        MODELS.build(  # a classifier's head may have any size
            dict(
                type='mmpretrain.ImageClassifier',
                backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8),
                head=dict(type='mmpretrain.LinearClsHead', num_classes=size // 64 + 1, in_channels=64),
            )
        ),
    ):
        assert list_layers(network)[-1].role == 'head'
