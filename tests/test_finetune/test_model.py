"""Models of every library become a config that fits: features, image size, preprocessing, weights."""

import pytest
import torch

from ftsgd_plugin.finetune.config import test_pipeline, train_pipeline
from ftsgd_plugin.finetune.model import find_model
from ftsgd_plugin.finetune.options import Options
from ftsgd_plugin.utils.errors import UserError


def model(name: str, **options):
    return find_model(Options('data', name, **{'pretrained': False, **options}))


@pytest.mark.parametrize(
    'name, size, features, crop_pct, interpolation, neck',
    [
        ('timm/test_vit', 64, 64, 0.95, 'bicubic', ''),
        ('timm/test_resnet', 96, 96, 0.95, 'bilinear', ''),
        ('torchvision/squeezenet1_1', 64, 512, 0.875, 'bilinear', ''),
        ('mmpretrain/resnet18_8xb32_in1k', 64, 512, 0.875, 'bilinear', 'GlobalAveragePooling'),
    ],
)
def test_a_network_of_a_library(name, size, features, crop_pct, interpolation, neck):
    found = model(name, image_size=size)
    assert (found.num_features, found.crop_pct, found.interpolation) == (features, crop_pct, interpolation)
    assert found.neck.get('type', '') == neck and f'images of {size} x {size}, random weights' in found.lines[0]
    resize, crop = test_pipeline(found, ('img_path',))[1:3]
    assert (resize['size'], crop['size']) == (int(size / crop_pct), size)
    assert train_pipeline(found)[1] == dict(
        type='torchvision/RandomResizedCrop', size=size, interpolation=interpolation
    )


def test_a_part_takes_another_file_and_no_weights(tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save({'backbone.cls_token': torch.zeros(1, 1, 64)}, weights)  # of a whole classifier
    assert model('vit-tiny', pretrained=True).backbone == {}
    assert model('vit-tiny').backbone == {'init_cfg': None}
    changed = model('vit-tiny', pretrained=str(weights)).backbone
    assert changed == {'init_cfg': dict(type='Pretrained', checkpoint=str(weights), prefix='backbone.')}


@pytest.mark.parametrize(
    'name, options, said',
    [
        ('timm/vit_tiny_patch16_225', {}, 'timm/vit_tiny_patch16_224'),
        ('torchvison/resnet50', {}, 'did you mean torchvision/resnet50'),
        ('resnet51', {}, 'timm/resnet50'),
        ('clip-vit-b61', {}, "did you mean 'clip-vit-b16'"),
        ('torchvision/squeezenet1_1', {'image_size': 8}, '--image-size 8: the model does not take it ('),
    ],
)
def test_what_does_not_exist_or_fit_is_one_line(name, options, said):
    with pytest.raises(UserError) as error:
        model(name, **options)
    assert said in str(error.value) and '\n' not in str(error.value)
