"""What the check of a config lets pass, and what the signatures say."""

import contextlib
import os.path as osp
from types import SimpleNamespace

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.model import ExponentialMovingAverage
from mmpretrain.registry import MODELS
from torch import nn

from ftsgd_plugin.models import TimmPooledBackbone
from ftsgd_plugin.runner.build import merge_cfg_options, read_config
from ftsgd_plugin.runner.config_check import check_config, check_counting, check_keys, check_parts
from ftsgd_plugin.runner.fit_check import check_average, check_classes, check_features
from ftsgd_plugin.runner.signatures import accepted, wrong_kind
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.names import did_you_mean, near

STOCK = osp.join(osp.dirname(mmpretrain.__file__), '.mim/configs')


@pytest.mark.parametrize(
    'name',
    [
        'resnet/resnet50_8xb32_in1k',
        'resnet/resnet50_8xb32-fp16_in1k',
        'resnet/resnet18_8xb16_cifar10',
        'swin_transformer/swin-tiny_16xb64_in1k',
        'vision_transformer/vit-base-p16_64xb64_in1k',
        'mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k',
        'convnext/convnext-base_32xb128_in1k',
        'conformer/conformer-tiny-p16_8xb128_in1k',
        'mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k',
        'hrnet/hrnet-w18_4xb32_in1k',
    ],
)
def test_stock_configs_pass(name):
    """Once tried with all 538; those refused need packages that are missing or cannot be built either."""
    cfg = read_config(f'{STOCK}/{name}.py')
    check_keys(cfg)
    check_parts(cfg, name)
    check_counting(cfg)
    check_config(cfg)


def test_parts_are_looked_up_in_the_scope_of_the_part_around_them():
    pipeline = [dict(type='PackInputs')]
    inner = dict(type='CustomDataset', pipeline=pipeline)
    dataset = dict(_scope_='mmpretrain', type='RepeatDataset', times=2, dataset=inner)
    model = dict(_scope_='mmpretrain', type='ImageClassifier', backbone=dict(type='LeNet5'))
    loader = dict(dataset=dataset, sampler=dict(type='DefaultSampler'))
    check_config(dict(default_scope='mmengine', model=model, train_dataloader=loader))
    with pytest.raises(UserError, match=r"model\.backbone: type='LeNet6' is not in the mmpretrain::model registry"):
        check_config(dict(model=dict(model, backbone=dict(type='LeNet6'))))


def test_variables_of_a_config_file_stay_allowed():
    names = 'data_root dataset_type metainfo train_pipeline bgr_mean backbone schedule lr my_model batch base_lr'
    check_keys(dict.fromkeys(names.split(), 1))
    with pytest.raises(UserError, match="did you mean 'test_evaluator'"):
        check_keys({'test_evaluater': 1})
    with pytest.raises(UserError, match="did you mean 'val_cfg'"):
        check_keys({'val_config': 1})


def test_options_may_set_what_a_file_has_or_the_runner_takes():
    cfg = Config(dict(model=dict(type='X'), my_variable=dict(a=1)))
    merge_cfg_options(cfg, 'file.py', {'my_variable.a': 2, 'load_from': 'x.pth', 'run.model': 'a'})
    assert cfg.my_variable.a == 2
    with pytest.raises(UserError, match="no config has 'my_varible'; did you mean 'my_variable'"):
        merge_cfg_options(cfg, 'file.py', {'my_varible.a': 2})


class Base:
    def __init__(self, size: int, rate: float = 0.1) -> None: ...


class Passing(Base):
    def __init__(self, name: str, **kwargs) -> None:
        self.has_size = 'size' in kwargs
        super().__init__(**{'size': 1, **kwargs})


class Mixin:
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)


class Mixed(Mixin, Base): ...


class Open:
    def __init__(self, **kwargs) -> None: ...


class Forwarding(Base):
    """As a backbone whose arguments go to the function of a library that builds the network."""

    def __init__(self, name: str, **kwargs) -> None:
        super().__init__(size=1)
        self.net = dict(name=name, **kwargs)


class Taking(Base):
    def __init__(self, **kwargs) -> None:
        self.own = kwargs.pop('own', None)
        super().__init__(**kwargs)


def test_what_a_class_takes_follows_its_keyword_arguments():
    assert set(accepted(Passing).parameters) == {'name', 'size', 'rate'} and not accepted(Passing).open
    assert accepted(Passing).required == ('name',)  # it may supply the base's itself
    assert accepted(Mixed).required == ('size',)  # it passes everything on
    assert all(accepted(cls).open for cls in (Open, Forwarding, Taking, TimmPooledBackbone))
    assert 'save_optimizer' in accepted(CheckpointHook).parameters  # taken by Runner.save_checkpoint


@pytest.mark.parametrize(
    'value, hint, strict, wanted',
    [
        ('8', int, True, 'a whole number'),
        (8.0, int, True, None),
        (8.5, int, True, 'a whole number'),
        (8.5, int, False, None),
        (True, float, True, 'a number'),
        (float('nan'), int, True, None),
        ('x', float | None, True, 'a number'),
        (None, int, True, None),
        (3, str, True, 'text'),
        ('a', list[str], True, None),
        ({}, str | dict, True, None),
        ([1], dict, True, 'a dict'),
        ('1e-3', float | torch.Tensor, True, 'a number'),
        ('x', nn.Module, True, None),
    ],
)
def test_kinds_of_values(value, hint, strict, wanted):
    assert wrong_kind(value, hint, strict=strict) == wanted


def test_suggestions():
    assert near('optim_wraper', ['optim_wrapper', 'model']) == ['optim_wrapper']
    assert did_you_mean('sgd', ['SGD', 'ASGD', 'Adam']) == "did you mean 'SGD'?"
    assert did_you_mean('xyz', ['b', 'a']) == 'known: a, b.'


def classifier(backbone: dict, **head) -> nn.Module:
    head = dict(type='mmpretrain.LinearClsHead', num_classes=3, **head)
    return MODELS.build(dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=head))


RESNET = dict(type='mmpretrain.ResNet', depth=18, base_channels=8, stem_channels=8)


def test_features_of_backbone_and_head(vit):
    check_features(vit())
    with pytest.raises(UserError, match=r"in_channels=64: .* 64 x 7 x 7 features; add neck=dict\(type='GlobalAver"):
        check_features(classifier(RESNET, in_channels=64))
    model = classifier(RESNET, in_channels=32)
    model.neck = MODELS.build(dict(type='mmpretrain.GlobalAveragePooling'))
    with pytest.raises(UserError, match=r'in_channels=32: backbone and neck yield 64 features; set model\.head'):
        check_features(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(param.device.type == 'cpu' for param in model.parameters())


class Flat(nn.Module):
    """A backbone of which nothing says how many features it has."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails, self.layer = fails, nn.Conv2d(3, 4, 1)

    def forward(self, images):
        if self.fails:
            raise RuntimeError('no kernel')
        return self.layer(images).mean((2, 3))


def parts(backbone: nn.Module, features: int) -> nn.Module:
    model = nn.Module()
    model.backbone, model.head = backbone, nn.Sequential(nn.Linear(features, 2))
    model.head.in_channels = features
    return model


def test_features_that_fit_or_cannot_be_computed_are_no_error():
    check_features(parts(Flat(), 4))
    check_features(parts(Flat(fails=True), 5))
    check_features(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(UserError, match=r'in_channels=5: backbone and neck yield 4 features; set model\.head'):
        check_features(parts(Flat(), 5))


@pytest.mark.parametrize('labels, refused', [([0, 4], True), ([[0, 9], [9, 0]], False), ([], False), (None, False)])
def test_classes_without_names_are_those_of_the_labels(labels, refused):
    """Several labels per image, none and data that does not tell them are not checked."""

    class Data(list):
        if labels is not None:
            get_gt_labels = list.copy

    data = Data(labels or [])
    check_classes(nn.Identity(), data)  # no head
    model = nn.Module()
    model.head = SimpleNamespace(num_classes=4)
    if refused:
        with pytest.raises(UserError, match=r'num_classes=4: the training data has labels up to 4; set .*=5\.$'):
            check_classes(model, data)
    else:
        check_classes(model, data)


def test_classes_of_data_and_head(vit):
    class Data(list):
        metainfo = dict(classes=('a', 'b', 'c', 'd'))

    with pytest.raises(UserError, match=r'num_classes=3: the training data has 4 classes; set model\.head'):
        check_classes(vit(num_classes=3), Data())
    check_classes(vit(num_classes=4), Data())
    check_classes(vit(num_classes=5), Data())  # a warning


@pytest.mark.parametrize(
    'scheduler, refused',
    [
        (dict(type='CosineAnnealingLR', T_max=100), True),
        (dict(type='MultiStepLR', milestones=[3], by_epoch=True), True),
        (dict(type='CosineAnnealingLR', T_max=100, by_epoch=False), False),
        (dict(type='LinearLR', end=2, convert_to_iter_based=True), False),
        (dict(type='ReduceOnPlateauLR', monitor='id/accuracy'), False),  # steps after each validation
    ],
)
def test_a_scheduler_that_would_never_step_is_refused(scheduler, refused):
    """A loop of iterations is one epoch for MMEngine's hook: the rate stayed constant without a word."""
    cfg = Config(dict(train_cfg=dict(by_epoch=False, max_iters=100), param_scheduler=[scheduler]))
    with pytest.raises(UserError, match='so it would never step') if refused else contextlib.nullcontext():
        check_counting(cfg)
    cfg.train_cfg = dict(by_epoch=True, max_epochs=3)
    check_counting(cfg)


def test_an_average_of_weights_in_16_bits_is_refused_as_it_would_never_move():
    """MMEngine's own, with its default momentum, of a weight that grows by an eighth of itself in every step."""

    def averages(dtype: torch.dtype) -> list[float]:
        model = nn.Linear(1, 1, bias=False).to(dtype)
        nn.init.ones_(model.weight)
        average, found = ExponentialMovingAverage(model), []
        for _ in range(8):
            average.update_parameters(model)
            found.append(average.module.weight.item())
            model.weight.data.add_(0.125)
        return found

    assert averages(torch.bfloat16) == [1.0] * 8 and averages(torch.float32)[-1] > 1
    for model, hooks in ((nn.Linear(1, 1), [EMAHook()]), (nn.Linear(1, 1).bfloat16(), [])):
        check_average(model, hooks)
    with pytest.raises(UserError, match=r'EMAHook keeps its average in .* bfloat16'):
        check_average(nn.Linear(1, 1).bfloat16(), [EMAHook()])
