"""For the tests of data sets: each benchmark with one split, a pipeline that keeps the pixels, records."""

from ftsgd_plugin.datasets import Camelyon17, DomainNet, FMoW, Living17
from ftsgd_plugin.datasets.base import META_KEYS

PIPELINE = [
    dict(type='mmpretrain.LoadRGBImage'),
    dict(type='mmpretrain.PackRGB'),
    dict(type='mmpretrain.PackInputs', meta_keys=META_KEYS),
]


def records(dataset) -> list[dict]:
    return [dataset.get_data_info(i) for i in range(len(dataset))]


KINDS = {
    'camelyon_root': (Camelyon17, 'train'),
    'fmow_root': (FMoW, 'test'),
    'imagenet_root': (Living17, 'train'),
    'domainnet_root': (DomainNet, 'real_train'),
}
