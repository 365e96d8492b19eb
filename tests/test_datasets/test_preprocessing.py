"""The description of a run's preprocessing, against what its pipeline does to an image."""

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from helpers import ROOT
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from PIL import Image
from torchvision.transforms import InterpolationMode

from ftsgd_plugin.datasets.preprocessing import Preprocessing, describe_preprocessing


def described(pipeline: list, **data_preprocessor) -> Preprocessing:
    dataset = dict(type='ConcatDataset', datasets=[dict(type='X', pipeline=pipeline)])
    return describe_preprocessing(Config(dict(
        model=dict(data_preprocessor=data_preprocessor), val_dataloader=dict(dataset=dataset)
    )))  # fmt: skip


def apply(found: Preprocessing, image: Image.Image) -> torch.Tensor:
    """The description in terms of torchvision."""
    steps = []
    if found.resize:
        steps.append(T.Resize(found.resize, InterpolationMode(found.interpolation)))
    if found.crop:
        steps.append(T.CenterCrop(found.crop))
    mean, std = ([value / 255 for value in values] for values in (found.mean, found.std))
    tensor = T.Compose([*steps, T.ToTensor()])(image)
    return T.Normalize(mean, std)(tensor if found.channels == 'RGB' else tensor.flip(0))


@pytest.mark.parametrize('dataset', ['camelyon', 'digits', 'domainnet', 'fmow', 'living17', 'waterbirds'])
def test_description_of_the_projects_pipelines_is_what_they_do(dataset, tmp_path):
    cfg = Config.fromfile(ROOT / f'configs/_base_/datasets/{dataset}.py')
    cfg.model = Config.fromfile(ROOT / 'configs/_base_/models/clip-vit-b16.py').model
    found = describe_preprocessing(cfg)
    assert found.channels == 'RGB' and not found.other and found.backend == 'pillow'
    coarse = np.random.RandomState(0).randint(0, 256, (7, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((311, 257), Image.Resampling.BICUBIC)
    image.save(tmp_path / 'a.png')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        sample = Compose(cfg.test_dataloader.dataset.datasets[0].pipeline)({'img_path': str(tmp_path / 'a.png')})
        normalise = MODELS.build(dict(type='ClsDataPreprocessor', **cfg.model.data_preprocessor))
    tensor = normalise({'inputs': sample['inputs'][None]})['inputs'][0]
    torch.testing.assert_close(apply(found, image), tensor, rtol=0, atol=1e-5)
    size = found.image_size
    assert size is None or tensor.shape == (3, *size)


def test_pipelines_of_mmpretrain():
    load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
    edge = dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic')
    found = described([load, edge, dict(type='CenterCrop', crop_size=224), pack], mean=[1], std=[2], to_rgb=True)
    assert found == Preprocessing([1.0], [2.0], 'RGB', 256, 'bicubic', 'pillow', [224, 224])
    assert str(found).startswith('resize the shorter side to 256 (bicubic, pillow), centre crop 224 x 224, RGB, mean')
    found = described([load, dict(type='Resize', scale=(32, 16)), pack])
    assert (found.resize, found.backend, found.channels) == ([16, 32], 'cv2', 'BGR')
    assert (found.mean, found.std) == ([0.0] * 3, [1.0] * 3)
    assert described([load, dict(type='Resize', scale=(32, 16), keep_ratio=True), pack]).other == ['Resize']
    crop = dict(type='CenterCrop', crop_size=224, efficientnet_style=True)
    assert described([load, crop, dict(type='Pad', size=(9, 9)), pack]).other == ['CenterCrop', 'Pad']


def test_without_a_pipeline_there_is_no_description():
    assert describe_preprocessing(Config(dict(model=dict()))) is None
