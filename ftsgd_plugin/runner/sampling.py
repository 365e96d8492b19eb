"""Randomness as a pure function of the training position: a resumed run draws the same numbers as one never stopped.

Saving generator states is not enough: data workers restart and draw ahead of the training step. Here the order of the
data depends on (seed, epoch), the augmentation of an image on (seed, epoch, its index, how often it was drawn before in
the epoch), and everything random in a training step (dropout, stochastic depth, mixup) on (seed, rank, iteration).
Order and augmentation do not depend on the number of processes or workers.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.device import get_device
from mmengine.dist import all_gather_object, get_rank
from torch.utils.data import DataLoader, Sampler

from ..utils.errors import UserError

_AUGMENTATION, _STEP, _ORDER = 0, 1, 2  # first part of every key: the kinds of randomness must differ
ORDERS = ('independent', 'mmengine')  # how seed and epoch give the order of the data; see PositionedSampler


def _states(*key: int) -> list[int]:
    """Three seeds from a tuple of integers, by NumPy's hash; equal on every machine."""
    return np.random.SeedSequence([number & 0xFFFFFFFFFFFFFFFF for number in key]).generate_state(3).tolist()


def seed_step(seed: int, rank: int, iteration: int) -> None:
    """Seed Python, NumPy and torch (CPU and GPU) for one training step."""
    python, numpy, pytorch = _states(_STEP, seed, rank, iteration)
    random.seed(python)
    np.random.seed(numpy)
    if get_device() == 'cpu':  # torch.manual_seed looks for other devices, which takes 0.5 ms
        torch.default_generator.manual_seed(pytorch)
    else:
        torch.manual_seed(pytorch)


class SeededIndex(int):
    """The index of a sample, with the seed and the epoch it is drawn in.

    Attributes:
        seed, epoch: Of this draw.
        occurrence: How often this index was drawn before in the epoch, over all processes.
    """

    seed: int
    epoch: int
    occurrence: int

    def __new__(cls, value: int, seed: int, epoch: int, occurrence: int = 0) -> 'SeededIndex':
        index = super().__new__(cls, value)
        index.seed, index.epoch, index.occurrence = seed, epoch, occurrence
        return index

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.seed, self.epoch, self.occurrence)

    def states(self) -> list[int]:
        """Seeds of the augmentation; those of a first draw are those that version 0.1.0 used for every draw."""
        again = (self.occurrence,) if self.occurrence else ()
        return _states(_AUGMENTATION, self.seed, self.epoch, int(self), *again)


class SeededFetch:
    """Seed Python, NumPy and torch's CPU generator before each sample of a batch.

    :func:`make_reproducible` sets it as ``dataset.__getitems__``, torch's protocol for fetching a batch: a loader calls
    it, if the dataset has it, with the indices of the batch, in the process that decodes the images. It replaces no
    method of MMEngine's datasets and stays as long as the loader does. A dataset around the loader's own would need no
    attribute, but a loader's dataset cannot be exchanged, and hooks look at its type.

    The index is that of the outermost dataset, so that repetitions of an image (``RepeatDataset``,
    ``ClassBalancedDataset``) differ, and the outermost dataset may wrap any other. So do the draws of a sampler that
    repeats an index within an epoch.

    Args:
        dataset: The loader's dataset.
    """

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __call__(self, indices: Sequence[int]) -> list:
        samples = []
        for index in indices:
            if isinstance(index, SeededIndex):
                python, numpy, pytorch = index.states()
                random.seed(python)
                np.random.seed(numpy)
                torch.random.default_generator.manual_seed(pytorch)  # no GPU's: a worker must not use one
            samples.append(self.dataset[int(index)])
        return samples


class PositionedSampler(Sampler):
    """A sampler that can start anywhere in an epoch and yields :class:`SeededIndex`.

    The order. MMEngine's samplers add seed and epoch, so that epoch 1 of seed 0 has the order of epoch 0 of seed 1:
    runs that differ by seed see shifted copies of one sequence, and a mean over them has a larger variance than its
    interval assumes. ``'independent'`` hashes (seed, epoch) instead; seed 0 keeps the order of MMEngine. ``'mmengine'``
    is the sum.

    Args:
        sampler: MMEngine's ``DefaultSampler``, ``InfiniteSampler`` or another with ``set_epoch``. One that repeats an
            index within an epoch (``RepeatAugSampler``, weighted sampling) is listed at the start of an epoch, on every
            rank, to count the repetitions.
        world_size: Number of processes that share the samples.
        order: One of ``ORDERS``; it may be set before an epoch.
    """

    def __init__(self, sampler: Sampler, world_size: int, order: str = ORDERS[0]) -> None:
        self.sampler, self.world_size, self.order = sampler, world_size, order
        self.seed = self.epoch = self._start = 0
        self._silent = self._placed = False
        self._position: Callable[[], tuple[int, int, int]] | None = None

    @property
    def is_infinite(self) -> bool:
        """Whether one pass never ends."""
        return isinstance(self.sampler, InfiniteSampler)

    def go_to(self, seed: int, epoch: int, samples: int) -> None:
        """Let the next iterator start after the first ``samples`` of this rank in an epoch."""
        self.seed, self.epoch, self._start = seed, epoch, samples
        self._silent, self._placed = False, True
        if hasattr(self.sampler, 'seed'):
            self.sampler.seed = self._order_seed()
        self.sampler.set_epoch(epoch)

    def _order_seed(self) -> int:
        if self.order == 'mmengine' or self.seed == 0 or self.is_infinite:  # an infinite one adds nothing to the seed
            return self.seed
        return _states(_ORDER, self.seed, self.epoch)[0]

    def follow(self, position: Callable[[], tuple[int, int, int]]) -> None:
        """Let every iterator for which :meth:`go_to` was not called start at ``position()``, its arguments."""
        self._position, self._silent = position, False

    def silence(self) -> None:
        """Let iterators be empty until a position is given, for a loop that creates one before it knows its own."""
        self._silent = True

    def __iter__(self) -> Iterator[SeededIndex]:
        if self._silent:
            return
        if self._position is not None and not self._placed:
            self.go_to(*self._position())
        self._placed = False
        seed, epoch, start, self._start = self.seed, self.epoch, self._start, 0
        per_epoch = max(1, len(self.sampler) // self.world_size)
        if type(self.sampler) in (DefaultSampler, InfiniteSampler):  # permutations: no index is drawn twice
            for position, index in enumerate(self.sampler):
                if position >= start:
                    yield SeededIndex(index, seed, position // per_epoch if self.is_infinite else epoch)
            return
        length, position, indices = per_epoch if self.is_infinite else len(self.sampler), 0, iter(self.sampler)
        while drawn := [int(index) for index in islice(indices, length)]:
            if position + len(drawn) > start:
                pass_ = position // per_epoch if self.is_infinite else epoch
                for index, occurrence in zip(drawn, _count_repetitions(drawn)):
                    if position >= start:
                        yield SeededIndex(index, seed, pass_, occurrence)
                    position += 1
            else:
                position += len(drawn)
            if not self.is_infinite:
                return

    def __len__(self) -> int:
        return len(self.sampler)


def _count_repetitions(drawn: list[int]) -> list[int]:
    """How often each index of this rank's epoch is drawn before, by any rank: earlier, or now by a lower rank."""
    ranks = all_gather_object(np.asarray(drawn, np.int64))
    positions = np.concatenate([np.arange(len(one)) for one in ranks])
    owners = np.repeat(np.arange(len(ranks)), [len(one) for one in ranks])
    values = np.concatenate(ranks)
    order = np.lexsort((owners, positions, values))  # by value, then position, then rank
    ordered = values[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.empty(len(values), np.int64)
    counts[order] = np.arange(len(values)) - np.repeat(first, np.diff([*first, len(values)]))
    return counts[owners == get_rank()].tolist()


def make_reproducible(loader: DataLoader, world_size: int) -> PositionedSampler:
    """Give a training data loader a :class:`PositionedSampler`, and its dataset :class:`SeededFetch`.

    Raises:
        UserError: Its order cannot be set (no batch sampler around a sampler with ``set_epoch``).
    """
    batches = loader.batch_sampler
    sampler = getattr(batches, 'sampler', None)
    if isinstance(sampler, PositionedSampler):
        return sampler
    if not hasattr(sampler, 'set_epoch'):
        raise UserError(
            f'train_dataloader.sampler: {type(sampler).__name__} has no set_epoch, so its order cannot be resumed; use '
            "sampler=dict(type='DefaultSampler', shuffle=True), or train_cfg=dict(by_epoch=True, ...) without exact "
            'resuming.'
        )
    batches.sampler = PositionedSampler(sampler, world_size)
    loader.dataset.__getitems__ = SeededFetch(loader.dataset)
    return batches.sampler
