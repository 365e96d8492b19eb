"""GradualUnfreezing with PyTorch's own schedulers, checkpoints and DistributedDataParallel; its mistakes."""

import io
import math

import pytest
import torch
from helpers.chain import Chain, batch
from helpers.gradual import factor
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler as schedulers

from ftsgd_plugin import GradualUnfreezing, freeze_layers, list_layers, param_groups, select_layers
from ftsgd_plugin.optim.schedule import open_blocks
from ftsgd_plugin.utils.errors import UserError

pytestmark = pytest.mark.filterwarnings('ignore:the frozen embedding', 'ignore:Detected call of')
BASE, TOTAL = 1e-3, 6


class Deep(Chain):
    """Five blocks, a batch norm in each."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(5))


def build(model: nn.Module, **options) -> tuple[torch.optim.Optimizer, GradualUnfreezing]:
    optimizer = torch.optim.SGD(param_groups(model, lr=BASE), momentum=0.9)
    return optimizer, GradualUnfreezing(optimizer, model, **{'total_steps': TOTAL, **options})


def trained_layers(model: nn.Module) -> list[str]:
    layers = list_layers(model)
    return [layer.name for layer in layers if any(param.requires_grad for param in layer.params.values())]


def update(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    inputs, labels = batch(step)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_opens_block_by_block_at_the_papers_rates_and_closed_layers_have_no_state():
    model = Deep().train()
    optimizer, scheduler = build(model)
    assert isinstance(scheduler, schedulers.LRScheduler)
    for step in range(TOTAL):
        opened = math.floor(5 * step / (TOTAL - 1))
        assert scheduler.open_blocks == opened
        assert trained_layers(model) == [f'blocks.{i}' for i in range(5 - opened, 5)] + ['head']
        assert scheduler.get_last_lr() == pytest.approx([BASE * factor(step, TOTAL)] * 6, rel=1e-12)
        update(model, optimizer, step)
        assert [block[1].training for block in model.blocks] == [i >= 5 - opened for i in range(5)]
        assert {id(param) for param in optimizer.state} <= {id(p) for p in model.parameters() if p.requires_grad}
        scheduler.step()
    for _ in range(3):  # past its end nothing changes
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([BASE] * 6, rel=1e-12)
    assert not model.stem.weight.requires_grad


def test_warmup_cooldown_decay_and_a_step_by_number():
    model = Deep()
    _, scheduler = build(model, total_steps=10, warmup=2, cooldown=3, decay=1.0)
    rates, opened = [], []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0])
        opened.append(scheduler.open_blocks)
        scheduler.step()
    progress = [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert rates == pytest.approx([BASE * math.exp(1 - part) for part in progress[:7]] + [BASE] * 3, rel=1e-12)
    assert opened == [open_blocks(step, 5, 10, 2, 3) for step in range(10)]
    with pytest.warns(UserWarning, match='epoch parameter'):  # PyTorch's own way to go to a step
        scheduler.step(3)
    assert scheduler.open_blocks == opened[3] and scheduler.get_last_lr() == pytest.approx([rates[3]] * 6, rel=1e-12)


OTHERS = {
    'LinearLR': lambda optimizer: schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=4),
    'ConstantLR': lambda optimizer: schedulers.ConstantLR(optimizer, factor=0.5, total_iters=3),
    'StepLR': lambda optimizer: schedulers.StepLR(optimizer, 2),
    'MultiStepLR': lambda optimizer: schedulers.MultiStepLR(optimizer, [1, 4]),
    'ExponentialLR': lambda optimizer: schedulers.ExponentialLR(optimizer, 0.9),
    'PolynomialLR': lambda optimizer: schedulers.PolynomialLR(optimizer, total_iters=8, power=2.0),
    'CosineAnnealingLR': lambda optimizer: schedulers.CosineAnnealingLR(optimizer, T_max=TOTAL),
}


@pytest.mark.parametrize('first', [True, False], ids=['other first', 'other second'])
@pytest.mark.parametrize('name', OTHERS)
def test_composes_with_schedulers_that_multiply(name, first):
    """The rate is the product of both, whoever was built and steps first; the other's alone is measured."""
    alone = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=BASE)
    other = OTHERS[name](alone)
    expected = []
    for step in range(TOTAL):
        expected.append(alone.param_groups[0]['lr'] * factor(step, TOTAL))
        other.step()
    model = Deep()
    optimizer = torch.optim.SGD(param_groups(model, lr=BASE), momentum=0.9)
    make = [lambda: OTHERS[name](optimizer), lambda: GradualUnfreezing(optimizer, model, TOTAL)]
    both = [one() for one in (make if first else make[::-1])]
    found = []
    for _ in range(TOTAL):
        found.append(optimizer.param_groups[0]['lr'])
        for scheduler in both:
            scheduler.step()
    assert found == pytest.approx(expected, rel=1e-12)


def test_groups_keep_their_own_rates_and_a_tensor_rate_stays_one():
    model = Deep()
    optimizer = torch.optim.AdamW(param_groups(model, lr=BASE, layer_decay_rate=0.5), lr=torch.tensor(BASE))
    own = [float(group['lr']) for group in optimizer.param_groups]
    optimizer.param_groups[0]['lr'] = torch.tensor(own[0], dtype=torch.float64)
    scheduler = GradualUnfreezing(optimizer, model, TOTAL)
    for step in range(TOTAL):
        rates = [float(group['lr']) for group in optimizer.param_groups]
        assert rates == pytest.approx([rate * factor(step, TOTAL) for rate in own], rel=1e-12)
        scheduler.step()
    assert isinstance(optimizer.param_groups[0]['lr'], torch.Tensor) and len(set(own)) > 1


def saved(*parts) -> list[dict]:
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in parts], buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize('order', ['optimizer first', 'scheduler first'])
def test_a_loaded_state_trains_what_its_step_trains(order):
    model = Deep()
    optimizer, scheduler = build(model)
    states = []
    for step in range(TOTAL):
        states.append((trained_layers(model), *saved(optimizer, scheduler)))
        update(model, optimizer, step)
        scheduler.step()
    again = Deep()
    optimizer, scheduler = build(again)
    for step in (3, 0, 5):  # forwards and backwards
        layers, optimizer_state, state = states[step]
        loads = [lambda: optimizer.load_state_dict(optimizer_state), lambda: scheduler.load_state_dict(state)]  # noqa: B023
        for load in loads if order == 'optimizer first' else loads[::-1]:
            load()
        assert trained_layers(again) == layers and scheduler.open_blocks == step
        assert all(param.grad is None for param in again.parameters() if not param.requires_grad)
    optimizer.load_state_dict(states[2][1])
    scheduler.load_state_dict(states[2][2])
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([BASE * factor(3, TOTAL)] * 6, rel=1e-12)


def test_a_state_of_another_schedule_or_model_is_refused():
    state = saved(build(Deep())[1])[0]
    for options in (dict(total_steps=7), dict(decay=1.0), dict(warmup=1), dict(cooldown=1)):
        ((name, value),) = options.items()
        with pytest.raises(UserError, match=f'the state is of a schedule with {name}=.*, this one has {value}'):
            build(Deep(), **options)[1].load_state_dict(state)
    with pytest.raises(UserError, match='the state is of a model with 5 blocks, this one has 2'):
        build(Chain())[1].load_state_dict(state)


def over_all(freeze: str) -> tuple[torch.optim.Optimizer, nn.Module]:
    """The mistake: the groups are not used."""
    model = Deep()
    param_groups(model, freeze)
    return torch.optim.SGD(model.parameters(), lr=BASE), model


def frozen_afterwards() -> tuple[torch.optim.Optimizer, nn.Module]:
    model = Deep()
    optimizer = torch.optim.SGD(param_groups(model, 'none'), lr=BASE)
    freeze_layers(model, select_layers(list_layers(model), 'embed'))
    return optimizer, model


def of_the_head() -> tuple[torch.optim.Optimizer, nn.Module]:
    model = Deep()
    groups = [group for group in param_groups(model) if group['role'] == 'head' or group['block'] == 4]
    return torch.optim.SGD(groups, lr=BASE), model


def of_the_head_alone() -> tuple[torch.optim.Optimizer, nn.Module]:
    model = Deep()
    return torch.optim.SGD(param_groups(model, ['stem', 'blocks.*']), lr=BASE), model


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: over_all('embed'), r'the optimizer holds 2 frozen parameters \(stem.weight, ...\)'),
        (lambda: over_all('none'), r'the optimizer groups do not name their layers; build the optimizer from param_gr'),
        (frozen_afterwards, r'the optimizer holds 2 frozen parameters'),
        (of_the_head, r'16 parameters of the model train \(blocks.0.0.weight, ...\) and are not in the optimizer'),
        (of_the_head_alone, 'no block trains, so there is none to open; freeze fewer layers'),
    ],
)
def test_an_optimizer_over_other_parameters_is_one_line(make, message):
    optimizer, model = make()
    with pytest.raises(UserError, match=message) as error:
        GradualUnfreezing(optimizer, model, TOTAL)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(total_steps=0), 'total_steps=0 is not a whole number >= 1'),
        (dict(total_steps=2.5), r'total_steps=2\.5 is not a whole number >= 1'),
        (dict(total_steps=True), 'total_steps=True is not a whole number >= 1'),
        (dict(warmup=-1), 'warmup=-1 is not a whole number >= 0'),
        (dict(cooldown=0.5), r'cooldown=0\.5 is not a whole number >= 0'),
        (dict(decay=math.nan), 'decay=nan is not a finite number; the paper uses 3.73'),
    ],
)
def test_settings_out_of_range_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        build(Deep(), **options)


@pytest.fixture
def process_group(tmp_path):
    """A group of this process alone."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_the_reducer_of_a_wrapped_model_follows_and_the_weights_are_those_without(process_group):
    """A reducer that waited for closed layers would raise at the second forward pass."""
    weights = []
    for wrap in (DistributedDataParallel, lambda model: model):
        wrapped = wrap(Chain())
        optimizer, scheduler = build(wrapped, total_steps=4)
        for step in range(4):
            update(wrapped, optimizer, step)
            scheduler.step()
        weights.append([param.detach() for param in wrapped.parameters()])
    assert all(torch.equal(ours, alone) for ours, alone in zip(*weights))


def test_groups_of_a_wrapped_model_need_no_hooks(process_group):
    wrapped = DistributedDataParallel(Chain())
    optimizer = torch.optim.SGD(param_groups(wrapped, lr=BASE))
    for step in range(2):
        update(wrapped, optimizer, step)
    assert not wrapped._forward_pre_hooks and not wrapped.module._forward_pre_hooks


def test_the_hooks_leave_the_model_with_the_optimizer():
    model = Deep()
    optimizer, scheduler = build(model)
    assert model._forward_pre_hooks
    del optimizer, scheduler
    assert not model._forward_pre_hooks
