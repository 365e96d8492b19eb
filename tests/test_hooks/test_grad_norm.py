"""LayerGradNormHook against norms computed parameter by parameter, in double precision."""

import math
from types import SimpleNamespace

import pytest
import torch
from helpers.chain import Chain
from helpers.grad_norms import Training, amp_training, assert_close, batches, measured, random_tokens, reference
from torch import nn

from ftsgd_plugin.freezing import freeze_layers, select_layers
from ftsgd_plugin.hooks import LayerGradNormHook
from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.utils.errors import UserError


@pytest.fixture
def model(vit):
    """A two-block ViT with CLIP's pre-norm: 14 layers."""
    return random_tokens(vit(pre_norm=True))


def test_equals_the_reference_at_every_update(model, tmp_path):
    training = Training(model, tmp_path)
    for inputs, labels in batches(3):
        expected = reference(model, inputs, labels)
        training.step(inputs, labels)
        assert_close(measured(training.rows()[-len(expected) :]), expected, 1e-6)
    assert len(expected) == 14


def test_large_tensors_are_summed_precisely(tmp_path):
    """On a CPU torch's norm of a float32 tensor of this size has an error of 4e-5."""
    wide = Chain()
    wide.blocks[0] = nn.Linear(1500, 1500)
    training = Training(wide, tmp_path)
    training.hook.before_train_iter(training, 0)
    for param in wide.parameters():
        param.grad = torch.randn_like(param)
    expected = math.hypot(*(float(p.grad.double().norm()) for p in wide.blocks[0].parameters()))
    training.optim_wrapper.step()
    training.hook.after_train_iter(training, 0)
    assert training.norms()['blocks.0'] == pytest.approx(expected, rel=1e-6)


def test_an_interval_is_the_mean_over_its_updates_and_the_rest_is_recorded_after_training(model, tmp_path):
    training, expected = Training(model, tmp_path, interval=3), []
    for inputs, labels in batches(5):
        expected.append(reference(model, inputs, labels))
        training.step(inputs, labels)
    training.hook.after_train(training)
    rows = training.rows()
    assert [(row['iter'], row['updates']) for row in rows[::14]] == [('3', '3'), ('5', '2')]
    for found, part in ((rows[:14], expected[:3]), (rows[14:], expected[3:])):
        for row in found:
            mean = sum(values[row['layer']][0] for values in part) / len(part)
            assert float(row['norm']) == pytest.approx(mean, rel=1e-6)


def test_accumulation_equals_one_large_batch(vit, tmp_path):
    data = batches(4)
    accumulating = Training(random_tokens(vit()), tmp_path, interval=4, accumulative_counts=4)
    expected = reference(accumulating.model, *(torch.cat(part) for part in zip(*data)))
    for inputs, labels in data:
        accumulating.step(inputs, labels)
    assert {row['updates'] for row in accumulating.rows()} == {'1'}
    assert_close(measured(accumulating.rows()), expected, 1e-5)


@pytest.mark.parametrize('clip', [dict(max_norm=1e-3), dict(type='value', clip_value=1e-4)], ids=['norm', 'value'])
@pytest.mark.parametrize('amp', [False, True], ids=['fp32', 'amp'])
def test_gradients_are_measured_before_clipping(model, tmp_path, clip, amp):
    build = amp_training if amp else Training
    training = build(model, tmp_path, clip_grad=dict(clip))
    inputs, labels = batches(1)[0]
    expected = reference(model, inputs, labels)
    training.step(inputs, labels)
    assert_close(measured(training.rows()), expected, 1e-6)


def test_layers_are_absent_while_frozen(model, tmp_path):
    training, layers = Training(model, tmp_path, interval=4), list_layers(model)
    assert [layer.name for layer in layers][:2] == ['patch_embed', 'ln_pre']
    for i, (inputs, labels) in enumerate(batches(8)):
        if i in (0, 2, 4):  # two updates of the head alone, two of all layers, then the embedding is frozen
            freeze = {0: ['[!h]*'], 2: 'none', 4: 'embed'}[i]
            freeze_layers(model, select_layers(layers, freeze))
        training.step(inputs, labels)
    rows = training.rows()
    first, second = ([row for row in rows if row['iter'] == step] for step in ('4', '8'))
    assert {row['layer']: row['updates'] for row in first} == {
        layer.name: '4' if layer.name == 'head' else '2' for layer in layers
    }
    assert [row['layer'] for row in second] == [layer.name for layer in layers[2:]]
    assert 'train/grad/embed' not in training.message_hub.log_scalars
    assert 'train/grad/head' in training.message_hub.log_scalars


def test_the_log_gets_the_papers_three_parts(model, tmp_path):
    training = Training(model, tmp_path)
    training.step(*batches(1)[0])
    norms = training.norms()
    logged = {key: buffer.current() for key, buffer in training.message_hub.log_scalars.items()}
    middle = [norm for name, norm in norms.items() if name.startswith(('blocks', 'post')) and name != 'blocks.0.norm1']
    assert logged == pytest.approx(
        {
            'train/grad/embed': math.hypot(norms['patch_embed'], norms['ln_pre']),
            'train/grad/middle': max(middle),
            'train/grad/head': norms['head'],
        },
        rel=1e-6,
    )


def test_zero_weights_have_no_relative_norm(vit, tmp_path):
    training = Training(vit().train(), tmp_path)
    training.step(*batches(1)[0])
    token = next(row for row in training.rows() if row['layer'] == 'cls_token')
    assert token['norm_per_weight_norm'] == '' and float(token['norm']) > 0
    assert 'norm_per_weight_norm/cls_token' not in training.scalars[0][1]


@pytest.mark.parametrize('interval', [0, -1, 2.5, True, '50'])
def test_interval_must_be_a_positive_whole_number(interval):
    with pytest.raises(UserError, match=r'interval=.* is not a positive whole number of iterations'):
        LayerGradNormHook(interval)


def test_several_optimizers_are_refused(vit):
    runner = SimpleNamespace(model=vit(), optim_wrapper=SimpleNamespace(optim_wrappers={}))
    with pytest.raises(UserError, match='one optimizer only'):
        LayerGradNormHook().before_train(runner)
