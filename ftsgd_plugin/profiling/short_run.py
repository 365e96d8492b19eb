"""Let a run that is built train a few steps and evaluate a few images, and otherwise be as its config says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader, Sampler

from ..utils.errors import UserError


@dataclass(frozen=True)
class RunLength:
    """How long a run would have been, and how long the short one is.

    Attributes:
        steps: Training steps of the whole run.
        validations: Evaluations of the whole run.
        images_evaluated: Images of each of them.
        batch_size: Images per step.
        workers: Data workers of the training loader.
        iterations: Steps of the short run.
        evaluated: Images that it evaluates.
    """

    steps: int
    validations: int
    images_evaluated: int
    batch_size: int
    workers: int
    iterations: int
    evaluated: int


class _First(Sampler):
    """The first indices of a sampler, of which everything else is kept."""

    def __init__(self, sampler: Sampler, count: int) -> None:
        self.sampler, self.count = sampler, min(count, len(sampler))

    def __iter__(self) -> Iterator:
        return islice(self.sampler, self.count)

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str):
        if name == 'sampler':
            raise AttributeError(name)
        return getattr(self.sampler, name)


class _Chosen(Sampler):
    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def shorten(runner: Runner, iterations: int, evaluated: int) -> RunLength:
    """Cut a run to one epoch of a few steps and one evaluation of a few images, spread evenly over the data.

    Schedules are built already and keep their length. Call it in ``before_train``.

    Args:
        runner: The runner of a run that has not trained yet, of one process.
        iterations: Steps at most; an epoch if that is shorter.
        evaluated: Images of the evaluation at most.

    Raises:
        UserError: A data loader has no batch sampler, or the loop is none of MMEngine's.
    """
    loop, val = runner.train_loop, runner.val_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    if not hasattr(loop, '_max_iters') or (by_epoch and not hasattr(loop, '_max_epochs')):
        raise UserError(
            f'train_cfg.type: {type(loop).__name__} is not a loop of MMEngine; use ResumableEpochTrainLoop.'
        )
    sampler = _batch_sampler(loop.dataloader, 'train_dataloader')
    batch = sampler.batch_size
    length, steps = len(loop.dataloader), loop.max_iters
    iterations = min(iterations, length if by_epoch else steps)
    validations = count = chosen = 0
    if val is not None:
        begin, every = loop.val_begin, loop.val_interval
        due = range(begin, (loop.max_epochs if by_epoch else steps) + 1)
        validations = sum(one % every == 0 or one == due[-1] for one in due)
        count = len(val.dataloader.dataset)
        chosen = min(evaluated, count)
        batches = _batch_sampler(val.dataloader, 'val_dataloader')
        batches.sampler = _Chosen([i * count // chosen for i in range(chosen)])
        loop.val_begin = 1
    if by_epoch:
        sampler.sampler = _First(sampler.sampler, iterations * batch)
        loop._max_epochs = 1
    else:
        loop._max_iters = iterations
    return RunLength(steps, validations, count, batch, loop.dataloader.num_workers, iterations, chosen)


def _batch_sampler(loader: DataLoader, name: str):
    if not hasattr(loader.batch_sampler, 'sampler'):
        raise UserError(f'{name}: has no batch sampler around a sampler; set batch_size and sampler.')
    return loader.batch_sampler
