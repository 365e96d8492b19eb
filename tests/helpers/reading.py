"""What the tests of this folder share: each benchmark with one split, a pipeline that keeps pixels, records."""

from ftsgd_plugin.datasets import Camelyon17, DomainNet, FMoW, Living17

PIPELINE = [
    dict(type='mmpretrain.LoadRGBImage'),
    dict(type='mmpretrain.PackRGB'),
    dict(type='mmpretrain.PackInputs', meta_keys=('img_path', 'split', 'group')),
]


def records(dataset) -> list[dict]:
    return [dataset.get_data_info(i) for i in range(len(dataset))]


KINDS = {
    'camelyon_root': (Camelyon17, 'train'),
    'fmow_root': (FMoW, 'test'),
    'imagenet_root': (Living17, 'train'),
    'domainnet_root': (DomainNet, 'real_train'),
}
