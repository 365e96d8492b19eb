"""A model leaves training without hooks of this package: torch.export, pickling, and use in other programs."""

import copy
import gc
import io

import pytest
import torch
from helpers.small_models import batch, loss_of, small_classifier
from mmengine.optim import build_optim_wrapper

from ftsgd_plugin.checkpoint.compatibility import misfits
from ftsgd_plugin.runner.build import build_runner

CONSTRUCTOR = dict(constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor')
HOOKS = [name for name in vars(torch.nn.Module()) if name.endswith('_hooks')]


def hooks_of(model: torch.nn.Module) -> list:
    """Every hook of the model, its modules and its parameters."""
    found = [hook for module in model.modules() for kind in HOOKS for hook in getattr(module, kind).values()]
    for param in model.parameters():
        for kind in ('_backward_hooks', '_post_accumulate_grad_hooks'):
            found += (getattr(param, kind) or {}).values()
    return found


def assert_exports(model: torch.nn.Module, images: torch.Tensor) -> None:
    model.eval()
    program = torch.export.export(model, (images,), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images))


@pytest.mark.parametrize('wrapper', ['SGDInBackwardOptimWrapper', pytest.param('OptimWrapper', marks=pytest.mark.slow)])
def test_a_model_trained_by_the_runner_has_no_hooks_and_exports(digits_config, wrapper):
    """With every hook of ours that looks at the model or its gradients."""
    cfg = digits_config('gradual-unfreezing', 16, **{
        'optim_wrapper.type': wrapper,
        'optim_wrapper.optimizer.momentum': 0.0,
        'train_cfg.max_epochs': 1,
        'launcher': 'none',
        'custom_hooks': [
            dict(type='LayerGradNormHook', interval=1),
            dict(type='ResourceHook'),
            dict(type='RunRecordHook'),
            dict(type='EMAHook'),
        ],
    })  # fmt: skip
    runner = build_runner(cfg)
    before = hooks_of(runner.model)
    model = runner.train()
    assert hooks_of(model) == before
    if wrapper == 'OptimWrapper':
        assert_exports(model, torch.rand(2, 3, 16, 16))
    assert runner.optim_wrapper is not None  # the runner, and its optimizer with it, still exist


@pytest.mark.parametrize('name', ['vit-b16', pytest.param('convnext-b', marks=pytest.mark.slow)])
def test_export_works_while_the_optimizer_exists_and_hooks_leave_with_it(name):
    model = small_classifier(name)
    before = hooks_of(model)
    optim_wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01), **CONSTRUCTOR))
    model.train()
    optim_wrapper.update_params(loss_of(model, *batch(name, 0)))
    assert not misfits(model, model.state_dict())  # reads shapes by hooks, of a copy
    assert len(hooks_of(model)) > len(before)
    assert_exports(model, batch(name, 0)[0])
    del optim_wrapper
    gc.collect()
    assert hooks_of(model) == before
    file = io.BytesIO()
    torch.save(copy.deepcopy(model), file)


def test_the_hooks_stay_while_a_bare_optimizer_or_a_schedule_uses_them():
    model = small_classifier('vit-b16')
    optimizer = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01), **CONSTRUCTOR)).optimizer
    gc.collect()
    assert hooks_of(model)
    del optimizer
    assert not hooks_of(model)
