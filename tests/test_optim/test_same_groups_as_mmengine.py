"""With ``freeze='none'`` the constructor takes what MMEngine's takes and gives every parameter the same options.

MMEngine's own tests of its constructor are not in its wheel; these are the same cases. It makes one group per
parameter, ours merges groups that agree, so the groups are compared parameter by parameter.
"""

import pytest
import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ftsgd_plugin.optim import FreezeEmbedOptimWrapperConstructor

BASE = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, weight_decay=1e-4, momentum=0.9))


class Sub(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 2, kernel_size=1, groups=2)  # depth-wise
        self.gn = nn.GroupNorm(2, 2)
        self.param1 = nn.Parameter(torch.ones(1))


class Example(nn.Module):
    """The shape of MMEngine's ``ExampleModel``: no backbone, no layer list."""

    def __init__(self) -> None:
        super().__init__()
        self.param1 = nn.Parameter(torch.ones(1))
        self.conv1 = nn.Conv2d(3, 4, kernel_size=1, bias=False)
        self.conv2 = nn.Conv2d(4, 2, kernel_size=1)
        self.bn = nn.BatchNorm2d(2)
        self.sub = Sub()
        self.fc = nn.Linear(2, 1)


class Duplicate(Example):
    """One module under two names, and one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Sequential(nn.Conv2d(3, 4, kernel_size=1, bias=False))
        self.conv3[0] = self.conv1


class Wrapped(nn.Module):
    """MMEngine's ``PseudoDataParallel``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model


def options(optim_wrapper, model: nn.Module) -> dict[str, dict]:
    """The hyper-parameters of every optimised parameter, by name."""
    names = {id(param): name for name, param in model.named_parameters()}
    return {
        names[id(param)]: {key: value for key, value in group.items() if key not in ('params', 'name', 'role', 'block')}
        for group in optim_wrapper.optimizer.param_groups
        for param in group['params']
    }


def both(make=Example, optimizer: dict | None = None, wrap=lambda model: model, **paramwise) -> tuple[dict, dict]:
    model, cfg = make(), dict(BASE, optimizer=optimizer or BASE['optimizer'])
    theirs = DefaultOptimWrapperConstructor(dict(cfg), dict(paramwise) or None)(wrap(model))
    ours = FreezeEmbedOptimWrapperConstructor(dict(cfg), dict(paramwise, freeze='none'))(wrap(model))
    assert type(ours) is type(theirs) and type(ours.optimizer) is type(theirs.optimizer)
    return options(ours, model), options(theirs, model)


PARAMWISE = {
    'nothing': {},
    'bias_lr_mult': dict(bias_lr_mult=2),
    'bias_decay_mult': dict(bias_decay_mult=0.5),
    'norm_decay_mult': dict(norm_decay_mult=0),
    'dwconv_decay_mult': dict(dwconv_decay_mult=0.1),
    'flat_decay_mult': dict(flat_decay_mult=0.3),
    'dcn_offset_lr_mult': dict(dcn_offset_lr_mult=0.1),
    'all': dict(
        bias_lr_mult=2, bias_decay_mult=0.5, norm_decay_mult=0, dwconv_decay_mult=0.1, dcn_offset_lr_mult=0.1,
        flat_decay_mult=0.3,
    ),
    'custom_keys': dict(
        custom_keys={
            'param1': dict(lr_mult=10), 'sub': dict(lr_mult=0.1, decay_mult=0), 'sub.gn': dict(lr_mult=0.01),
        },
        norm_decay_mult=0.5,
    ),
    'own options in custom_keys': dict(custom_keys={'conv1': dict(lr_mult=0.5, momentum=0.5, tag='x')}),
    'a key of the whole name': dict(custom_keys={'.param1': dict(decay_mult=0.0)}),
}  # fmt: skip


@pytest.mark.parametrize('paramwise', PARAMWISE.values(), ids=PARAMWISE)
def test_every_parameter_has_mmengines_options(paramwise):
    ours, theirs = both(**paramwise)
    assert ours == theirs and len(ours) == len(list(Example().parameters()))


@pytest.mark.parametrize('kind', ['Adam', 'AdamW', 'RMSprop', 'LBFGS'])
def test_every_optimizer(kind):
    optimizer = dict(type=kind, lr=0.01)
    if kind == 'LBFGS':  # refuses more than one group: without options of parameters ours makes one, as MMEngine does
        ours, theirs = both(optimizer=optimizer)
    else:
        ours, theirs = both(optimizer={**optimizer, 'weight_decay': 0.1}, norm_decay_mult=0.0)
    assert ours == theirs


def test_a_wrapper_with_a_module():
    model = Example()
    cfg = dict(BASE)
    ours = FreezeEmbedOptimWrapperConstructor(cfg, dict(freeze='none', bias_lr_mult=2))(Wrapped(model))
    theirs = DefaultOptimWrapperConstructor(cfg, dict(bias_lr_mult=2))(Wrapped(model))
    assert options(ours, model) == options(theirs, model)


def test_parameters_that_the_model_freezes_are_left_out_as_with_any_option_of_mmengines():
    def make() -> Example:
        model = Example()
        model.conv1.weight.requires_grad_(False)
        return model

    ours, theirs = both(make, bias_lr_mult=2)
    assert ours == theirs and 'conv1.weight' not in ours


def test_duplicates_are_passed_over_with_bypass_duplicate():
    ours, theirs = both(Duplicate, bypass_duplicate=True, norm_decay_mult=0)
    assert ours == theirs


@pytest.mark.parametrize(
    'optim_wrapper_cfg, paramwise, kind',
    [
        (['SGD'], None, TypeError),
        (dict(type='OptimWrapper'), None, AssertionError),
        (BASE, ['error'], TypeError),
        (BASE, dict(custom_keys=['conv1']), TypeError),
        (dict(optimizer=dict(type='SGD', lr=0.1)), dict(custom_keys={'conv1': dict(decay_mult=0.1)}), ValueError),
        (dict(optimizer=dict(type='SGD', lr=0.1)), dict(norm_decay_mult=0.1), ValueError),
    ],
)
def test_the_same_mistakes_raise_the_same_exceptions(optim_wrapper_cfg, paramwise, kind):
    for constructor in (DefaultOptimWrapperConstructor, FreezeEmbedOptimWrapperConstructor):
        with pytest.raises(kind):
            constructor(optim_wrapper_cfg, paramwise)


def test_where_ours_differs_on_purpose():
    """The cases of MMEngine's tests that end otherwise, as the class says."""
    with pytest.raises(ValueError, match='more than one parameter group'):
        DefaultOptimWrapperConstructor(dict(BASE), dict(norm_decay_mult=0))(Duplicate())
    model = Duplicate()  # a shared parameter is optimised once instead
    ours = FreezeEmbedOptimWrapperConstructor(dict(BASE), dict(norm_decay_mult=0, freeze='none'))(model)
    assert len(options(ours, model)) == len(list(model.parameters()))

    custom = dict(custom_keys={'non_exist_key': dict(lr_mult=0.0)})  # without effect there
    DefaultOptimWrapperConstructor(dict(BASE), custom)(Example())
    with pytest.raises(ValueError, match="custom_keys\\['non_exist_key'\\] is part of no parameter name"):
        FreezeEmbedOptimWrapperConstructor(dict(BASE), dict(custom, freeze='none'))(Example())


def test_only_freezing_by_name_needs_a_layer_list():
    with pytest.raises(ValueError, match=r'no layer list for .*Example \('):
        FreezeEmbedOptimWrapperConstructor(dict(BASE), dict(freeze='embed'))(Example())


def test_such_a_model_trains_as_under_mmengine():
    results = []
    for constructor, paramwise in (
        (DefaultOptimWrapperConstructor, dict(bias_lr_mult=2)),
        (FreezeEmbedOptimWrapperConstructor, dict(bias_lr_mult=2, freeze='none')),
    ):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
        wrapper = constructor(dict(BASE), paramwise)(model)
        for step in range(5):
            torch.manual_seed(step)
            wrapper.update_params(model(torch.randn(8, 3)).square().mean())
        results.append(torch.cat([param.detach().flatten() for param in model.parameters()]))
    assert torch.equal(*results)
