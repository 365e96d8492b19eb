"""Randomness as a pure function of the training position: a resumed run draws the same numbers as one never stopped.

Saving generator states is not enough: data workers restart and draw ahead of the training step. Here the order of the
data depends on (seed, epoch), the augmentation of an image on (seed, epoch, its index), and everything random in a
training step (dropout, stochastic depth, mixup) on (seed, rank, iteration). Order and augmentation do not depend on the
number of processes or workers.
"""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader, Sampler

from ..utils.errors import UserError

_AUGMENTATION, _STEP = 0, 1  # first part of every key: the two kinds of randomness must differ


def _states(*key: int) -> list[int]:
    """Three seeds from a tuple of integers, by NumPy's hash; equal on every machine."""
    return np.random.SeedSequence([number & 0xFFFFFFFFFFFFFFFF for number in key]).generate_state(3).tolist()


def seed_step(seed: int, rank: int, iteration: int) -> None:
    """Seed Python, NumPy and torch (CPU and GPU) for one training step."""
    python, numpy, pytorch = _states(_STEP, seed, rank, iteration)
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(pytorch)


class SeededIndex(int):
    """The index of a sample, with the seed and the epoch it is drawn in."""

    seed: int
    epoch: int

    def __new__(cls, value: int, seed: int, epoch: int) -> 'SeededIndex':
        index = super().__new__(cls, value)
        index.seed, index.epoch = seed, epoch
        return index

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.seed, self.epoch)


class SeededFetch:
    """Seed Python, NumPy and torch's CPU generator before each sample of a batch.

    :func:`make_reproducible` sets it as ``dataset.__getitems__``, torch's protocol for fetching a batch: a loader calls
    it, if the dataset has it, with the indices of the batch, in the process that decodes the images. It replaces no
    method of MMEngine's datasets and stays as long as the loader does. A dataset around the loader's own would need no
    attribute, but a loader's dataset cannot be exchanged, and hooks look at its type.

    The index is that of the outermost dataset, so that repetitions of an image (``RepeatDataset``,
    ``ClassBalancedDataset``) differ, and the outermost dataset may wrap any other.

    Args:
        dataset: The loader's dataset.
    """

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __call__(self, indices: Sequence[int]) -> list:
        samples = []
        for index in indices:
            if isinstance(index, SeededIndex):
                python, numpy, pytorch = _states(_AUGMENTATION, index.seed, index.epoch, int(index))
                random.seed(python)
                np.random.seed(numpy)
                torch.random.default_generator.manual_seed(pytorch)  # no GPU's: a worker must not use one
            samples.append(self.dataset[int(index)])
        return samples


class PositionedSampler(Sampler):
    """A sampler that can start anywhere in an epoch and yields :class:`SeededIndex`.

    Args:
        sampler: MMEngine's ``DefaultSampler``, ``InfiniteSampler`` or another with ``set_epoch``.
        world_size: Number of processes that share the samples.
    """

    def __init__(self, sampler: Sampler, world_size: int) -> None:
        self.sampler, self.world_size = sampler, world_size
        self.seed = self.epoch = self._start = 0
        self._silent = False

    @property
    def is_infinite(self) -> bool:
        """Whether one pass never ends."""
        return isinstance(self.sampler, InfiniteSampler)

    def go_to(self, seed: int, epoch: int, samples: int) -> None:
        """Let the next iterator start after the first ``samples`` of this rank in an epoch."""
        self.seed, self.epoch, self._start, self._silent = seed, epoch, samples, False
        if hasattr(self.sampler, 'seed'):
            self.sampler.seed = seed
        self.sampler.set_epoch(epoch)

    def silence(self) -> None:
        """Let the next iterator be empty, for a loop that creates one before it knows its position."""
        self._silent = True

    def __iter__(self) -> Iterator[SeededIndex]:
        if self._silent:
            return
        seed, epoch, start, self._start = self.seed, self.epoch, self._start, 0
        per_epoch = max(1, len(self.sampler) // self.world_size)
        for position, index in enumerate(self.sampler):
            if position >= start:
                yield SeededIndex(index, seed, position // per_epoch if self.is_infinite else epoch)

    def __len__(self) -> int:
        return len(self.sampler)


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
