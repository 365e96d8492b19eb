"""LayerGradNorms against norms computed parameter by parameter, and against LayerGradNormHook."""

from unittest import mock

import pytest
import torch
from helpers.grad_norms import Training, assert_close, batches, measured, random_tokens, reference
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from ftsgd_plugin import GradualUnfreezing, LayerGradNorms, param_groups
from ftsgd_plugin.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings('ignore:the frozen embedding')


@pytest.fixture
def model(vit):
    """A two-block ViT with CLIP's pre-norm: 14 layers."""
    return random_tokens(vit(pre_norm=True))


def sgd(model: nn.Module, **options) -> torch.optim.Optimizer:
    return torch.optim.SGD(param_groups(model, 'none', lr=0.1), momentum=0.9, **options)


def backward(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, scale: float = 1.0) -> None:
    (cross_entropy(model(inputs), labels) * scale).backward()


def test_equals_the_reference_and_the_hook_at_every_update(model, vit, tmp_path):
    twin = random_tokens(vit(pre_norm=True))
    twin.load_state_dict(model.state_dict())
    optimizer, training = sgd(model), Training(twin, tmp_path)
    with LayerGradNorms(model) as norms:
        for inputs, labels in batches(3):
            expected = reference(model, inputs, labels)
            backward(model, inputs, labels)
            optimizer.step()
            optimizer.zero_grad()
            rows = norms.read()
            assert_close(measured(rows), expected, 1e-6)
            training.step(inputs, labels)
            theirs = training.rows()[-len(rows) :]
            as_written = [{key: '' if value is None else value for key, value in row.items()} for row in rows]
            for ours, hooks in zip(as_written, theirs, strict=True):
                texts = {key: f'{value:.8g}' if isinstance(value, float) else str(value) for key, value in ours.items()}
                assert {'iter': hooks['iter'], **texts} == hooks


def test_a_reading_is_the_mean_over_its_updates_accumulated_batches_are_one(model):
    optimizer, heads = sgd(model), []
    data = batches(4)
    with LayerGradNorms(model) as norms:
        for first, second in (data[:2], data[2:]):
            whole = [torch.cat(part) for part in zip(first, second)]
            heads.append(reference(model, *whole)['head'][0])
            for inputs, labels in (first, second):
                backward(model, inputs, labels, scale=0.5)
            optimizer.step()
            optimizer.zero_grad()
    head = norms.read()[-1]  # also after the block
    assert head['updates'] == 2 and head['norm'] == pytest.approx(sum(heads) / 2, rel=1e-5)
    assert norms.read() == []


def test_measured_by_hand_before_clipping(model):
    optimizer = sgd(model)
    with LayerGradNorms(model) as norms:
        for inputs, labels in batches(2):
            expected = reference(model, inputs, labels)
            backward(model, inputs, labels)
            norms.measure()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            assert norms.read() == []  # not an update yet
            optimizer.step()
            optimizer.zero_grad()
            assert_close(measured(norms.read()), expected, 1e-6)


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('by_hand', [False, True])
def test_under_a_loss_scaler_norms_are_unscaled_and_skipped_steps_counted(model, fused, by_hand):
    """An unfused optimizer is not called for a skipped step: only a measurement by hand sees it."""
    optimizer, scaler = sgd(model, fused=fused), torch.amp.GradScaler('cpu', init_scale=1024.0)
    data, expected = batches(3), []
    with LayerGradNorms(model) as norms:
        for i, (inputs, labels) in enumerate(data):
            if i != 1:
                expected.append(reference(model, inputs, labels)['head'][0])
            loss = cross_entropy(model(inputs), labels)
            scaler.scale(loss * (float('inf') if i == 1 else 1)).backward()
            if by_hand:
                scaler.unscale_(optimizer)
                norms.measure()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    head = norms.read()[-1]
    assert (head['layer'], head['updates'], head['skipped']) == ('head', 2, 1 if fused or by_hand else 0)
    assert head['norm'] == pytest.approx(sum(expected) / 2, rel=1e-6)


@pytest.mark.parametrize('as_keyword', [False, True])
def test_gradients_that_a_closure_computes(model, as_keyword):
    """Lightning passes the backward pass to ``step``; what is left of the batch before must not be measured."""
    optimizer = sgd(model)
    with LayerGradNorms(model) as norms:
        for inputs, labels in batches(3):
            stale = [None if param.grad is None else param.grad.clone() for param in model.parameters()]
            expected = reference(model, inputs, labels)
            for param, grad in zip(model.parameters(), stale):
                param.grad = grad

            def closure():
                optimizer.zero_grad()
                loss = cross_entropy(model(inputs), labels)  # noqa: B023
                loss.backward()
                return loss

            loss = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
            assert loss.requires_grad
            assert_close(measured(norms.read()), expected, 1e-6)


def test_layers_are_absent_while_closed_and_other_optimizers_are_left_alone(model):
    other = nn.Linear(2, 2)
    others = torch.optim.SGD(other.parameters(), lr=0.1)
    optimizer = torch.optim.SGD(param_groups(model, lr=0.01), momentum=0.9)
    scheduler = GradualUnfreezing(optimizer, model, total_steps=3)
    data = batches(3)
    with LayerGradNorms(model) as norms:
        for inputs, labels in data:
            backward(model, inputs, labels)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            other(torch.ones(1, 2)).sum().backward()
            others.step()
    updates = {row['layer']: row['updates'] for row in norms.read()}
    assert [updates[name] for name in ('pos_embed', 'blocks.0.mlp', 'blocks.1.attn', 'head')] == [1, 1, 2, 3]
    assert 'patch_embed' not in updates and list(updates)[-1] == 'head'


def test_nothing_stays_behind_and_weights_are_bit_equal(model, vit):
    twin = random_tokens(vit(pre_norm=True))
    twin.load_state_dict(model.state_dict())
    before = len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)
    optimizer, alone = sgd(model), sgd(twin)
    with pytest.raises(ZeroDivisionError), LayerGradNorms(model):
        for inputs, labels in batches(2):
            for net, one in ((model, optimizer), (twin, alone)):
                backward(net, inputs, labels)
                one.step()
                one.zero_grad()
        raise ZeroDivisionError
    assert (len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)) == before
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), twin.parameters()))


class NoSync(TorchDispatchMode):
    """Refuse operations that wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, 'a value was fetched'
        return func(*args, **(kwargs or {}))


def _refuse(*args, **kwargs):
    raise AssertionError('a value was fetched')


def test_nothing_is_fetched_before_the_reading(model):
    optimizer, data = sgd(model), batches(3)
    fetching = dict.fromkeys(('item', 'cpu', 'tolist', 'numpy', '__float__', '__bool__', '__int__'), _refuse)
    with LayerGradNorms(model) as norms, mock.patch.multiple(torch.Tensor, **fetching), NoSync():
        for inputs, labels in data:
            backward(model, inputs, labels)
            optimizer.step()
            optimizer.zero_grad()
        with pytest.raises(AssertionError, match='a value was fetched'):
            norms.read()


@pytest.mark.gpu
def test_no_synchronisation_on_a_gpu(model):
    model = model.cuda()
    optimizer = sgd(model)
    data = [(inputs.cuda(), labels.cuda()) for inputs, labels in batches(3)]
    with LayerGradNorms(model) as norms:
        for i, (inputs, labels) in enumerate(data):
            torch.cuda.set_sync_debug_mode('error' if i else 'default')  # the first allocates
            try:
                backward(model, inputs, labels)
                optimizer.step()
                optimizer.zero_grad()
            finally:
                torch.cuda.set_sync_debug_mode('default')
        assert {row['updates'] for row in norms.read()} == {3}


def test_a_model_without_a_layer_list_is_refused():
    with pytest.raises(UserError, match='no layer list'):
        LayerGradNorms(nn.Linear(2, 2))
