"""Randomness as a pure function of where training stands, so that a resumed run draws what it would have drawn.

Saving generator states is not enough: data workers start anew and draw ahead of the training step. Here the order of
the data depends on (seed, epoch), the augmentation of a picture on (seed, epoch, its index), and everything random in a
training step (dropout, stochastic depth, mixup) on (seed, rank, iteration). The first two do not depend on the number
of processes or workers either.
"""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader, Sampler

from ..utils.errors import UserError

_AUGMENTATION, _STEP = 0, 1  # streams that must not coincide


def _states(*key: int) -> list[int]:
    """Three seeds from a tuple of whole numbers, by NumPy's hash, the same on every machine."""
    return np.random.SeedSequence([number & 0xFFFFFFFFFFFFFFFF for number in key]).generate_state(3).tolist()


def seed_step(seed: int, rank: int, iteration: int) -> None:
    """Seed Python, NumPy and torch (CPU and GPU) for one training step."""
    python, numpy, pytorch = _states(_STEP, seed, rank, iteration)
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(pytorch)


class SeededIndex(int):
    """A sample's index with the seed and the epoch it is drawn in."""

    seed: int
    epoch: int

    def __new__(cls, value: int, seed: int, epoch: int) -> 'SeededIndex':
        index = super().__new__(cls, value)
        index.seed, index.epoch = seed, epoch
        return index

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.seed, self.epoch)


class SeededFetch:
    """Seeds Python, NumPy and torch's CPU generator before each sample of a batch.

    It becomes ``dataset.__getitems__``, which torch's loaders call with the indices of a batch, in the process that
    decodes it. The index is that of the outermost dataset, so that repetitions of a picture (``RepeatDataset``,
    ``ClassBalancedDataset``) differ, and any dataset may be inside.

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
                torch.random.default_generator.manual_seed(pytorch)  # the CPU's alone: a worker must not touch a GPU
            samples.append(self.dataset[int(index)])
        return samples


class PositionedSampler(Sampler):
    """A sampler that can start anywhere, and yields :class:`SeededIndex`.

    Args:
        sampler: MMEngine's ``DefaultSampler``, ``InfiniteSampler`` or another with ``set_epoch``.
        world_size: Number of processes the samples are dealt to.
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
        """Let the next iterator start behind the first ``samples`` of this rank in an epoch."""
        self.seed, self.epoch, self._start, self._silent = seed, epoch, samples, False
        if hasattr(self.sampler, 'seed'):
            self.sampler.seed = seed
        self.sampler.set_epoch(epoch)

    def silence(self) -> None:
        """Let the next iterator be empty, for a loop that makes one before it knows where it stands."""
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
