"""The options that make a backbone faster or smaller leave its result as it is."""

import copy

import pytest
import torch
from helpers.small_models import SMALL, batch, loss_of, small_classifier
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

KINDS = ('vit-b16', 'convnext-b', 'bit-r50', 'clip-vit-b16')


def train(
    kind: str, options: dict | None = None, lr: float = 0.05, autocast: bool = False
) -> tuple[list[float], list[torch.Tensor]]:
    """Train a small classifier with frozen embedding for two steps; losses and final weights."""
    model = small_classifier(kind, **(options or {}))
    optim_wrapper = build_optim_wrapper(
        model, dict(optimizer=dict(type='SGD', lr=lr), constructor='FreezeEmbedOptimWrapperConstructor')
    )
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    model.train()
    losses = []
    for step in range(2):
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            loss = loss_of(model, *batch(kind, step))
        loss.backward()
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        losses.append(loss.item())
    assert frozen and all(torch.equal(dict(model.named_parameters())[name], value) for name, value in frozen.items())
    return losses, [param.detach() for param in model.parameters()]


def small_backbone(kind: str, **options) -> torch.nn.Module:
    init_default_scope('mmpretrain')
    return MODELS.build({**SMALL[kind][0], **options})


SPEED_OPTIONS = [dict(channels_last=True), dict(grad_checkpointing=True), dict(compile=dict(backend='aot_eager'))]


@pytest.mark.parametrize(
    'kind, options',
    [
        # tracing takes long
        pytest.param(kind, options, marks=[pytest.mark.slow] * (kind != 'vit-b16' and 'compile' in options))
        for kind in KINDS
        for options in SPEED_OPTIONS
    ],
    ids=str,
)
def test_speed_options_leave_the_result_as_it_is(kind, options):
    losses, weights = train(kind)
    faster_losses, faster_weights = train(kind, options)
    assert faster_losses == pytest.approx(losses, rel=1e-4)
    for found, expected in zip(faster_weights, weights):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_bf16_autocast_trains_within_its_precision(kind):
    """bfloat16 keeps 8 bits (0.4 %); the error grows over 16 blocks of BiT, whose group norms see four values here."""
    losses, _ = train(kind, lr=1e-4)
    found, _ = train(kind, lr=1e-4, autocast=True)
    assert found == pytest.approx(losses, rel=1e-1 if kind == 'bit-r50' else 2e-2)


def test_compiled_backbone_keeps_its_parameter_names_and_copies():
    plain, compiled = small_backbone('vit-b16'), small_backbone('vit-b16', compile=dict(backend='aot_eager'))
    assert list(plain.state_dict()) == list(compiled.state_dict())
    twin = copy.deepcopy(compiled)
    with torch.no_grad():
        for param in twin.parameters():
            param.zero_()
        assert twin(torch.randn(1, 3, 32, 32))[0].abs().max() == 0
        assert compiled(torch.randn(1, 3, 32, 32))[0].abs().max() > 0


def test_channels_last_reaches_weights_and_features():
    backbone = small_backbone('convnext-b', channels_last=True)
    assert backbone.net.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    seen = []
    backbone.net.stages[1].register_forward_hook(lambda module, args, output: seen.append(output))
    backbone(torch.randn(2, 3, 64, 64))
    assert seen[0].is_contiguous(memory_format=torch.channels_last) and not seen[0].is_contiguous()


@pytest.mark.gpu
def test_channels_last_bit_on_a_gpu():
    backbone = small_backbone('bit-r50', channels_last=True).cuda()
    for param in backbone.net.stem.parameters():
        param.requires_grad_(False)
    backbone(torch.randn(2, 3, 32, 32).cuda())[0].sum().backward()
