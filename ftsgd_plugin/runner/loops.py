"""Training loops that resume exactly where they stopped, at the end of an epoch or within one."""

from collections.abc import Iterator

from mmengine.dist import get_rank, get_world_size
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmpretrain.registry import LOOPS
from torch.utils.data import DataLoader

from ..hooks.checkpoint import VALIDATED
from ..utils.errors import UserError
from ..utils.signals import shield_workers
from .sampling import ORDERS, make_reproducible, seed_step

_GEOMETRY = 'ftsgd_geometry'  # message hub: global batch and iterations per epoch of the run that wrote a checkpoint
_ORDER = 'ftsgd_data_order'  # message hub: how seed and epoch give the order of the data


class _ResumableLoop:
    """Shared by both loops; a mixin that precedes MMEngine's loop in the bases."""

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict, *args, data_order: str | None = None, **kwargs
    ) -> None:
        if data_order not in (None, *ORDERS):
            raise UserError(f'train_cfg.data_order={data_order!r} is not one of {", ".join(ORDERS)}; correct it.')
        if runner._randomness_cfg.get('diff_rank_seed'):
            raise UserError(
                'randomness.diff_rank_seed: with this loop the ranks must share their seed, which orders the data; '
                'remove it (the randomness of a step differs by rank anyway).'
            )
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed)
        self.data_order = data_order
        shield_workers(dataloader)
        self.sampler = make_reproducible(dataloader, get_world_size())
        self.sampler.order = data_order or ORDERS[0]
        self.sampler.silence()  # IterBasedTrainLoop creates an iterator at once, whose workers would start decoding
        super().__init__(runner, dataloader, *args, **kwargs)
        self.sampler.follow(self._position)  # also where a subclass iterates over the loader in a loop of its own

    def _position(self) -> tuple[int, int, int]:
        """Seed, epoch, and samples of this rank that are done in it."""
        raise NotImplementedError

    def run_iter(self, *args) -> None:
        """Run one iteration, seeded by its position."""
        seed_step(self.runner.seed, get_rank(), self._iter)
        super().run_iter(*args)

    @property
    def global_batch(self) -> int:
        """Samples per iteration over all processes."""
        return self._batch_size * get_world_size()

    @property
    def _batch_size(self) -> int:
        return self.dataloader.batch_sampler.batch_size  # the loader's own is None for a custom batch sampler

    def counts_like(self, runtime_info: dict) -> bool:
        """Whether iterations and epochs of this run are those of the run whose message hub says so; else see below."""
        saved = runtime_info.get(_GEOMETRY) or {}
        same_batch = saved.get('global_batch') in (None, self.global_batch)
        by_iteration = isinstance(self, IterBasedTrainLoop)
        return same_batch and (by_iteration or saved.get('epoch_length') in (None, len(self.dataloader)))

    def _adopt_position(self, epoch_length: int | None) -> None:
        """After a resume, translate the checkpoint's position into this run's iterations.

        Args:
            epoch_length: Iterations per epoch; ``None`` if this loop counts iterations only.

        Raises:
            UserError: This run has other iterations, and the position has no equivalent in it.
        """
        hub = self.runner.message_hub
        saved = hub.runtime_info.get(_GEOMETRY)
        ours = {'global_batch': self.global_batch, 'epoch_length': epoch_length}
        hub.update_info(_GEOMETRY, ours)
        self._adopt_order()
        if self._iter == 0 or saved is None or saved == ours:
            return
        if saved['global_batch'] == self.global_batch and epoch_length is not None:
            changed = (
                f'resume: the checkpoint was written with {saved["epoch_length"]} iterations per epoch, this run has '
                f'{epoch_length}; use the same training data'
            )
        else:
            changed = (
                f'resume: the checkpoint was written with {saved["global_batch"]} samples per iteration, this run has '
                f'{self.global_batch}; set train_dataloader.batch_size so that batch_size x processes is the same'
            )
        if epoch_length is None or not saved['epoch_length']:
            raise UserError(f'{changed}.')
        if self._iter != self._epoch * saved['epoch_length']:
            raise UserError(f'{changed}, or resume from a checkpoint at the end of an epoch.')
        schedulers = self.runner.param_schedulers or []
        by_iteration = [s for s in schedulers if not isinstance(s, str) and not s.by_epoch]
        if by_iteration:
            raise UserError(f'{changed}, as {type(by_iteration[0]).__name__} counts iterations.')
        if hub.runtime_info.get(VALIDATED) == self._iter:
            hub.update_info(VALIDATED, self._epoch * epoch_length)
        self._iter = self._epoch * epoch_length
        self.runner.optim_wrapper.initialize_count_status(self.runner.model, self._iter, self._max_iters)

    def _adopt_order(self) -> None:
        """After a resume, continue with the order of the data that the checkpoint was written with.

        Raises:
            UserError: The config names another.
        """
        hub = self.runner.message_hub
        if self._iter > 0:
            saved = hub.runtime_info.get(_ORDER, 'mmengine')  # version 0.1.0 and MMEngine's own loops
            if self.data_order not in (None, saved):
                raise UserError(
                    f'resume: train_cfg.data_order={self.data_order!r}, but the checkpoint was written with {saved!r}; '
                    'leave it out, or start a new run with load_from.'
                )
            self.sampler.order = saved
        hub.update_info(_ORDER, self.sampler.order)

    def _validate_if_it_was_missed(self, is_due: bool) -> None:
        """Validate first if the earlier run stopped between saving and validating."""
        validated = self.runner.message_hub.runtime_info.get(VALIDATED, self._iter)
        if self._iter > 0 and is_due and validated != self._iter:
            self.runner.val_loop.run()


@LOOPS.register_module()
class ResumableEpochTrainLoop(_ResumableLoop, EpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop``; a resumed run is bit-identical to one that was never stopped.

    Data order, augmentation and step randomness are functions of the position (:mod:`ftsgd_plugin.runner.sampling`).
    Resuming within an epoch skips indices without loading their images. A checkpoint at the end of an epoch can be
    resumed with another global batch size if every scheduler counts epochs.

    Args:
        Those of MMEngine's ``EpochBasedTrainLoop``.
        data_order (str, optional): ``'independent'`` (the default of a new run): the orders of different seeds have
            nothing in common. ``'mmengine'``: seed and epoch are added, so that seeds give shifted copies of one order.
            Equal for seed 0. A resumed run keeps the order of its checkpoint.

    Raises:
        UserError: The sampler's order cannot be set, or a resumed position does not exist in this run.

    Examples:
        >>> train_cfg = dict(type='ResumableEpochTrainLoop', max_epochs=3, val_interval=1)
    """

    def run(self):
        """Launch training."""
        self._position()
        at_end = self._iter == self._epoch * len(self.dataloader)
        self.runner.call_hook('before_train')
        self._decide_current_val_interval()
        self._validate_if_it_was_missed(at_end and self._validates(self._epoch))
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self._validates(self._epoch):
                self.runner.val_loop.run()
        self.runner.call_hook('after_train')
        return self.runner.model

    def _position(self) -> tuple[int, int, int]:
        self._adopt_position(len(self.dataloader))
        done = self._iter - self._epoch * len(self.dataloader)
        if not 0 <= done <= len(self.dataloader):
            raise UserError(
                f'resume: iteration {self._iter} is not in epoch {self._epoch + 1} of this run, which has '
                f'{len(self.dataloader)} iterations per epoch; resume with the batch size and the number of processes '
                'that the checkpoint was written with.'
            )
        return self.runner.seed, self._epoch, done * self._batch_size

    def _validates(self, epoch: int) -> bool:
        due = epoch % self.val_interval == 0 or epoch == self._max_epochs
        return self.runner.val_loop is not None and epoch >= self.val_begin and due

    def run_epoch(self) -> None:
        """Iterate over one epoch, or the rest of it."""
        done = self._iter - self._epoch * len(self.dataloader)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, data_batch in enumerate(self.dataloader, start=done):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class ResumableIterTrainLoop(_ResumableLoop, IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop``; resumes exactly, as :class:`ResumableEpochTrainLoop` does.

    A subclass may have a ``run()`` of its own: ``self.dataloader_iterator`` starts at the position of the loop, so such
    a ``run()`` must not skip batches when it resumes.

    Args:
        Those of MMEngine's ``IterBasedTrainLoop``, and ``data_order`` as in ``ResumableEpochTrainLoop``.

    Raises:
        UserError: The sampler's order cannot be set, or the global batch has changed since the checkpoint.

    Examples:
        >>> train_cfg = dict(type='ResumableIterTrainLoop', max_iters=10000, val_interval=1000)
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = _BatchIterator(self)  # in place of MMEngine's, which starts at the first batch

    def run(self):
        """Launch training."""
        self._position()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')  # the whole training counts as one epoch
        self._decide_current_val_interval()
        self._validate_if_it_was_missed(self._validates())
        self.dataloader_iterator = _BatchIterator(self)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self._validates():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _validates(self) -> bool:
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        return self.runner.val_loop is not None and self._iter >= self.val_begin and due

    def _position(self) -> tuple[int, int, int]:
        self._adopt_position(None)
        epoch, done = (0, self._iter) if self.sampler.is_infinite else divmod(self._iter, len(self.dataloader))
        return self.runner.seed, epoch, done * self._batch_size

    def batches(self) -> Iterator:
        """Yield batches from the current iteration on, epoch after epoch."""
        if self.sampler.is_infinite:
            self.sampler.go_to(self.runner.seed, 0, self._iter * self._batch_size)
            yield from self.dataloader
        epoch, done = divmod(self._iter, len(self.dataloader))
        while True:
            self.sampler.go_to(self.runner.seed, epoch, done * self._batch_size)
            yield from self.dataloader
            epoch, done = epoch + 1, 0


class _BatchIterator:
    """The batches of a :class:`ResumableIterTrainLoop` from its position at the first ``next`` on.

    MMEngine's loop skips batches when it resumes, and a ``run()`` that was copied from it would do so again.

    Args:
        loop: The loop.

    Raises:
        UserError: After a resume two batches are fetched before the first iteration.
    """

    def __init__(self, loop: ResumableIterTrainLoop) -> None:
        self._loop, self._start, self._fetched = loop, 0, 0
        self._batches: Iterator | None = None

    def __iter__(self) -> '_BatchIterator':
        return self

    def __next__(self):
        if self._batches is None:
            self._start, self._batches = self._loop.iter, self._loop.batches()
        self._fetched += 1
        if self._fetched == 2 and self._start > 0 and self._loop.iter == self._start:
            raise UserError(
                f'train_cfg.type: {type(self._loop).__name__}.run() fetches more than one batch before its first '
                'iteration after a resume, but dataloader_iterator starts at the right one by itself; do not skip '
                'batches there.'
            )
        return next(self._batches)
