"""Configs in MMEngine's newer style (classes, ``read_base``) take the same paths as those with names.

Every place that looks at a ``type`` is given it as a name, a scoped name, a class, and the import path that a dumped
config has.
"""

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.model import PretrainedInit
from mmengine.optim import AmpOptimWrapper
from mmpretrain.datasets import CenterCrop, PackInputs
from mmpretrain.models import ImageClassifier, VisionTransformer
from torch import nn
from torch.optim import SGD

from ftsgd_plugin import (
    FreezeEmbedOptimWrapperConstructor,
    GradualUnfreezingLR,
    GroupAccuracy,
    SGDInBackwardOptimWrapper,
    Waterbirds,
)
from ftsgd_plugin.checkpoint.compatibility import check_pretrained
from ftsgd_plugin.evaluation.checks import check_configured_splits
from ftsgd_plugin.profiling.fake_step import image_size
from ftsgd_plugin.profiling.phases import method_of
from ftsgd_plugin.profiling.split_sizes import split_size
from ftsgd_plugin.records import run_names
from ftsgd_plugin.runner import build, run
from ftsgd_plugin.runner.config_check import check_config, check_counting
from ftsgd_plugin.runner.data_check import check_data
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.names import type_name


def styles(cls: type) -> list:
    scope = cls.__module__.partition('.')[0].replace('ftsgd_plugin', 'mmpretrain')
    return [cls.__name__, f'{scope}.{cls.__name__}', cls, f'{cls.__module__}.{cls.__qualname__}']


def in_every_style(cls: type):
    return pytest.mark.parametrize('kind', styles(cls), ids=['name', 'scoped name', 'class', 'import path'])


@in_every_style(GroupAccuracy)
@pytest.mark.parametrize('wrapped', [False, True])
def test_splits_of_the_evaluator(kind, wrapped):
    evaluator = dict(type=kind, id='val', ood='tset')
    evaluator = dict(metrics=[evaluator]) if wrapped else evaluator
    loader = dict(dataset=dict(datasets=[dict(split='val'), dict(split='test')]))
    with pytest.raises(UserError, match="split 'tset' is not in val_dataloader"):
        check_configured_splits(dict(val_dataloader=loader, val_evaluator=evaluator), 'val')


@in_every_style(AmpOptimWrapper)
def test_mixed_precision_without_a_gpu(kind, digits_config):
    cfg = digits_config(launcher='none')
    cfg.optim_wrapper.type = kind
    with pytest.raises(UserError, match=r'AmpOptimWrapper .* needs a GPU'):
        build.build_runner(cfg)


@in_every_style(SGDInBackwardOptimWrapper)
def test_sgd_in_backward(kind, digits_config, monkeypatch):
    cfg = digits_config('freeze-embed')
    cfg.optim_wrapper.type = kind
    assert method_of(cfg, 'x').in_backward
    monkeypatch.setattr(run, 'load_config', lambda *args, **options: cfg)
    with pytest.raises(
        UserError, match=r"--amp cannot be combined with optim_wrapper\.type='SGDInBackwardOptimWrapper'"
    ):
        run.train('config.py', amp=True)


@in_every_style(SGDInBackwardOptimWrapper)
def test_model_wrapper_of_sgd_in_backward(kind, monkeypatch):
    monkeypatch.setattr(build, 'is_distributed', lambda: True)
    cfg = Config(dict(launcher='pytorch', optim_wrapper=dict(type=kind)))
    build._choose_model_wrapper(cfg)
    assert cfg.model_wrapper_cfg == dict(type='InBackwardDataParallel')


@in_every_style(GradualUnfreezingLR)
def test_gradual_unfreezing(kind, digits_config):
    cfg = digits_config('gradual-unfreezing')
    cfg.param_scheduler = [dict(type='LinearLR', end=1, by_epoch=False), dict(type=kind, by_epoch=True)]
    assert method_of(cfg, 'x').gradual
    cfg.train_cfg = ConfigDict(by_epoch=False, max_iters=9)
    with pytest.raises(UserError, match=r'param_scheduler\.1: GradualUnfreezingLR counts epochs'):
        check_counting(cfg)
    cfg.param_scheduler[1].by_epoch = False
    check_counting(cfg)


@in_every_style(Waterbirds)
def test_benchmarks(kind, digits_config, tmp_path):
    cfg = digits_config()
    dataset = cfg.train_dataloader.dataset
    dataset.type = kind
    check_data(cfg, ['train_dataloader'])
    assert run_names(Config(dict(cfg)))['dataset'].rpartition('.')[2] == 'Waterbirds'
    assert split_size('waterbirds', dataset) == Waterbirds.PUBLISHED['train']
    assert [split_size('waterbirds', {**dataset, 'indices': n}) for n in (3, -3, [1, 2])] == [3, 3, 2]
    dataset.data_root = str(tmp_path)
    with pytest.raises(UserError, match=r'metadata\.csv: not found'):
        check_data(cfg, ['train_dataloader'])


@in_every_style(CenterCrop)
def test_image_size_of_a_pipeline(kind):
    pipeline = [dict(type=kind, crop_size=48), dict(type=PackInputs)]
    model = nn.Module()
    model.backbone = nn.Module()
    assert image_size(Config(dict(train_dataloader=dict(dataset=dict(pipeline=pipeline)))), model) == 48


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit, 'mmengine.model.weight_init.PretrainedInit'])
def test_pretrained_weights(kind, vit):
    model = vit()
    model.backbone.init_cfg = dict(type=kind, checkpoint='absent.pth')
    with pytest.raises(UserError, match=r'absent\.pth: no such checkpoint'):
        check_pretrained(model)


@pytest.mark.parametrize('style', range(4))
def test_keys_are_checked_alike(style, digits_config):
    cfg = digits_config()
    cfg.model.type = styles(ImageClassifier)[style]
    cfg.model.backbone.type = styles(VisionTransformer)[style]
    cfg.optim_wrapper.optimizer.type = ['SGD', 'mmengine.SGD', SGD, 'torch.optim.SGD'][style]
    cfg.optim_wrapper.constructor = styles(FreezeEmbedOptimWrapperConstructor)[style]
    check_config(cfg)
    for key, message in (
        ('optim_wrapper.optimizer.lrr', "did you mean 'lr'"),
        ('optim_wrapper.paramwise_cfg.frieze', "did you mean 'freeze'"),
        ('model.backbone.imgsize', "did you mean 'img_size'"),
    ):
        wrong = Config(cfg.to_dict() if style != 2 else dict(cfg))
        wrong.merge_from_dict({key: 1})
        with pytest.raises(UserError, match=message):
            check_config(wrong)


NEWER = """
from mmengine.config import read_base

from mmpretrain.models import ImageClassifier, LinearClsHead, VisionTransformer
from ftsgd_plugin import GradualUnfreezingLR, FreezeEmbedOptimWrapperConstructor
from torch.optim import SGD

default_scope = 'mmpretrain'
head = dict(type=LinearClsHead, {head})
model = dict(type=ImageClassifier, backbone=dict(type=VisionTransformer, arch='b'), head=head)
optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.1), constructor=FreezeEmbedOptimWrapperConstructor)
param_scheduler = dict(type=GradualUnfreezingLR)
"""


def test_a_file_in_the_newer_style(tmp_path):
    path = tmp_path / 'newer.py'
    path.write_text(NEWER.format(head='num_classes=2, in_channels=768'))
    cfg = build.read_config(str(path))
    check_config(cfg)
    assert method_of(cfg, 'x').gradual
    assert type_name(cfg.model) == 'ImageClassifier'
    path.write_text(NEWER.format(head='num_classes=2, in_chanels=768'))
    with pytest.raises(UserError, match=r"model\.head: type='LinearClsHead' .* did you mean 'in_channels'"):
        check_config(build.read_config(str(path)))
