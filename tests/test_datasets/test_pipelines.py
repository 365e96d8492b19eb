"""The pipelines of the dataset parts against torchvision's transforms on the same files, and the order of colours."""

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.dataset import Compose
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image
from torchvision import transforms as T
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import InterpolationMode

from ftsgd_plugin.datasets import Camelyon17, DomainNet, FMoW, Living17, PackRGB, Waterbirds

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR
FLIP = T.RandomHorizontalFlip()
# The authors' transforms (their yaml configs), without ToTensor.
TRAIN = {
    'living17': [T.RandomResizedCrop(224), FLIP],
    'waterbirds': [T.Resize(224, BICUBIC), T.CenterCrop(224)],
    'domainnet': [T.Resize((256, 256), BICUBIC), T.RandomCrop(224), FLIP],
    'fmow': [FLIP],
    'camelyon': [T.Resize((224, 224), BILINEAR), FLIP],
}
TEST = {
    'living17': [T.Resize(256), T.CenterCrop(224)],
    'waterbirds': TRAIN['waterbirds'],
    'domainnet': [T.Resize((224, 224), BICUBIC)],
    'fmow': [],
    'camelyon': [T.Resize((224, 224), BILINEAR)],
}
EPOCHS = dict(living17=20, waterbirds=20, domainnet=50, fmow=5, camelyon=3)
SIZES = [(500, 375), (224, 224), (96, 96), (231, 640)]


def run(pipeline, path) -> torch.Tensor:
    """The pipeline's output in RGB, (3, H, W) uint8."""
    record = dict(img_path=str(path), gt_label=0, split='s', group='g', year=0)
    return Compose([TRANSFORMS.build(step) for step in pipeline])(record)['inputs'].flip(0)


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('name', EPOCHS)
def test_pixels_equal_torchvisions(tmp_path, name, size):
    if name in ('fmow', 'camelyon'):
        size = (224, 224) if name == 'fmow' else (96, 96)
    path = tmp_path / 'a.jpg'
    Image.effect_noise(size, 90).convert('RGB').save(path, quality=90)
    cfg = Config.fromfile(ROOT / f'configs/_base_/datasets/{name}.py')
    train, test = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset.datasets[0]
    for dataset, reference in ((train, TRAIN[name]), (test, TEST[name])):
        for seed in range(4):
            torch.manual_seed(seed)
            found = run(dataset.pipeline, path)
            torch.manual_seed(seed)
            expected = T.PILToTensor()(T.Compose(reference)(pil_loader(str(path))))
            assert torch.equal(found, expected), (name, seed)


def test_exif_rotation_is_ignored_as_by_torchvision(tmp_path):
    image = Image.effect_noise((40, 60), 90).convert('RGB')
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / 'a.jpg', exif=exif)
    pipeline = [dict(type='LoadRGBImage'), dict(type='PackRGB'), dict(type='PackInputs')]
    assert torch.equal(run(pipeline, tmp_path / 'a.jpg'), T.PILToTensor()(pil_loader(str(tmp_path / 'a.jpg'))))


OURS = [dict(type='LoadRGBImage'), dict(type='PackRGB'), dict(type='PackInputs')]
STOCK = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]  # as in MMPretrain's configs: BGR
PREPROCESSORS = {
    'our model part': Config.fromfile(ROOT / 'configs/_base_/models/vit-b16.py').model.data_preprocessor,
    'stock': dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True),
    'stock, ImageNet': dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
}


@pytest.mark.parametrize('pipeline', [OURS, STOCK], ids=['our pipeline', 'stock pipeline'])
@pytest.mark.parametrize('preprocessor', PREPROCESSORS)
def test_colours_are_right_for_every_pipeline_with_every_preprocessor(tmp_path, pipeline, preprocessor):
    """The backbone gets red, green and blue, each normalised by its own mean, whichever parts are combined."""
    red, green, blue = colour = 250, 100, 10
    Image.new('RGB', (6, 4), colour).save(tmp_path / 'a.png')
    sample = Compose([TRANSFORMS.build(step) for step in pipeline])(dict(img_path=str(tmp_path / 'a.png'), gt_label=0))
    assert sample['inputs'].dtype == torch.uint8 and sample['inputs'][:, 0, 0].tolist() == [blue, green, red]
    options = PREPROCESSORS[preprocessor]
    model = MODELS.build(dict(type='ClsDataPreprocessor', **options))
    inputs = model(dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']]))['inputs']
    expected = (torch.tensor(colour) - torch.tensor(options['mean'])) / torch.tensor(options['std'])
    torch.testing.assert_close(inputs, expected[None, :, None, None].expand(1, 3, 4, 6))


def test_packing_does_not_change_the_values_of_the_pixels():
    image = np.random.RandomState(0).randint(0, 256, (5, 7, 3), dtype=np.uint8)
    for given in (image, Image.fromarray(image)):
        packed = PackRGB()(dict(img=given))
        assert packed['img'].is_contiguous() and packed['img_shape'] == (5, 7)
        assert np.array_equal(packed['img'].flip(0).permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize('name', EPOCHS)
def test_budget_and_selection_are_the_papers(name):
    cfg = Config.fromfile(ROOT / f'configs/vit-b16_freeze-embed_{name}.py')
    assert cfg.train_cfg == dict(type='ResumableEpochTrainLoop', max_epochs=EPOCHS[name], val_interval=1)
    assert cfg.train_dataloader.batch_size == cfg.val_dataloader.batch_size == 32
    assert cfg.default_hooks.checkpoint.save_best == 'id/accuracy'
    assert cfg.train_dataloader.get('drop_last', False) is False
    splits = [dataset.split for dataset in cfg.val_dataloader.dataset.datasets]
    for subset in (cfg.val_evaluator.id, cfg.val_evaluator.ood):
        assert (subset if isinstance(subset, str) else subset.split) in splits


def test_classes_of_the_configs_are_those_of_the_datasets():
    kinds = dict(camelyon=Camelyon17, domainnet=DomainNet, fmow=FMoW, living17=Living17, waterbirds=Waterbirds)
    for name, kind in kinds.items():
        cfg = Config.fromfile(ROOT / f'configs/vit-b16_freeze-embed_{name}.py')
        assert cfg.model.head.num_classes == len(kind.METAINFO['classes'])
