"""Data sets with and without the image cache, compared sample by sample."""

from pathlib import Path

import torch
from mmpretrain.registry import DATASETS

from ftsgd_plugin.datasets import GroupedImages
from ftsgd_plugin.datasets.image_cache import CachedImage

LOAD, PACK = dict(type='mmpretrain.LoadRGBImage'), dict(type='mmpretrain.PackRGB')
RESIZE = dict(type='mmpretrain.torchvision/Resize', size=(12, 10), interpolation='bicubic')
FLIP = dict(type='mmpretrain.torchvision/RandomHorizontalFlip', p=0.5)
JITTER = dict(type='mmpretrain.torchvision/ColorJitter', brightness=0.5)
INPUTS = dict(type='mmpretrain.PackInputs')
OWN = [LOAD, RESIZE, FLIP, PACK, INPUTS]


def pair(settings: dict, place: Path):
    """A data set without and with the cache."""
    settings = {'_scope_': 'mmpretrain', **settings}
    return DATASETS.build(settings), DATASETS.build({**settings, 'image_cache': str(place)})


def uses_cache(dataset) -> bool:
    return isinstance(dataset.pipeline.transforms[0], CachedImage)


def draw(dataset, index: int):
    torch.manual_seed(index)
    return dataset[index]


def assert_same_samples(plain, cached) -> None:
    assert len(plain) == len(cached) > 0
    for i in range(len(plain)):
        expected, found = draw(plain, i), draw(cached, i)
        assert found['inputs'].dtype == torch.uint8 and torch.equal(expected['inputs'], found['inputs'])
        assert found['inputs'].stride() == expected['inputs'].stride()
        one, other = (sample['data_samples'] for sample in (expected, found))
        assert one.to_dict().keys() == other.to_dict().keys() and one.metainfo == other.metainfo
        assert torch.equal(one.gt_label, other.gt_label)


def own(root: Path, place=False, **options) -> GroupedImages:
    options = {'split': 'train', 'pipeline': OWN, **options}
    return GroupedImages(
        str(root), tree='domain/class', draw=dict(val=0.2), image_cache=place and str(place), **options
    )


def logged(caplog) -> str:
    return '\n'.join(record.getMessage() for record in caplog.records)
