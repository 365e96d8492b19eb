"""Flashoptim's release of gradients, in the library's CPU mode: bits, what opens later, resumed groups, refusals."""

import pytest
import torch
from helpers.other_methods import part, require
from helpers.small_models import batch, loss_of, small_classifier
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from ftsgd_plugin import FlashReleaseOptimWrapper
from ftsgd_plugin.freezing import set_trainable
from ftsgd_plugin.methods import FLASH
from ftsgd_plugin.optim import InBackwardDataParallel
from ftsgd_plugin.optim.finite import FiniteUpdates
from ftsgd_plugin.utils.errors import UserError


@pytest.fixture(autouse=True)
def default_scope():
    init_default_scope('mmpretrain')


def built(method: str, wrapper: str):
    require(method)
    model = small_classifier('vit-b16')
    return model, build_optim_wrapper(model, {**part(method).optim_wrapper, 'type': wrapper})


def train(model, optim_wrapper, steps) -> None:
    for step in steps:
        optim_wrapper.update_params(loss_of(model, *batch('vit-b16', step)))


@pytest.mark.parametrize('method', FLASH)
def test_updates_are_those_of_a_step_and_no_gradient_is_left(method):
    """A block that opens later trains, and after a state is loaded the new groups' rates count."""
    runs = [built(method, kind) for kind in ('OptimWrapper', 'FlashReleaseOptimWrapper')]
    for model, optim_wrapper in runs:
        late = list(model.backbone.net.blocks[0].parameters())
        set_trainable(late, False)
        train(model, optim_wrapper, range(3))
        set_trainable(late, True)
        train(model, optim_wrapper, range(3, 6))
        optim_wrapper.load_state_dict(optim_wrapper.state_dict())
        for group in optim_wrapper.optimizer.param_groups:
            group['lr'] *= 3
        train(model, optim_wrapper, range(6, 9))
    (plain, _), (model, optim_wrapper) = runs
    start = small_classifier('vit-b16')
    assert not torch.equal(model.backbone.net.blocks[0].mlp.fc1.weight, start.backbone.net.blocks[0].mlp.fc1.weight)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), plain.parameters()))
    loss = loss_of(model, *batch('vit-b16', 9))
    optim_wrapper.backward(loss)
    assert all(param.grad is None for param in model.parameters())
    optim_wrapper.release()
    loss_of(model, *batch('vit-b16', 9)).backward()
    assert model.head.fc.weight.grad is not None  # the library's hooks have left


def test_an_update_of_nan_is_left_out_and_seen():
    model, optim_wrapper = built('flash-sgd', 'FlashReleaseOptimWrapper')
    seen, finite = [], FiniteUpdates(optim_wrapper, model)
    optim_wrapper.observe_gradients(lambda param, grad: seen.append(param))
    before = [param.clone() for param in model.parameters()]
    images, labels = batch('vit-b16', 0)
    optim_wrapper.update_params(loss_of(model, images * torch.nan, labels))
    assert finite.take() is True and not seen
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before))
    optim_wrapper.update_params(loss_of(model, images, labels))
    assert finite.take() is False and len(seen) == sum(param.requires_grad for param in model.parameters())


class Flash(torch.optim.SGD):
    """An optimizer that says it is of the library."""

    __module__ = 'flashoptim.optimizers'


@pytest.mark.parametrize('options, reason', [
    (dict(clip_grad=dict(max_norm=1.0)), r'optim_wrapper.clip_grad=.* never sees all gradients'),
    (dict(accumulative_counts=2), r'optim_wrapper.accumulative_counts=2: an update'),
    (dict(loss_scale='dynamic'), r"optim_wrapper.loss_scale='dynamic': an update"),
])  # fmt: skip
def test_what_needs_all_gradients_is_refused_by_name(options, reason):
    model = small_classifier('vit-b16')
    with pytest.raises(UserError, match=reason):
        FlashReleaseOptimWrapper(Flash(model.parameters(), lr=0.1), **options)


def test_other_libraries_and_several_processes_are_refused(monkeypatch):
    model = small_classifier('vit-b16')
    with pytest.raises(UserError, match=r"optimizer.type='SGD', which does not release gradients"):
        FlashReleaseOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))

    optim_wrapper = FlashReleaseOptimWrapper(Flash(model.parameters(), lr=0.1))
    monkeypatch.setattr('ftsgd_plugin.optim.flash_release.DistributedDataParallel', type(model.head))
    with pytest.raises(UserError, match='releases no gradients that ranks average; use type="OptimWrapper"'):
        optim_wrapper.check_model(model)
    monkeypatch.undo()
    optim_wrapper.check_model(model)
    monkeypatch.setattr('ftsgd_plugin.optim.flash_release.get_world_size', lambda: 2)
    with pytest.raises(UserError, match='trains in one process'), optim_wrapper.optim_context(model):
        pytest.fail('two processes whose gradients nobody averages')
    with pytest.raises(UserError, match='the gradients of the ranks would not be averaged'):
        InBackwardDataParallel(model).train_step({}, optim_wrapper)


def test_rates_that_nobody_has_measured_are_refused(monkeypatch):
    """The wrapper never calls the optimizer's step, which refuses elsewhere."""
    monkeypatch.setattr(FlashReleaseOptimWrapper, '_enable', lambda self: None)  # needs the library
    model = small_classifier('vit-b16')
    groups = [dict(params=model.parameters(), role='block', block=0, measured_lr_mult=None)]
    optim_wrapper = FlashReleaseOptimWrapper(Flash(groups, lr=0.1))
    with pytest.raises(UserError, match='nothing has measured the gradients'):
        optim_wrapper.update_params(loss_of(model, *batch('vit-b16', 0)))
