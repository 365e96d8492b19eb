"""The method parts beside the paper's: what trains, and the table of what each works with, cell by cell."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import ROOT
from helpers.measured_rates import built, of_items
from helpers.other_methods import ITERATIONS, Training, has_gradient, part, require, train_on_two_ranks
from helpers.ranks import run_two_ranks
from helpers.small_models import trained

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.methods import COMBINATIONS, OTHER_METHODS, YES, combinations_table
from ftsgd_plugin.optim.probe_then_finetune import ProbeThenFineTuneLR
from ftsgd_plugin.optim.schedule import probe_steps
from ftsgd_plugin.utils.errors import UserError

CHANGES = 1e-8  # rounding in float64 over four steps; Adafactor divides some of it by its own size
# Moments of 8 bits: a tenth of the learning rate. Flashoptim trains in float32.
ROUNDED = {'adamw-8bit': 1e-6, 'flash-adamw': 1e-6, 'flash-sgd': 1e-6}


@pytest.fixture(scope='module')
def alone():
    """Method -> its training, saved at half, and the weights after every iteration; each is trained once."""
    found = {}

    def of(method: str) -> tuple[Training, torch.Tensor]:
        if method not in found:
            training = Training(method)
            first = training.run(ITERATIONS // 2)
            training.state()  # as the run that is resumed: an average of weights is rounded when it is saved
            found[method] = training, torch.cat([first, training.run(ITERATIONS - ITERATIONS // 2)])
        return found[method]

    return of


@pytest.fixture(scope='module')
def ranks(tmp_path_factory, run_forked):  # the server of its processes has started
    directory = tmp_path_factory.mktemp('other_methods')
    run_two_ranks(train_on_two_ranks, directory)
    return [torch.load(directory / f'{rank}.pt', weights_only=True) for rank in range(2)]


def embedding(training: Training) -> list[torch.Tensor]:
    return [p for layer in list_layers(training.inner) if layer.role == 'embed' for p in layer.params.values()]


@pytest.mark.parametrize('method', OTHER_METHODS)
def test_freeze_embed(method, alone):
    """The first column: the embedding keeps its bytes and has no state, and the method trains the rest as before."""
    require(method)
    says = OTHER_METHODS[method].freeze_embed
    if says == YES:
        training = Training(method, freeze='embed')
        training.run(ITERATIONS)
    else:
        training, _ = alone(method)
    held = [param for group in training.optim_wrapper.optimizer.param_groups for param in group['params']]
    start = embedding(Training(method))
    kept = all(torch.equal(now, before) for now, before in zip(embedding(training), start))
    outside = not any(param is one for param in embedding(training) for one in held)
    assert kept == outside == (not says.startswith('no'))


@pytest.mark.parametrize('method', OTHER_METHODS)
def test_resume(method, alone):
    """The second column: stopped at half and continued from its state, every later weight is bit-identical."""
    require(method)
    _, expected = alone(method)
    first = Training(method)
    first.run(ITERATIONS // 2)
    second = Training(method)
    second.load(first.state())
    assert torch.equal(second.run(ITERATIONS - ITERATIONS // 2), expected[ITERATIONS // 2 :])


@pytest.mark.multiprocess
@pytest.mark.parametrize('method', OTHER_METHODS)
def test_accumulation_and_ddp(method, ranks):
    """The last two columns: two ranks that accumulate equal one process that does, after every iteration."""
    require(method)
    first, second = (rank[method] for rank in ranks)
    training = Training(method, 2)
    expected, meant = training.run(ITERATIONS), has_gradient(training.inner)
    assert torch.equal(first, second)
    tolerance = ROUNDED.get(method, CHANGES)
    torch.testing.assert_close(first[:, meant], expected[:, meant], rtol=tolerance, atol=tolerance)
    moved = [not torch.equal(before, after) for before, after in pairwise(expected)]
    assert moved == [True, False, True]  # the second and fourth iteration update


@pytest.mark.multiprocess
def test_two_ranks_measure_the_learning_rates_of_one_process(ranks):
    model, optim_wrapper = built()
    first, second = (rank['measured'] for rank in ranks)
    assert first == second == pytest.approx(of_items(model, optim_wrapper, 1), rel=1e-4)


def test_the_documentation_has_the_tested_table():
    assert combinations_table() in (ROOT / 'docs/other_methods.md').read_text('utf-8')
    assert COMBINATIONS == ('freeze-embed', 'resume', 'accumulation', 'DDP')


def expected_trained(method: str, training: Training) -> set[str]:
    """What trains at the start, from names and not from the rules of the package."""
    names = {name for name, _ in training.inner.named_parameters()}
    head = {name for name in names if name.startswith('head.')}
    rules = {
        'linear-probe': head,
        'lp-ft': head,
        'surgical-first': {
            n for n in names if 'patch_embed' in n or 'blocks.0.' in n or n.endswith(('_embed', '_token'))
        }
        | head,
        'bitfit-norm': {n for n in names if n.endswith('bias') or '.norm' in n} | head,
        'lora': {n for n in names if '.lora_' in n} | head,
        'freeze-embed-wise-ft': {n for n in names if 'patch_embed' not in n},
        'flash-sgd': {n for n in names if 'patch_embed' not in n},
    }
    return rules.get(method, names)


@pytest.mark.parametrize('method', OTHER_METHODS)
def test_what_trains(method):
    require(method)
    training = Training(method)
    assert trained(training.inner) == expected_trained(method, training)


def test_lp_ft_opens_everything_at_half_and_each_part_has_a_cosine():
    training = Training('lp-ft')
    base = part('lp-ft').optim_wrapper.optimizer.lr
    rates, counts = [], []
    for _ in range(ITERATIONS):
        rates.append(training.optim_wrapper.optimizer.param_groups[0]['lr'] / base)
        counts.append(len(trained(training.inner)))
        training.run(1)
    everything = sum(1 for _ in training.inner.parameters())
    assert rates == pytest.approx([10, 10, 1, 1]) and counts == [2, 2, everything, everything]
    assert [probe_steps(total, 0.5) for total in (1, 2, 5, 20)] == [0, 1, 2, 10]


def test_what_the_surgical_paper_calls_the_first_block_of_a_convnet_is_its_stem_and_first_stage():
    from helpers.small_models import small_classifier

    from ftsgd_plugin.freezing import select_layers

    layers = list_layers(small_classifier('convnext-b'))
    frozen = {layer.name for layer in select_layers(layers, 'all-but-first-block')}
    assert {layer.role for layer in layers if layer.name not in frozen} == {'embed', 'head'}


@pytest.mark.parametrize('name, value', [('probe', 0), ('probe', 1), ('probe', math.nan), ('probe_factor', 0),
                                         ('probe_factor', math.inf), ('probe_factor', math.nan)])  # fmt: skip
def test_a_probe_that_cannot_be_is_refused(name, value):
    optimizer = Training('lp-ft').optim_wrapper
    with pytest.raises(UserError, match=f'ProbeThenFineTuneLR: {name}={value!r} is not'):
        ProbeThenFineTuneLR(optimizer, end=4, **{name: value})
