"""Activation checkpointing above frozen layers: gradients equal those without it."""

import pytest
import timm
import torch
from helpers.small_models import batch, loss_of, mmpretrain_vit, small_classifier, trained
from mmengine.optim import build_optim_wrapper
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

from ftsgd_plugin.utils.errors import UserError


def build(model, freeze):
    return build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=0.1),
            constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
            paramwise_cfg=dict(freeze=freeze),
        ),
    )


BELOW = ['patch_embed', 'pos_embed', 'cls_token', 'blocks.0.*']


def gradients(model, images, labels) -> dict[str, torch.Tensor]:
    loss_of(model.train(), images, labels).backward()
    return {name: param.grad for name, param in model.named_parameters() if param.grad is not None}


def assert_equal(found, expected, model) -> None:
    assert found.keys() == expected.keys() == trained(model)
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-5, atol=1e-7, msg=name)


def test_mmengines_key_loses_no_gradient_above_a_frozen_layer():
    images, labels = torch.randn(2, 3, 16, 16), torch.tensor([0, 2])
    model, plain = mmpretrain_vit(), mmpretrain_vit()
    for each in (model, plain):
        build(each, BELOW)
    turn_on_activation_checkpointing(model, ['backbone.layers.0', 'backbone.layers.1'])
    assert_equal(gradients(model, images, labels), gradients(plain, images, labels), model)


@pytest.fixture
def reentrant_timm():
    timm.layers.set_reentrant_ckpt(True)
    yield
    timm.layers.set_reentrant_ckpt(False)


@pytest.mark.parametrize('name', ['vit-b16', 'clip-vit-b16'])
def test_the_libraries_own_checkpointing_loses_no_gradient_above_a_frozen_layer(name, reentrant_timm):
    model, plain = small_classifier(name), small_classifier(name)
    model.backbone.net.set_grad_checkpointing()
    for each in (model, plain):
        build(each, [*BELOW, *(['ln_pre'] if name.startswith('clip') else [])])
    assert_equal(gradients(model, *batch(name, 0)), gradients(plain, *batch(name, 0)), model)


def test_timms_switch_is_refused_for_its_own_modules_only(reentrant_timm, monkeypatch):
    monkeypatch.setenv('TIMM_REENTRANT_CKPT', '1')
    with pytest.raises(
        UserError, match=r'TIMM_REENTRANT_CKPT=1: re-entrant .* unset this environment variable'
    ) as caught:
        build(small_classifier('vit-b16'), 'embed')
    assert '\n' not in str(caught.value)
    build(mmpretrain_vit(), 'embed')
