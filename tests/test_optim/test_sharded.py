"""Sharded training on gloo ranks against one process: losses, weights, and what each rank keeps."""

import pytest
import torch
from helpers import sharded_runs
from helpers.ranks import start_ranks
from helpers.sharded_runs import FAST, PER_EPOCH, SLOW, dtype_of, name_of, train
from helpers.small_models import CLASSES, SMALL, expected_names, small_classifier
from mmengine.config import Config

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim.sharding.units import block_modules
from ftsgd_plugin.profiling.sharded import plan_sharded

pytestmark = pytest.mark.multiprocess
CASES = [
    *[pytest.param(2, 'fast', run, id=f'2 {name_of(run)}') for run in FAST],
    *[pytest.param(n, 'slow', run, id=f'{n} {name_of(run)}', marks=pytest.mark.slow) for n in (2, 4) for run in SLOW],
]


@pytest.fixture(scope='module')
def ranks_of(tmp_path_factory, run_forked):
    """What every rank returned, per group; a group is started once, after the server that forks its ranks."""
    groups = {}

    def of(count: int, which: str, run: tuple) -> list[dict]:
        if (count, which) not in groups:
            directory = tmp_path_factory.mktemp(f'{which}_{count}')
            start_ranks(getattr(sharded_runs, f'train_{which}_runs'), directory, count)
            files = [directory / f'{rank}.pt' for rank in range(count)]
            groups[count, which] = [torch.load(file, weights_only=True) for file in files]
        return [rank[name_of(run)] for rank in groups[count, which]]

    return of


@pytest.fixture(scope='module')
def alone_of():
    """The same run in one process without sharding."""
    results = {}

    def of(run: tuple) -> dict:
        options = {key: value for key, value in run[1].items() if key != 'wrapper'}
        if name_of(run) not in results:
            results[name_of(run)] = train(run[0], **options)
        return results[name_of(run)]

    return of


@pytest.mark.parametrize('count, which, run', CASES)
def test_sharded_ranks_equal_one_process(ranks_of, alone_of, count, which, run):
    ranks, alone = ranks_of(count, which, run), alone_of(run)
    exact = dtype_of(run[0], run[1].get('name', '')) == torch.float64
    mean = torch.tensor([rank['losses'] for rank in ranks]).mean(0)
    torch.testing.assert_close(mean, torch.tensor(alone['losses']), rtol=1e-5, atol=1e-6)
    for rank in ranks:
        assert rank['evaluated'] == pytest.approx(alone['evaluated'], rel=1e-5)
    tolerance = dict(rtol=1e-8, atol=1e-9) if exact else dict(rtol=2e-5, atol=2e-6)
    moved = []
    for name, expected in alone['weights'].items():
        found, start = ranks[0]['weights'][name], alone['start'][name]
        torch.testing.assert_close(found, expected, **tolerance, msg=lambda text, name=name: f'{name}: {text}')
        trained = any(name in names for names in alone['phases'])
        assert trained or torch.equal(found, start), f'{name} is frozen and moved'
        moved.append(float((found - start).abs().max()))
    assert max(moved) > 100 * tolerance['atol']


@pytest.mark.parametrize('count, which, run', CASES)
def test_gradients_and_state_exist_only_where_they_may(ranks_of, alone_of, count, which, run):
    method, options = run
    alone = alone_of(run)
    for rank in ranks_of(count, which, run):
        assert rank['layers'] == alone['layers']
        assert rank['phases'] == alone['phases']
        for iteration, (names, kept) in enumerate(zip(rank['phases'], rank['kept'])):
            expected = [] if 'backward' in method else names
            assert kept['gradients'] == expected, f'iteration {iteration}'
            assert set(kept['state']) <= {name for earlier in rank['phases'][: iteration + 1] for name in earlier}
            assert kept['state'] == alone['kept'][iteration]['state']
        if 'momentum' in method or 'backward' in method:
            assert rank['bytes']['state'] == 0
    if 'gradual' in method:
        window, frozen = options.get('accumulate', 1), () if options.get('freeze') == 'none' else ('embed',)
        model = small_classifier('vit-b16')
        for iteration, names in enumerate(alone['phases'] if 'phases' not in method else ()):
            start = iteration - iteration % window
            assert set(names) == expected_names(model, start // PER_EPOCH, frozen)
        assert len({tuple(names) for names in alone['phases']}) == 4


@pytest.mark.parametrize('count, which, run', CASES)
def test_ranks_share_the_bytes(ranks_of, alone_of, count, which, run):
    """A tensor is cut along its first dimension: a rank has at most one row more than its share."""
    ranks, alone = ranks_of(count, which, run), alone_of(run)
    rows = {name: value[:1].nbytes for name, value in alone['start'].items()}
    for what in ('weights', 'state'):
        total, tensors = alone['bytes'][what], 2 if run[0].startswith(('adamw', 'bitfit')) else 1
        for rank in ranks:
            scalars = 4 * len(alone['kept'][-1]['state']) * (tensors == 2)  # AdamW counts the steps of each tensor
            share = (total - scalars) / count
            assert abs(rank['bytes'][what] - scalars * (what == 'state') - share) <= tensors * sum(rows.values())
    assert sum(rank['bytes']['weights'] for rank in ranks) == alone['bytes']['weights']


@pytest.mark.parametrize('count, which, run', [case for case in CASES if 'freeze' not in case.values[2][1]])
def test_counted_bytes_are_within_5_percent_of_the_plan(ranks_of, count, which, run):
    name, method = run[1].get('name', 'vit-b16'), run[0].split()[0]
    pixels = 64 if name.startswith('bit') else SMALL[name][0].get('image_size', 32)
    head = dict(type='LinearClsHead', num_classes=CLASSES, in_channels=small_classifier(name).head.in_channels)
    model = dict(type='ImageClassifier', backbone=SMALL[name][0], head=head)
    pipeline = [dict(type='torchvision/RandomResizedCrop', size=pixels)]
    cfg = Config(dict(model=model, train_dataloader=dict(batch_size=8, dataset=dict(pipeline=pipeline))))
    (plan,) = plan_sharded(cfg, count, [method], device='cpu')
    counted = ranks_of(count, which, run)[0]['bytes']
    wide = 2 if dtype_of(run[0], run[1].get('name', '')) == torch.float64 else 1  # the plan is of float32
    assert counted['weights'] == pytest.approx(wide * plan.phases[-1].weights, rel=0.05)
    assert counted['state'] == pytest.approx(wide * plan.phases[-1].state, rel=0.05)
    if 'backward' not in method:
        assert counted['gradients'] == pytest.approx(wide * plan.phases[-1].gradients, rel=0.05)


@pytest.mark.parametrize('name', [*SMALL])
def test_every_block_is_a_unit_of_its_own(name):
    model = small_classifier(name)
    layers = list_layers(model)
    units = block_modules(model, layers)
    block_of = {id(p): layer.block for layer in layers for p in layer.params.values()}
    held = [param for unit in units.values() for param in unit.parameters()]
    assert len({id(param) for param in held}) == len(held)
    assert {id(param) for param in held} == {key for key, block in block_of.items() if block is not None}
    for unit in units.values():
        assert len({block_of[id(param)] for param in unit.parameters()}) == 1
    if 'vit' in name:
        assert len(units) == SMALL[name][1]
