"""The order of the data by seed and epoch, and the draws of samplers that repeat an index within an epoch."""

import itertools
import pickle
import random
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, DefaultSampler, InfiniteSampler, RepeatDataset
from mmpretrain.datasets.samplers import RepeatAugSampler

from ftsgd_plugin.runner import sampling
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.runner.sampling import PositionedSampler, SeededFetch, SeededIndex, make_reproducible, seed_step
from ftsgd_plugin.utils.errors import UserError

SIZE = 24


class WeightedSampler(torch.utils.data.Sampler):
    """Draws with replacement, a few images most of the time."""

    def __init__(self, size: int) -> None:
        self.size, self.seed, self.epoch = size, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        weights = torch.tensor([10.0] * 3 + [0.1] * (self.size - 3))
        yield from torch.multinomial(weights, self.size, replacement=True, generator=generator)


class Draws:
    """A dataset whose samples are what the three generators draw."""

    metainfo = {}

    def __init__(self, size=SIZE):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(1).item()

    def get_cat_ids(self, index):
        return [0] if index else [1]

    def full_init(self):
        pass


def epoch_of(sampler, epoch: int = 0, start: int = 0, seed: int = 0, world_size: int = 1, **options):
    positioned = PositionedSampler(sampler, world_size, **options)
    positioned.go_to(seed, epoch, start)
    return list(itertools.islice(positioned, SIZE - start))


REPEATING = {
    'repeated augmentation': lambda: RepeatAugSampler(range(SIZE), num_repeats=3, seed=0),
    'weighted': lambda: WeightedSampler(SIZE),
}


@pytest.mark.parametrize('make', REPEATING.values(), ids=REPEATING)
def test_an_index_drawn_again_gets_another_augmentation(make):
    indices = epoch_of(make())
    assert len(set(indices)) < SIZE  # it does repeat
    samples = SeededFetch(Draws())(indices)
    for column in (1, 2, 3):
        assert len({sample[column] for sample in samples}) == SIZE
    assert SeededFetch(Draws())(epoch_of(make())) == samples  # the same every time
    assert SeededFetch(Draws())(epoch_of(make(), start=7)) == samples[7:]  # and from the middle


@pytest.mark.parametrize('make', REPEATING.values(), ids=REPEATING)
def test_the_first_draw_of_an_index_is_that_of_version_0_1_0(make):
    indices = epoch_of(make(), epoch=2)
    firsts = {int(index): index for index in reversed(indices)}
    assert all(index.occurrence == 0 for index in firsts.values())
    for value, index in firsts.items():
        seeds = np.random.SeedSequence([sampling._AUGMENTATION, 0, 2, value]).generate_state(3).tolist()
        assert index.states() == seeds == SeededIndex(value, 0, 2).states()


def of_rank(rank: int, world_size: int) -> RepeatAugSampler:
    with mock.patch('mmpretrain.datasets.samplers.repeat_aug.get_dist_info', lambda: (rank, world_size)):
        return RepeatAugSampler(range(SIZE), num_repeats=3, seed=0)


def test_copies_on_different_ranks_differ_and_do_not_depend_on_the_number_of_processes():
    """Repeated augmentation with as many ranks as copies: no rank sees an index twice."""
    ranks = []
    lists = [np.asarray(list(of_rank(rank, 3)), np.int64) for rank in range(3)]
    for rank in range(3):
        gathered = mock.patch.object(sampling, 'all_gather_object', lambda own: lists)
        with gathered, mock.patch.object(sampling, 'get_rank', lambda rank=rank: rank):
            ranks.append(epoch_of(of_rank(rank, 3), world_size=3))
    assert all(len(set(one)) == len(one) for one in ranks)
    dealt = [(int(index), index.occurrence) for row in zip(*ranks) for index in row]
    assert dealt == [(int(index), index.occurrence) for index in epoch_of(of_rank(0, 1))]
    assert len(set(dealt)) == SIZE


def test_an_infinite_sampler_that_repeats_is_counted_pass_by_pass():
    class Twice(InfiniteSampler):
        def __iter__(self):
            return (index // 2 for index in super().__iter__())

    sampler = PositionedSampler(Twice(range(SIZE), seed=0), 1)
    sampler.go_to(0, 0, 0)
    drawn = [(int(i), i.epoch, i.occurrence) for i in itertools.islice(sampler, 3 * SIZE)]
    assert len(set(drawn)) == 3 * SIZE
    sampler = PositionedSampler(Twice(range(SIZE), seed=0), 1)
    sampler.go_to(0, 0, SIZE + 5)
    resumed = [(int(i), i.epoch, i.occurrence) for i in itertools.islice(sampler, SIZE)]
    assert resumed == drawn[SIZE + 5 : 2 * SIZE + 5]


# Orders of seeds


def orders(order: str) -> dict[tuple[int, int], tuple[int, ...]]:
    sampler = DefaultSampler(range(SIZE), seed=0)
    return {
        (seed, epoch): tuple(epoch_of(sampler, epoch, seed=seed, order=order))
        for seed in range(4)
        for epoch in range(8)
    }


def test_orders_of_different_seeds_have_nothing_in_common():
    independent, sums = orders('independent'), orders('mmengine')
    assert sums[1, 0] == sums[0, 1] and sums[3, 4] == sums[2, 5]  # shifted copies of one sequence
    assert len(set(sums.values())) == 4 + 8 - 1 and len(set(independent.values())) == 4 * 8
    assert all(independent[0, epoch] == sums[0, epoch] for epoch in range(8))  # seed 0 is as it was
    assert PositionedSampler(DefaultSampler(range(SIZE), seed=0), 1).order == 'independent'
    positions = np.argsort(list(independent.values()), axis=1).reshape(len(independent), SIZE)
    correlations = np.corrcoef(positions)[np.triu_indices(len(independent), 1)]
    assert abs(correlations.mean()) < 0.03 and abs(correlations.std() - (SIZE - 1) ** -0.5) < 0.03


def test_the_variance_of_a_mean_over_seeds_is_that_of_independent_runs():
    """A number that depends on the order in every epoch, e.g. on which image comes last: shifted copies share most."""
    epochs, runs = 16, 4

    def result(order: str, seed: int) -> float:
        sampler = DefaultSampler(range(SIZE), seed=0)
        return sum(int(epoch_of(sampler, epoch, seed=seed, order=order)[-1]) for epoch in range(epochs))

    def ratio(order: str) -> float:
        groups = [[result(order, 1 + runs * group + seed) for seed in range(runs)] for group in range(40)]
        of_means, within = np.var(np.mean(groups, axis=1), ddof=1), np.mean(np.var(groups, axis=1, ddof=1))
        return of_means / (within / runs)

    assert 0.6 < ratio('independent') < 1.6 and ratio('mmengine') > 4


def test_a_resumed_run_keeps_the_order_of_its_checkpoint(digits_config):
    def loop(saved: dict, **options):
        cfg = digits_config(subset=32, launcher='none', **{'randomness.seed': 1}, **options)
        loop = build_runner(cfg).train_loop
        loop._iter = loop._epoch = 1
        loop.runner.message_hub.runtime_info.update(saved)
        return loop

    def adopted(saved: dict, **options) -> str:
        one = loop(saved, **options)
        one._adopt_order()
        assert one.runner.message_hub.get_info('ftsgd_data_order') == one.sampler.order
        return one.sampler.order

    assert adopted({}) == 'mmengine'  # of version 0.1.0
    assert adopted({'ftsgd_data_order': 'independent'}) == 'independent'
    assert adopted({'ftsgd_data_order': 'mmengine'}, **{'train_cfg.data_order': 'mmengine'}) == 'mmengine'
    with pytest.raises(UserError, match=r"resume: train_cfg.data_order='independent', but .* written with 'mmengine'"):
        adopted({}, **{'train_cfg.data_order': 'independent'})
    with pytest.raises(UserError, match=r"train_cfg.data_order='random' is not one of independent, mmengine"):
        loop({}, **{'train_cfg.data_order': 'random'})


def test_a_sample_draws_by_seed_epoch_and_index_whatever_came_before():
    fetch = SeededFetch(Draws())
    first = fetch([SeededIndex(2, seed=3, epoch=5)])
    torch.rand(7), np.random.rand(7), random.random()
    index = pickle.loads(pickle.dumps(SeededIndex(2, seed=3, epoch=5)))  # on its way to a worker
    assert fetch([index, SeededIndex(1, 3, 5)])[0] == first[0]
    assert type(first[0][0]) is int
    others = fetch([SeededIndex(1, 3, 5), SeededIndex(2, 4, 5), SeededIndex(2, 3, 6)])
    for column in (1, 2, 3):
        assert len({first[0][column], *(sample[column] for sample in others)}) == 4


@pytest.mark.parametrize(
    'wrap',
    [
        lambda: RepeatDataset(Draws(), times=3),
        lambda: ClassBalancedDataset(Draws(), oversample_thr=0.9),
        lambda: ConcatDataset([Draws(), Draws()]),
    ],
    ids=['repeat', 'balanced', 'concat'],
)
def test_wrapper_datasets_are_seeded_by_the_outer_index(wrap):
    """Repetitions of an image within an epoch differ, and every draw can be repeated."""
    with mock.patch('mmengine.dataset.dataset_wrapper.BaseDataset', Draws):
        dataset = wrap()
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, sampler=DefaultSampler(dataset, shuffle=True, seed=0))
    sampler = make_reproducible(loader, 1)
    assert make_reproducible(loader, 1) is sampler
    passes = []
    for epoch in (0, 0, 1):
        sampler.go_to(0, epoch, 0)
        passes.append([value for batch in loader for value in batch[3].tolist()])
    assert passes[0] == passes[1] != passes[2]
    assert len(set(passes[0])) == len(dataset) > 4


def test_sampler_without_set_epoch_is_refused():
    loader = torch.utils.data.DataLoader(list(range(8)), batch_size=2, shuffle=True)
    with pytest.raises(UserError, match=r'train_dataloader\.sampler: RandomSampler has no set_epoch'):
        make_reproducible(loader, 1)


def test_step_randomness_differs_by_seed_rank_and_iteration():
    drawn = set()
    for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        seed_step(*key)
        drawn.add((random.random(), np.random.rand(), torch.rand(1).item()))
    seed_step(0, 0, 0)
    assert len(drawn) == 4 and (random.random(), np.random.rand(), torch.rand(1).item()) in drawn


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_a_step_draws_the_numbers_of_manual_seed(device, monkeypatch):
    monkeypatch.setattr(sampling, 'get_device', lambda: device)
    seeded, manual_seed = [], torch.manual_seed
    monkeypatch.setattr(torch, 'manual_seed', lambda seed: (seeded.append(seed), manual_seed(seed)))
    seed_step(3, 1, 7)
    drawn = torch.rand(4)
    assert bool(seeded) is (device != 'cpu')  # the generators of devices, where there are any
    manual_seed(sampling._states(sampling._STEP, 3, 1, 7)[2])
    assert torch.equal(torch.rand(4), drawn)
