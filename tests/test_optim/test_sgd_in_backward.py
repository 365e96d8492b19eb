"""SGD in the backward pass: bit-identical to torch.optim.SGD, with at most one layer's gradient in memory."""

from contextlib import nullcontext

import pytest
import torch
from helpers.small_models import SMALL, batch, loss_of, small_classifier
from mmengine.optim import CosineAnnealingLR, build_optim_wrapper
from torch import nn

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim import GradualUnfreezingLR, SGDInBackwardOptimWrapper
from ftsgd_plugin.optim.sgd_in_backward import InBackwardDataParallel
from ftsgd_plugin.utils.errors import UserError

STEPS = 20


def build(model, wrapper='SGDInBackwardOptimWrapper', freeze='embed', options=None, **optimizer):
    return build_optim_wrapper(
        model,
        dict(
            type=wrapper,
            optimizer={**dict(type='SGD', lr=0.01), **optimizer},
            constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
            paramwise_cfg=dict(freeze=freeze),
            **(options or {}),
        ),
    )


def train(name: str, wrapper: str, schedule=None, steps: int = STEPS, autocast: bool = False, **options):
    model = small_classifier(name)
    optim_wrapper = build(model, wrapper, **options)
    scheduler = schedule(optim_wrapper) if schedule else None
    for step in range(steps):
        with optim_wrapper.optim_context(model), torch.autocast('cpu') if autocast else nullcontext():
            loss = loss_of(model, *batch(name, step))
        optim_wrapper.update_params(loss)
        if scheduler:
            scheduler.step()
    return model, optim_wrapper


FAST = [pytest.param(name, marks=[pytest.mark.slow] * (name == 'bit-r101')) for name in SMALL]


def assert_bit_identical(ours, reference) -> None:
    for (name, param), expected in zip(ours.named_parameters(), reference.parameters()):
        assert torch.equal(param, expected), name


@pytest.mark.parametrize('name', FAST)
def test_twenty_steps_are_bit_identical_to_sgd(name):
    ours, optim_wrapper = train(name, 'SGDInBackwardOptimWrapper', weight_decay=0.1)
    reference, _ = train(name, 'OptimWrapper', weight_decay=0.1)
    assert_bit_identical(ours, reference)
    start = small_classifier(name)
    moved = [not torch.equal(p, q) for p, q in zip(ours.parameters(), start.parameters()) if p.requires_grad]
    assert moved and all(moved)
    assert not optim_wrapper.optimizer.state and all(param.grad is None for param in ours.parameters())


@pytest.mark.parametrize('foreach', [False, True])
def test_bit_identical_to_either_implementation_of_sgd(foreach):
    ours, _ = train('vit-b16', 'SGDInBackwardOptimWrapper', freeze='none', weight_decay=0.1)
    reference, _ = train('vit-b16', 'OptimWrapper', freeze='none', weight_decay=0.1, foreach=foreach)
    assert_bit_identical(ours, reference)


SCHEDULES = {
    'cosine': lambda optim_wrapper: CosineAnnealingLR(optim_wrapper, T_max=STEPS, by_epoch=False),
    'unfreezing': lambda optim_wrapper: GradualUnfreezingLR(optim_wrapper, end=STEPS, by_epoch=False),
}


@pytest.mark.parametrize('name', ['clip-vit-b16', 'convnext-b'])
@pytest.mark.parametrize('schedule', SCHEDULES)
def test_schedules_are_bit_identical(name, schedule):
    options = dict(schedule=SCHEDULES[schedule], lr=1e-3)
    ours, _ = train(name, 'SGDInBackwardOptimWrapper', **options)
    reference, _ = train(name, 'OptimWrapper', **options)
    assert_bit_identical(ours, reference)


def test_bf16_autocast_is_bit_identical():
    ours, _ = train('vit-b16', 'SGDInBackwardOptimWrapper', options=dict(dtype='bfloat16'))
    reference, _ = train('vit-b16', 'OptimWrapper', autocast=True)
    assert_bit_identical(ours, reference)
    in_float32, _ = train('vit-b16', 'OptimWrapper')
    assert any(not torch.equal(p, q) for p, q in zip(ours.parameters(), in_float32.parameters()))


class Shared(nn.Module):
    """A network that uses one weight twice, the second time under activation checkpointing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = torch.utils.checkpoint.checkpoint(lambda y: torch.tanh(self.first(y)), x, use_reentrant=False)
        return self.head(x)


def test_shared_weights_and_checkpointing_are_bit_identical():
    models = Shared(), Shared()
    wrappers = [
        build_optim_wrapper(model, dict(type=kind, optimizer=dict(type='SGD', lr=0.1, weight_decay=0.1)))
        for model, kind in zip(models, ('mmpretrain.SGDInBackwardOptimWrapper', 'OptimWrapper'))
    ]
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        inputs, labels = torch.randn(4, 8, generator=generator), torch.randint(3, (4,), generator=generator)
        for model, optim_wrapper in zip(models, wrappers):
            optim_wrapper.update_params(nn.functional.cross_entropy(model(inputs), labels))
    assert_bit_identical(*models)


@pytest.mark.parametrize('name', FAST)
def test_gradients_alive_never_exceed_the_largest_layer(name):
    """Counted whenever a gradient is complete: this gradient and those of all other parameters."""
    model = small_classifier(name)
    optim_wrapper = build(model, freeze='none')
    alive = []

    def count(param, grad):
        held = {id(other.grad): other.grad for other in model.parameters() if other.grad is not None}
        assert id(grad) in held
        alive.append(sum(tensor.numel() * tensor.element_size() for tensor in held.values()))

    optim_wrapper.observe_gradients(count)
    for step in range(2):
        optim_wrapper.update_params(loss_of(model, *batch(name, step)))
    largest = max(layer.num_bytes for layer in list_layers(model))
    assert len(alive) == 2 * sum(1 for _ in model.parameters())
    assert max(alive) <= largest < sum(param.numel() * 4 for param in model.parameters()) * 0.6


def test_observers_see_every_gradient_of_a_step():
    ours, reference = small_classifier('vit-b16'), small_classifier('vit-b16')
    optim_wrapper, seen = build(ours), {}
    handle = optim_wrapper.observe_gradients(lambda param, grad: seen.__setitem__(param, grad.norm()))
    optim_wrapper.update_params(loss_of(ours, *batch('vit-b16', 0)))
    build(reference, 'OptimWrapper')
    loss_of(reference, *batch('vit-b16', 0)).backward()
    for param, expected in zip(ours.parameters(), reference.parameters()):
        assert (param in seen) == (expected.grad is not None)
        assert param not in seen or torch.equal(seen[param], expected.grad.norm())
    handle.remove()
    seen.clear()
    optim_wrapper.update_params(loss_of(ours, *batch('vit-b16', 1)))
    assert not seen


def test_training_continues_bit_identically_from_a_loaded_state():
    straight, _ = train('vit-b16', 'SGDInBackwardOptimWrapper', SCHEDULES['unfreezing'])
    model = small_classifier('vit-b16')
    optim_wrapper = build(model)
    scheduler = SCHEDULES['unfreezing'](optim_wrapper)
    for step in range(STEPS):
        if step == 9:
            saved = [part.state_dict() for part in (model, optim_wrapper, scheduler)]
            weights = {key: value.clone() for key, value in saved[0].items()}
            model = small_classifier('vit-b16', seed=1)
            optim_wrapper = build(model)
            scheduler = SCHEDULES['unfreezing'](optim_wrapper)
            model.load_state_dict(weights)
            optim_wrapper.load_state_dict(saved[1])
            scheduler.load_state_dict(saved[2])
        optim_wrapper.update_params(loss_of(model, *batch('vit-b16', step)))
        scheduler.step()
    assert_bit_identical(model, straight)


def step(model, optim_wrapper, number: int) -> None:
    optim_wrapper.update_params(loss_of(model, *batch('vit-b16', number)))


MOMENTUM = dict(momentum=0.9, weight_decay=0.1)


@pytest.mark.parametrize('first_is', ['alive', 'gone'])
@pytest.mark.parametrize(
    'second', [dict(lr=0.1), dict(wrapper='OptimWrapper', **MOMENTUM)], ids=['in backward', 'momentum']
)
def test_another_optimizer_on_the_same_model_equals_one_on_a_fresh_model(first_is, second):
    """As in a notebook, where the name of the first wrapper is bound again or not."""
    ours = small_classifier('vit-b16')
    first = build(ours)
    for number in range(2):
        step(ours, first, number)
    fresh = small_classifier('vit-b16', seed=1)
    fresh.load_state_dict(ours.state_dict())
    if first_is == 'gone':
        del first
    again, reference = build(ours, **second), build(fresh, **second)
    for number in range(3):
        step(ours, again, number)
        step(fresh, reference, number)
    assert_bit_identical(ours, fresh)
    if first_is == 'alive':  # and the first one may continue
        third = build(fresh)
        step(ours, first, 3)
        step(fresh, third, 3)
        assert_bit_identical(ours, fresh)


def test_a_backward_pass_outside_the_wrapper_leaves_its_gradients():
    ours, reference = small_classifier('vit-b16'), small_classifier('vit-b16')
    optim_wrapper = build(ours)
    for model in (ours, reference):
        loss_of(model, *batch('vit-b16', 0)).backward()
    assert_bit_identical(ours, reference)
    for param, expected in zip(ours.parameters(), reference.parameters()):
        assert not param.requires_grad or torch.equal(param.grad, expected.grad)
    with pytest.raises(RuntimeError):
        optim_wrapper.update_params(torch.zeros(()))  # nothing to differentiate
    loss_of(ours, *batch('vit-b16', 0)).backward()
    assert any(param.grad is not None for param in ours.parameters())


def test_hooks_leave_the_parameters_with_the_wrapper():
    model = small_classifier('vit-b16')
    optim_wrapper = build(model)
    for number in range(2):
        step(model, optim_wrapper, number)
        hooks = [len(param._post_accumulate_grad_hooks) for param in model.parameters() if param.requires_grad]
        assert set(hooks) == {1}
        if number == 0:
            optim_wrapper.release()
            assert not any(param._post_accumulate_grad_hooks for param in model.parameters())
    del optim_wrapper
    assert not any(param._post_accumulate_grad_hooks for param in model.parameters())


@pytest.mark.parametrize('options, optimizer, keys', [
    (dict(clip_grad=dict(max_norm=1.0)), {}, ['optim_wrapper.clip_grad']),
    (dict(accumulative_counts=2), {}, ['optim_wrapper.accumulative_counts=2']),
    (dict(loss_scale='dynamic'), {}, ['optim_wrapper.loss_scale']),
    (dict(dtype='float16'), {}, ["optim_wrapper.dtype='float16'"]),
    ({}, dict(momentum=0.9), ['optim_wrapper.optimizer.momentum=0.9']),
    ({}, dict(type='AdamW'), ["optim_wrapper.optimizer.type='AdamW'"]),
])  # fmt: skip
def test_impossible_combinations_are_refused_and_both_keys_are_named(options, optimizer, keys):
    with pytest.raises(UserError) as caught:
        build(small_classifier('vit-b16'), options=options, **optimizer)
    message = str(caught.value)
    assert '\n' not in message
    for key in ["optim_wrapper.type='SGDInBackwardOptimWrapper'", *keys]:
        assert key in message


def test_one_accumulation_step_and_no_clipping_are_accepted():
    options = dict(accumulative_counts=1, clip_grad=None)
    assert isinstance(build(small_classifier('vit-b16'), options=options), SGDInBackwardOptimWrapper)


def test_model_wrapper_without_reduction_refuses_other_optim_wrappers():
    model = small_classifier('vit-b16')
    optim_wrapper = build(model, 'OptimWrapper')
    with pytest.raises(UserError) as caught:
        InBackwardDataParallel(model).train_step({}, optim_wrapper)
    for key in ("model_wrapper_cfg.type='InBackwardDataParallel'", "optim_wrapper.type='OptimWrapper'"):
        assert key in str(caught.value)
