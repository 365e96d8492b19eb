"""The 210 configs with the backbones of small_models.py and images of their size, put together from the parts."""

import functools
from copy import deepcopy

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ftsgd_plugin.sweep.image_size import set_image_size
from helpers import ROOT
from helpers.small_models import SMALL

CLASSES = {'living17': 17, 'waterbirds': 2, 'domainnet': 40, 'fmow': 62, 'camelyon': 2}


@functools.cache
def part(name: str) -> dict:
    return Config.fromfile(ROOT / f'configs/_base_/{name}.py').to_dict()


@functools.cache
def features(model: str) -> int:
    init_default_scope('mmpretrain')
    return MODELS.build(SMALL[model][0].copy()).num_features


@functools.cache
def pixels(model: str) -> int:
    backbone = SMALL[model][0]
    return 64 if model.startswith('bit') else backbone.get('image_size', backbone.get('img_size', 32))


@functools.cache
def tiny_cell(name: str) -> Config:
    """``configs/NAME.py`` with a tiny backbone of random weights."""
    model, method, dataset = name.split('_')
    paths = (f'models/{model}', f'methods/{method}', f'datasets/{dataset}', 'runtime')
    cfg = Config(deepcopy({key: value for path in paths for key, value in part(path).items()}))
    cfg.model.backbone = dict(SMALL[model][0])
    cfg.model.head.update(num_classes=CLASSES[dataset], in_channels=features(model))
    if dataset != 'fmow':  # has its images as they are
        set_image_size(cfg, pixels(model))
    else:
        resize = dict(type='torchvision/Resize', size=(pixels(model), pixels(model)))
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            for one in loader.dataset.get('datasets', [loader.dataset]):
                one.pipeline.insert(1, resize)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.num_workers = 0
    return cfg
