"""Configs: the parts, and inheritance from other directories and from MMPretrain's own configs."""

import re

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch.nn.functional import cross_entropy

from ftsgd_plugin import config_path
from ftsgd_plugin.methods import OTHER_METHODS
from ftsgd_plugin.optim.measured_rates import scale_rates
from ftsgd_plugin.optim.state import optimizer_state_bytes
from ftsgd_plugin.utils.errors import UserError

PARTS = {'models': {'model'}, 'methods': {'optim_wrapper', 'param_scheduler'}}
DATASET_KEYS = {f'{loop}_{kind}' for loop in ('train', 'val', 'test') for kind in ('dataloader', 'cfg')} | {
    'val_evaluator',
    'test_evaluator',
}


@pytest.fixture(autouse=True)
def default_scope():
    """What the Runner sets from a config's ``default_scope``."""
    init_default_scope('mmpretrain')


def write(path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_parts_own_disjoint_keys():
    for directory, keys in PARTS.items():
        for path in (ROOT / 'configs/_base_' / directory).glob('*.py'):
            assert Config.fromfile(path).keys() == keys, path
    for path in (ROOT / 'configs/_base_/datasets').glob('*.py'):
        keys = Config.fromfile(path).keys()
        assert keys >= DATASET_KEYS, path
        assert not keys & (
            PARTS['models'] | PARTS['methods'] | Config.fromfile(ROOT / 'configs/_base_/runtime.py').keys()
        )


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('vit-tiny_*.py')), ids=lambda path: path.stem)
def test_every_demo_config_builds_its_model_and_optimizer(path):
    cfg = Config.fromfile(path)
    cfg.model.backbone.pop('init_cfg', None)
    optim_wrapper = build_optim_wrapper(MODELS.build(cfg.model), cfg.optim_wrapper.copy())
    assert len(optim_wrapper.optimizer.param_groups) > 1
    assert cfg.default_hooks.checkpoint.save_best == 'id/accuracy'


METHOD_BYTES = {  # weight, gradient and state per trained parameter in float32
    'sgd': 12,
    'adamw': 16,
    'freeze-embed': 12,
    'adamw-freeze-embed': 16,
    'freeze-embed-no-momentum': 8,
    'gradual-unfreezing': 12,
    'sgd-in-backward': 4,
    'lamb': 16,
    'lars': 12,
    **{name: method.trained_bytes for name, method in OTHER_METHODS.items()},
}


def method_part(method: str) -> Config:
    return Config.fromfile(ROOT / f'configs/_base_/methods/{method}.py')


def one_step(vit, optim_wrapper_cfg, optimizer: dict):
    """One step of a small ViT: its tensors before and after, the gradients, and the optimizer wrapper."""
    model = vit()
    optim_wrapper_cfg.optimizer.update(optimizer)
    optim_wrapper = build_optim_wrapper(model, optim_wrapper_cfg)
    scale_rates(optim_wrapper, (), {})  # of rates that wait for a measurement
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    torch.manual_seed(1)
    loss = cross_entropy(model(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 2, 0]))
    trained = {name: param for name, param in model.named_parameters() if param.requires_grad}
    grads = dict(zip(trained, torch.autograd.grad(loss, list(trained.values()), retain_graph=True)))
    optim_wrapper.update_params(loss)
    return before, {name: param.detach() for name, param in model.named_parameters()}, grads, optim_wrapper


def test_every_method_part_is_covered():
    assert {path.stem for path in (ROOT / 'configs/_base_/methods').glob('*.py')} == METHOD_BYTES.keys()


@pytest.mark.parametrize('method', sorted(METHOD_BYTES.keys() - {'lora', 'adamw-8bit', 'flash-adamw', 'flash-sgd'}))
def test_method_part_trains_and_keeps_the_state_its_header_says(vit, method):
    cfg = method_part(method)
    assert re.search(rf'\b{METHOD_BYTES[method]} bytes per (trained )?parameter', cfg.text)
    before, after, grads, optim_wrapper = one_step(vit, cfg.optim_wrapper, {})
    frozen = {name for name, value in before.items() if torch.equal(after[name], value) and name not in grads}
    paramwise = cfg.optim_wrapper.paramwise_cfg
    assert bool(frozen) == (paramwise['freeze'] != 'none' or paramwise.get('train', 'all') != 'all')
    trained = sum(grad.numel() for grad in grads.values())
    assert optimizer_state_bytes(optim_wrapper.optimizer) // trained == max(METHOD_BYTES[method] - 8, 0)


@pytest.mark.parametrize('method, share', [('lars', 0.01), ('lamb', 1.0)])
def test_layerwise_scaling_is_in_force(vit, method, share):
    """Without weight decay: every tensor moves by lr x share of its own norm, as neither SGD nor Adam does."""
    before, after, grads, _ = one_step(vit, method_part(method).optim_wrapper, dict(lr=0.1))
    scaled = [name for name, grad in grads.items() if before[name].norm() > 0 and grad.norm() > 1e-6]
    assert len(scaled) > 10
    for name in scaled:
        weight, grad = before[name], grads[name]
        direction = 0.1 * grad / (0.001**0.5 * grad.abs() + 1e-6) if method == 'lamb' else grad  # Adam's first step
        expected = -0.1 * share * weight.norm() * direction / direction.norm()
        torch.testing.assert_close(after[name] - weight, expected, rtol=1e-2, atol=1e-6, msg=name)
    ratios = [(after[name] - before[name]).norm() / grads[name].norm() for name in scaled]
    assert max(ratios) > 10 * min(ratios)


def test_methods_differ_in_optimizer_and_freezing_only():
    sgd, adamw, freeze_embed = (
        Config.fromfile(ROOT / f'configs/vit-tiny_{method}_digits.py') for method in ('sgd', 'adamw', 'freeze-embed')
    )
    assert (sgd.optim_wrapper.optimizer.type, adamw.optim_wrapper.optimizer.type) == ('SGD', 'AdamW')
    assert sgd.optim_wrapper.optimizer == freeze_embed.optim_wrapper.optimizer
    assert (sgd.optim_wrapper.paramwise_cfg, freeze_embed.optim_wrapper.paramwise_cfg) == (
        dict(freeze='none'),
        dict(freeze='embed'),
    )
    for cfg in (adamw, freeze_embed):
        assert (cfg.model, cfg.train_dataloader, cfg.val_dataloader) == (
            sgd.model,
            sgd.train_dataloader,
            sgd.val_dataloader,
        )


def test_inherited_from_a_config_in_another_directory(tmp_path):
    path = write(
        tmp_path / 'project/configs/mine.py',
        f'_base_ = {str(ROOT / "configs/vit-tiny_freeze-embed_digits.py")!r}\n'
        "custom_imports = dict(imports=['ftsgd_plugin'])\n"
        'optim_wrapper = dict(optimizer=dict(lr=0.5))\n',
    )
    cfg = Config.fromfile(path)
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.optim_wrapper.constructor == 'FreezeEmbedOptimWrapperConstructor'


def test_config_path_in_one_base_line(tmp_path):
    path = write(
        tmp_path / 'mine.py', "_base_ = __import__('ftsgd_plugin').config_path('vit-tiny_freeze-embed_digits')\n"
    )
    assert Config.fromfile(path).optim_wrapper.paramwise_cfg['freeze'] == 'embed'
    parts = "_base_ = [__import__('ftsgd_plugin').config_path('_base_/methods/freeze-embed.py')]\n"
    assert Config.fromfile(write(tmp_path / 'parts.py', parts)).optim_wrapper.paramwise_cfg['freeze'] == 'embed'


@pytest.mark.parametrize('wrong, meant', [
    ('vit-tiny_sdg_digits', 'vit-tiny_sgd_digits.py'),
    ('_base_/methods/freeze_embed.py', '_base_/methods/freeze-embed.py'),
])  # fmt: skip
def test_unknown_config_gets_the_three_nearest_names(wrong, meant):
    with pytest.raises(UserError, match='no such config in') as error:
        config_path(wrong)
    nearest = str(error.value).rstrip('.').split('the nearest are: ')[1].split(', ')
    assert len(nearest) == 3 and nearest[0] == meant


def test_mmpretrain_config_becomes_freeze_embed_by_adding_the_constructor(tmp_path):
    """AdamW of the inherited config: the constructor alone; its ``custom_keys`` stay in force."""
    path = write(
        tmp_path / 'mine.py',
        "_base_ = 'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py'\n"
        "custom_imports = dict(imports=['ftsgd_plugin'])\n"
        "optim_wrapper = dict(constructor='FreezeEmbedOptimWrapperConstructor')\n"
        "model = dict(backbone=dict(arch='deit-tiny'), head=dict(in_channels=192))\n",
    )
    cfg = Config.fromfile(path)
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer).__name__ == 'AdamW'
    frozen = {name for name, param in model.named_parameters() if not param.requires_grad}
    assert frozen == {'backbone.patch_embed.projection.weight', 'backbone.patch_embed.projection.bias'}


def test_mmpretrain_config_with_adamw_becomes_sgd_with_delete(tmp_path):
    """The example of the README."""
    text = (ROOT / 'README.md').read_text().split('```python\n# my_config.py\n')[1].split('```')[0]
    cfg = Config.fromfile(write(tmp_path / 'mine.py', text))
    cfg.model.backbone.arch, cfg.model.head.in_channels = 'deit-tiny', 192
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer).__name__ == 'SGD' and optimizer.defaults['momentum'] == 0.9
    assert 'backbone.patch_embed.projection.weight' in {n for n, p in model.named_parameters() if not p.requires_grad}


def test_three_line_config_of_the_documentation(tmp_path):
    text = (ROOT / 'docs/configs.md').read_text().split('```python\n_base_ = [f')[1].split('```')[0]
    text = '_base_ = [f' + text.replace("'_base_/", repr(f'{ROOT}/configs/_base_/')[:-1])
    cfg = Config.fromfile(write(tmp_path / 'mine.py', text))
    assert cfg.model.backbone.model_name == 'vit_base_patch16_224.augreg_in21k'
    assert cfg.train_cfg.max_epochs == 20 and cfg.model.head.num_classes == 2
