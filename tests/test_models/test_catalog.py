"""Models of all libraries by name: what find_model says against the libraries' own configs."""

import open_clip
import pytest
import timm
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torchvision import models as torchvision_models

from ftsgd_plugin.models.catalog import closest, find_model
from ftsgd_plugin.utils.errors import UserError


def test_timm_with_and_without_tag():
    source = find_model('timm/vit_small_patch14_dinov2.lvd142m')
    cfg = timm.get_pretrained_cfg('vit_small_patch14_dinov2.lvd142m')
    assert source.backbone == dict(
        type='TimmPooledBackbone', model_name='vit_small_patch14_dinov2.lvd142m', pretrained=True
    )
    assert source.mean == pytest.approx([255 * value for value in cfg.mean])
    assert source.std == pytest.approx([255 * value for value in cfg.std])
    assert (source.image_size, source.crop_pct, source.interpolation) == (518, cfg.crop_pct, cfg.interpolation)
    assert (source.num_features, source.licence, source.pretrained) == (384, cfg.license, True)
    assert find_model('timm/vit_small_patch14_dinov2') == source
    assert source.licence == 'apache-2.0'


def test_a_timm_network_without_weights_is_found_and_says_so():
    source = find_model('timm/efficientnet_b0_g16_evos')
    assert not source.pretrained and source.backbone['pretrained'] is False


def test_open_clip():
    source = find_model('open_clip/ViT-B-16-SigLIP/webli')
    cfg = open_clip.get_pretrained_cfg('ViT-B-16-SigLIP', 'webli')
    assert source.backbone == dict(
        type='OpenCLIPVisionTower', model_name='ViT-B-16-SigLIP', pretrained=True, tag='webli'
    )
    assert source.mean == pytest.approx([255 * value for value in cfg['mean']])
    assert (source.image_size, source.num_features) == (224, 768)
    assert find_model('open_clip/ViT-B-16/openai').licence == 'MIT'


@pytest.mark.parametrize('weights', ['', '/IMAGENET1K_V1'])
def test_torchvision(weights):
    if 'TorchvisionBackbone' not in MODELS:
        pytest.skip('the backbone over torchvision is not here yet')
    source = find_model(f'torchvision/resnet18{weights}')
    preset = torchvision_models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert source.name == 'torchvision/resnet18/IMAGENET1K_V1' and source.num_features == 512
    assert source.mean == pytest.approx([255 * value for value in preset.mean])
    assert (source.image_size, source.crop_pct) == (224, 224 / 256)


def test_mmpretrain():
    source = find_model('mmpretrain/resnet18_8xb32_in1k')
    assert source.backbone['type'] == 'mmpretrain.ResNet' and source.backbone['depth'] == 18
    assert source.backbone['init_cfg']['checkpoint'].endswith('.pth') and source.pretrained
    assert (source.mean, source.num_features, source.image_size) == ((123.675, 116.28, 103.53), 512, 224)
    assert source.crop_pct == 224 / 256


@pytest.mark.parametrize('name', ['timm/test_resnet', 'open_clip/RN50/openai'])
def test_the_backbone_builds_and_has_that_many_features(name):
    init_default_scope('mmpretrain')
    source = find_model(name)
    with torch.device('meta'):
        backbone = MODELS.build({**source.backbone, 'pretrained': False})
        (features,) = backbone.eval()(torch.empty(2, 3, source.image_size, source.image_size))
    assert features.shape == (2, source.num_features)


@pytest.mark.parametrize(
    'name, message',
    [
        ('timm/vit_smal_patch14_dinov2', r'timm has no such model; did you mean timm/vit_small_patch14_dinov2'),
        (
            'vit_small_patch14_dinov2',
            r'name one of timm/NAME, open_clip/NAME, .*; did you mean timm/vit_small_patch14_d',
        ),
        ('timm/vit_small_patch14_dinov2.lvd', 'timm has no such model; did you mean .*lvd142m'),
        ('open_clip/ViT-B-16/opnai', r'open_clip has no such model; did you mean open_clip/ViT-B-16/openai'),
        ('timm/ViT-B-16-SigLIP', 'did you mean .*open_clip/ViT-B-16-SigLIP'),
        ('torchvision/resnet81', 'torchvision has no such model; did you mean torchvision/resnet18'),
        ('timm/', 'name one of timm/NAME'),
        ('', 'name one of timm/NAME'),
        ('timm/zzzzzzzzzzzzzzzzz', r'no such model; tools/print_layers\.py --help names the libraries\.'),
    ],
)
def test_a_mistaken_name_is_one_line_with_the_closest_names_of_all_libraries(name, message):
    with pytest.raises(UserError, match=message) as caught:
        find_model(name)
    assert '\n' not in str(caught.value)


def test_closest_names_are_names_that_are_found():
    names = closest('timm/resnet_10t')
    assert 'timm/resnet10t' in names
    assert all(find_model(name).num_features for name in names if name.startswith(('timm/', 'open_clip/')))
