"""How LayerGradNormHook observes a run: nothing is fetched, nothing changes, nothing stays behind."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from helpers.grad_norms import SGD, InBackward, Training, batches, random_tokens
from helpers.small_models import batch, loss_of, small_classifier
from mmengine.optim import build_optim_wrapper
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from ftsgd_plugin.hooks import LayerGradNormHook


@pytest.fixture
def model(vit):
    """A two-block ViT with CLIP's pre-norm: 14 layers."""
    return random_tokens(vit(pre_norm=True))


def test_updates_in_the_backward_pass(model, vit, tmp_path):
    (tmp_path / 'plain').mkdir()
    plain = Training(random_tokens(vit(pre_norm=True)), tmp_path / 'plain', optimizer=dict(type='SGD', lr=0.1))
    plain.model.load_state_dict(model.state_dict())
    training = Training(model, tmp_path, interval=2, optim_wrapper=InBackward(model))
    for inputs, labels in batches(4):
        plain.step(inputs, labels)
        training.step(inputs, labels)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.model.parameters()))
    for row in training.rows():
        same = [float(r['norm']) for r in plain.rows() if r['layer'] == row['layer']]
        steps = same[:2] if row['iter'] == '2' else same[2:]
        assert float(row['norm']) == pytest.approx(sum(steps) / 2, rel=1e-6) and row['updates'] == '2'


class NoSync(TorchDispatchMode):
    """Refuse operations that wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, 'a value was fetched'
        return func(*args, **(kwargs or {}))


def _refuse(*args, **kwargs):
    raise AssertionError('a value was fetched')


@pytest.mark.parametrize('in_backward', [False, True], ids=['step', 'in-backward'])
def test_nothing_is_fetched_between_records(model, tmp_path, in_backward):
    training = Training(model, tmp_path, interval=4, optim_wrapper=InBackward(model) if in_backward else None)
    data = batches(4)
    fetching = dict.fromkeys(('item', 'cpu', 'tolist', 'numpy', '__float__', '__bool__', '__int__'), _refuse)
    with mock.patch.multiple(torch.Tensor, **fetching), NoSync():
        for inputs, labels in data[:3]:
            training.step(inputs, labels)
        with pytest.raises(AssertionError, match='a value was fetched'):
            training.step(*data[3])


@pytest.mark.gpu
def test_no_synchronisation_on_a_gpu(vit, tmp_path):
    training = Training(random_tokens(vit()).cuda(), tmp_path, interval=4)
    data = [(inputs.cuda(), labels.cuda()) for inputs, labels in batches(4)]
    training.step(*data[0])  # allocates, and runs everything once
    torch.cuda.set_sync_debug_mode('error')
    try:
        for inputs, labels in data[1:3]:
            training.step(inputs, labels)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    training.step(*data[3])
    assert {row['updates'] for row in training.rows()} == {'4'}


def test_training_is_not_changed(vit):
    """Weights are bit-identical with the hook and without."""
    weights = []
    for hooked in (True, False):
        model = random_tokens(vit(seed=3))
        optim_wrapper = build_optim_wrapper(model, dict(optimizer=dict(SGD)))
        if hooked:
            hook, runner = LayerGradNormHook(50), SimpleNamespace(model=model, optim_wrapper=optim_wrapper, iter=0)
            hook.before_train(runner)
            hook.before_train_iter(runner, 0)
        for inputs, labels in batches(3):
            optim_wrapper.update_params(cross_entropy(model(inputs), labels))
        weights.append([param.clone() for param in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*weights))


def test_after_training_the_optimizer_wrapper_is_as_before(model, tmp_path):
    """A second ``train()`` of the same runner measures every update once."""
    training = Training(model, tmp_path, interval=4)
    wrapper, hook = training.optim_wrapper, training.hook
    hook.after_train(training)
    before = dict(vars(wrapper))
    hook.before_train(training)
    assert vars(wrapper)['step'] is not before.get('step')
    for inputs, labels in batches(2):
        training.step(inputs, labels)
    hook.after_train(training)
    assert {row['updates'] for row in training.rows()} == {'2'}
    assert vars(wrapper).keys() == before.keys() and vars(wrapper).get('step') is before.get('step')


def test_wrapper_that_returns_no_handle_is_observed_while_training_only(model, tmp_path, monkeypatch):
    """Version 0.1.0 asked for none. Its callback cannot be removed, but must count neither twice nor afterwards."""
    add = InBackward.observe_gradients
    monkeypatch.setattr(InBackward, 'observe_gradients', lambda self, callback: add(self, callback) and None)
    training = Training(model, tmp_path, interval=1, optim_wrapper=InBackward(model))
    hook = training.hook
    for inputs, labels in batches(2):  # every train() registers a callback
        training.step(inputs, labels)
        assert {row['updates'] for row in training.rows()} == {'1'}
        assert len({(row['iter'], row['layer']) for row in training.rows()}) == len(training.rows())
        hook.after_train(training)
        training.optim_wrapper.update_params(cross_entropy(model(inputs), labels))
        assert not hook._observed
        hook.before_train(training)
    assert len(training.optim_wrapper.callbacks) == 3


def test_after_training_gradients_of_the_backward_pass_are_not_observed(tmp_path):
    model = small_classifier('vit-b16')
    cfg = dict(type='mmpretrain.SGDInBackwardOptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    training = Training(model, tmp_path, optim_wrapper=build_optim_wrapper(model, cfg))
    for _ in range(2):  # every train() observes once
        training.step(*batch('vit-b16', 0))
        assert {row['updates'] for row in training.rows()} == {'1'}
        training.hook.after_train(training)
        assert not training.optim_wrapper._observers
        training.optim_wrapper.update_params(loss_of(model, *batch('vit-b16', 1)))
        assert not training.hook._observed
        training.hook.before_train(training)
