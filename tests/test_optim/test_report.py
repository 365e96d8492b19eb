"""The report at the start of a run, and the predicted optimizer state."""

import re

import pytest
import torch
from torch import nn

from ftsgd_plugin.freezing import freeze_layers, select_layers
from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim.report import FreezeReport
from ftsgd_plugin.optim.state import optimizer_state_bytes, predict_state_bytes

_TYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize(
    'make',
    [
        lambda params: torch.optim.SGD(params, lr=0.1),
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True),
        lambda params: torch.optim.AdamW(params, lr=0.1),
        lambda params: torch.optim.AdamW(params, lr=0.1, amsgrad=True),
        lambda params: torch.optim.RMSprop(params, lr=0.1),
    ],
    ids=['sgd', 'momentum', 'fused', 'adamw', 'amsgrad', 'rmsprop'],
)
def test_predicted_state_is_the_state_after_a_step(vit, make):
    model = vit()
    freeze_layers(model, select_layers(list_layers(model), 'embed'))
    optimizer = make([param for param in model.parameters() if param.requires_grad])
    predicted = predict_state_bytes(optimizer)
    assert optimizer_state_bytes(optimizer) == 0
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    assert predicted == optimizer_state_bytes(optimizer)


def test_state_of_many_parameters_is_predicted_from_one_of_each_kind(monkeypatch):
    """Another option of a group, another shape and another type make another kind; the place of a layer does not."""
    params = [
        nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in ((3, 4), (5,)) for dtype in _TYPES for _ in 'ab'
    ]
    groups = [
        dict(params=params[::2], momentum=0.9, name='a', role='block', block=0),
        dict(params=params[1:4:2], momentum=0.9, name='b', role='block', block=1),
        dict(params=params[5::2], momentum=0.0),
    ]
    optimizer, stepped = torch.optim.SGD(groups, lr=0.1), []
    with monkeypatch.context() as patch:
        step = torch.optim.SGD.step
        patch.setattr(torch.optim.SGD, 'step', lambda self: (stepped.append(self), step(self)))
        predicted = predict_state_bytes(optimizer)
    assert sum(len(group['params']) for group in stepped[0].param_groups) == 4 + 2
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert predicted == optimizer_state_bytes(optimizer)


def test_an_optimizer_that_cannot_step_on_meta_is_unknown_not_fatal():
    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError('needs real tensors')

    optimizer = Odd([nn.Parameter(torch.ones(2))], lr=0.1)
    assert predict_state_bytes(optimizer) is None


def test_report_counts_layers_parameters_and_bytes(vit):
    model = vit()
    model.backbone.cls_token.requires_grad = False
    layers = list_layers(model)
    freeze_layers(model, select_layers(layers, 'embed'))
    groups = [param for param in model.parameters() if param.requires_grad]
    report = FreezeReport.of(
        layers, 'embed', select_layers(layers, 'embed'), torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    )
    patch = 16 * 3 * 8 * 8 + 16
    total = sum(param.numel() for param in model.parameters())
    assert report.frozen == (2, patch + 16, 4 * (patch + 16))
    assert report.trained == (11, total - patch - 16, 4 * (total - patch - 16))
    assert report.state_bytes == 4 * (total - patch - 16)
    assert report.self_frozen == 16
    text = str(report)
    assert f'frozen      2 layers         {patch + 16:,} parameters' in text
    assert 'of these 16 parameters are frozen by the model itself' in text
    assert f'{report.state_bytes / total:.2f} bytes per parameter' in text


def test_report_prints_sizes_in_iec_units(vit):
    model = vit()
    layers = list_layers(model)
    frozen = select_layers(layers, 'embed')
    freeze_layers(model, frozen)
    optimizer = torch.optim.SGD([param for param in model.parameters() if param.requires_grad], lr=0.1, momentum=0.9)
    head, trained, below, state = str(FreezeReport.of(layers, 'embed', frozen, optimizer)).splitlines()
    assert head == "freeze='embed'"
    assert re.fullmatch(r'  trained    12 layers +4,\d{3} parameters +\d\d\.\d\d% 1\d\.\d KiB', trained)
    assert re.fullmatch(r'  frozen      1 layers +3,088 parameters +\d\d\.\d\d% 12\.1 KiB', below)
    assert re.fullmatch(r'  SGD: 1 parameter groups, 1\d\.\d KiB of state, \d\.\d\d bytes per parameter', state)
