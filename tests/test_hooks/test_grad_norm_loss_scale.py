"""LayerGradNormHook under a loss scaler: unscaled norms, and steps that the scaler skips."""

import pytest
from helpers.grad_norms import SGD, amp_training, assert_close, batches, measured, random_tokens, reference


@pytest.fixture
def model(vit):
    """A two-block ViT with CLIP's pre-norm: 14 layers."""
    return random_tokens(vit(pre_norm=True))


def test_norms_are_those_of_the_unscaled_gradients(model, tmp_path):
    training = amp_training(model, tmp_path, loss_scale=65536.0)
    for inputs, labels in batches(2):
        expected = reference(model, inputs, labels)
        training.step(inputs, labels)
        assert_close(measured(training.rows()[-14:]), expected, 1e-6)


def test_a_step_that_the_loss_scaler_skips_is_counted_separately(model, tmp_path):
    training = amp_training(model, tmp_path, interval=3, loss_scale=dict(init_scale=1024.0))
    expected = []
    for i, (inputs, labels) in enumerate(batches(3)):
        if i != 1:
            expected.append(reference(model, inputs, labels)['head'][0])
        training.step(inputs, labels, poison=i == 1)
    head = training.rows()[-1]
    assert (head['layer'], head['updates'], head['skipped']) == ('head', '2', '1')
    assert float(head['norm']) == pytest.approx(sum(expected) / 2, rel=1e-6)
    assert training.message_hub.get_scalar('train/grad/skipped').current() == 1


def test_an_interval_of_skipped_steps_has_no_norm(model, tmp_path):
    training = amp_training(model, tmp_path, loss_scale=dict(init_scale=1024.0))
    training.step(*batches(1)[0], poison=True)
    head = training.rows()[-1]
    assert (head['updates'], head['skipped'], head['norm']) == ('0', '1', '')
    assert training.scalars == [(1, {})]


def test_a_fused_optimizer_that_skips_on_the_device(model, tmp_path):
    training = amp_training(model, tmp_path, dict(SGD, fused=True), interval=2, loss_scale=dict(init_scale=1024.0))
    data = batches(2)
    expected = reference(model, *data[0])['head'][0]
    training.step(*data[0])
    training.step(*data[1], poison=True)
    head = training.rows()[-1]
    assert (head['updates'], head['skipped']) == ('1', '1')
    assert float(head['norm']) == pytest.approx(expected, rel=1e-6)


def test_the_step_hook_of_the_optimizer_is_removed_after_training(model, tmp_path):
    training = amp_training(model, tmp_path)
    assert len(training.optim_wrapper.optimizer._optimizer_step_post_hooks) == 1
    training.hook.after_train(training)
    assert not training.optim_wrapper.optimizer._optimizer_step_post_hooks
