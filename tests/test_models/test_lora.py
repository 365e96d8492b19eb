"""Low-rank adapters: what they add, whole checkpoints, and what is refused, each in one line."""

import pytest
import torch
from helpers.digits import load_digits_config
from helpers.small_models import MMPRETRAIN_VIT, RECENT, SMALL
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ftsgd_plugin.inference.run import load_run
from ftsgd_plugin.methods import OTHER_METHODS
from ftsgd_plugin.models.lora import merge_adapters, with_adapters
from ftsgd_plugin.optim.state import optimizer_state_bytes
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.config_hash import config_hash
from ftsgd_plugin.utils.errors import UserError

METHOD = dict(paramwise_cfg=dict(freeze='none', lora=dict(rank=8, alpha=16)))


@pytest.fixture(autouse=True)
def default_scope():
    init_default_scope('mmpretrain')


def build(backbone: dict, width: int, method: dict | None = None) -> torch.nn.Module:
    settings = with_adapters(dict(backbone=dict(backbone)), method)
    head = dict(type='LinearClsHead', num_classes=3, in_channels=width)
    torch.manual_seed(0)
    return MODELS.build(dict(type='ImageClassifier', **settings, head=head))


def test_adapters_begin_at_zero_and_only_they_and_the_head_train_with_16_bytes_each():
    model, plain = (build(MMPRETRAIN_VIT, 16, method) for method in (METHOD, None))
    model.backbone.module.load_state_dict(plain.backbone.state_dict(), strict=False)
    for name, module in plain.backbone.named_modules():
        if name.endswith(('attn.qkv', 'attn.proj')):
            model.backbone.module.get_submodule(name).original_layer.load_state_dict(module.state_dict())
    images = torch.randn(2, 3, 16, 16)
    model.eval(), plain.eval()
    assert torch.equal(model.backbone(images)[0], plain.backbone(images)[0])
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1), **METHOD)
    wrapper['constructor'] = 'FreezeEmbedOptimWrapperConstructor'
    optim_wrapper = build_optim_wrapper(model, wrapper)
    trained = [param for param in model.parameters() if param.requires_grad]
    width, depth = 16, 2
    assert sum(p.numel() for p in trained) == depth * 8 * ((width + 3 * width) + 2 * width) + 3 * (width + 1)
    optim_wrapper.update_params(model(images).square().sum())
    steps = 4 * len(trained)
    assert optimizer_state_bytes(optim_wrapper.optimizer) - steps == 8 * sum(p.numel() for p in trained)
    assert OTHER_METHODS['lora'].trained_bytes == 16
    before = model.backbone(images)[0]
    merge_adapters(model)
    assert type(model.backbone).__name__ == 'VisionTransformer'
    torch.testing.assert_close(model.backbone(images)[0], before)
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    'backbone, reason',
    [
        (SMALL['clip-vit-b16'][0], r'torch\.nn\.MultiheadAttention .* take no adapter'),
        (SMALL['convnext-b'][0], 'no linear layer of attention'),
        (RECENT['swinv2-t'], 'does not run with adapters'),
    ],
)
def test_networks_that_cannot_take_adapters_are_refused(backbone, reason):
    with pytest.raises(UserError, match=reason) as found:
        with_adapters(dict(backbone=backbone), METHOD)
    assert '\n' not in str(found.value)


@pytest.mark.parametrize(
    'options, reason',
    [(dict(ranks=4), 'takes rank, alpha'), (dict(rank=0), 'rank=0 is not a whole number'), (7, 'takes rank, alpha')],
)
def test_options_are_checked(options, reason):
    with pytest.raises(UserError, match=rf'^optim_wrapper\.paramwise_cfg\.lora.*{reason}'):
        with_adapters(dict(backbone=MMPRETRAIN_VIT), dict(paramwise_cfg=dict(lora=options)))


def test_a_model_without_adapters_is_refused_by_the_constructor():
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1), **METHOD)
    wrapper['constructor'] = 'FreezeEmbedOptimWrapperConstructor'
    with pytest.raises(UserError, match=r'the model has no adapters; train by tools/train\.py'):
        build_optim_wrapper(build(MMPRETRAIN_VIT, 16), wrapper)


def test_a_run_starts_from_pretrained_weights_saves_all_of_them_and_is_loaded_without_adapters(digits_root, tmp_path):
    cfg = load_digits_config(digits_root, 'freeze-embed', subset=32)
    cfg.optim_wrapper = dict(
        type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3),
        constructor='FreezeEmbedOptimWrapperConstructor', paramwise_cfg=dict(freeze='none', lora=dict(rank=2)),
    )  # fmt: skip
    cfg.work_dir, cfg.train_cfg.max_epochs, cfg.launcher = str(tmp_path), 1, 'none'
    planned = config_hash(cfg)
    runner = build_runner(cfg)
    runner.train()
    assert config_hash(runner.cfg) == planned  # a sweep knows its runs by it
    run = load_run(tmp_path)
    assert type(run.model.backbone).__name__ == 'VisionTransformer'
    images = torch.randn(2, 3, 32, 32)
    trained = runner.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(run.model(images), trained(images))
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)['state_dict']
    from ftsgd_plugin.checkpoint.io import load_packaged

    pretrained = load_packaged('ftsgd://vit-tiny')
    key = 'layers.0.attn.qkv'
    assert torch.equal(saved[f'backbone.module.{key}.original_layer.weight'], pretrained[f'{key}.weight'])
    assert saved[f'backbone.module.{key}.lora_up.weight'].abs().sum() > 0
