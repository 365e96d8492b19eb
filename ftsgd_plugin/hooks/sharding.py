"""Divide a model over the ranks before its first step, and save it whole."""

import functools
from collections import OrderedDict
from collections.abc import Callable

from mmengine.dist import all_gather_object
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch.utils.data import DataLoader

from ..checkpoint.parts import ENTRY
from ..layers import has_adapters, unwrap
from ..optim.measured_rates import is_unmeasured
from ..optim.sharding.values import full_values
from ..optim.sharding.wrapper import ShardedDataParallel
from ..utils.errors import UserError
from ..utils.patching import replaced
from .checkpoint import SafeCheckpointHook
from .part_checkpoints import PartsWriter

_NAME = "model_wrapper_cfg.type='ShardedDataParallel'"


@HOOKS.register_module()
class ShardingHook(Hook):
    """Training with :class:`ftsgd_plugin.ShardedDataParallel`; ``tools/train.py`` registers it.

    The model is divided after its weights and those of a checkpoint have been loaded. By default a checkpoint is
    gathered tensor by tensor and written by rank 0, in the format of every other run; in parts it is a file and a
    directory (:mod:`ftsgd_plugin.checkpoint.parts`). Both can be resumed with another number of ranks, sharded or not,
    and tested and exported. With another model wrapper the hook does nothing.

    Raises:
        UserError: The run uses what does not work on a divided model, or the ranks have different numbers of batches.
    """

    priority = 'HIGHEST'  # the other hooks find the divided model

    def __init__(self) -> None:
        self._patch: replaced | None = None
        self._parts: PartsWriter | None = None

    def before_run(self, runner: Runner) -> None:
        """Refuse what cannot be divided, before any work."""
        if not isinstance(runner.model, ShardedDataParallel):
            return
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise UserError(f'{_NAME}: EMAHook copies the model, which cannot be copied in parts; remove it.')
        if runner.cfg.get('compile'):
            raise UserError(f'{_NAME} cannot be combined with compile; remove it, or use MMDistributedDataParallel.')
        if has_adapters(unwrap(runner.model)):
            raise UserError(
                f'{_NAME} has not been made to work with low-rank adapters, whose memory is small anyway; use '
                "type='MMDistributedDataParallel'."
            )
        if isinstance(runner.optim_wrapper, OptimWrapper) and is_unmeasured(runner.optim_wrapper):
            raise UserError(
                f"{_NAME} has not been made to work with paramwise_cfg.lr_mult='gradient'; measure in one process, or "
                "use type='MMDistributedDataParallel'."
            )
        replaced(runner, 'resume', functools.partial(runner.resume, map_location='cpu'))  # whole, until it is divided

    def before_train(self, runner: Runner) -> None:
        """Divide the model and the optimizer."""
        if not isinstance(runner.model, ShardedDataParallel):
            return
        _check_batches(runner.train_dataloader, 'train_dataloader')
        runner.model.shard(runner.optim_wrapper)
        if self._patch is not None:
            return
        save = functools.partial(_save_whole, runner, runner.save_checkpoint)
        if runner.model.checkpoints != 'whole':
            _check_keepers(runner)
            self._parts = PartsWriter(runner, runner.save_checkpoint, runner.model.checkpoints != 'parts')
            save = self._parts.save
        self._patch = replaced(runner, 'save_checkpoint', save)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Name the directory of the parts."""
        if self._parts is not None:
            checkpoint[ENTRY] = self._parts.directory.name

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Give a checkpoint that is complete its name."""
        self.finish(wait=False)

    def finish(self, wait: bool = True) -> None:
        """Complete the checkpoint that is being written in the background, if there is one.

        Args:
            wait: Whether to wait for it; all ranks must. Defaults to True.
        """
        if self._parts is not None:
            self._parts.finish(wait)

    def after_train(self, runner: Runner) -> None:
        """Complete the last checkpoint before another hook reads it."""
        self.finish()

    def before_val(self, runner: Runner) -> None:
        """Refuse an evaluation in which ranks would wait for each other for ever."""
        if isinstance(runner.model, ShardedDataParallel):
            _check_batches(runner.val_dataloader, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        """As :meth:`before_val`."""
        if isinstance(runner.model, ShardedDataParallel):
            _check_batches(runner.test_dataloader, 'test_dataloader')

    def after_run(self, runner: Runner) -> None:
        """Complete the last checkpoint and restore the runner's method."""
        self.finish()
        if self._patch is not None:
            self._patch.undo()
            self._patch = None


def _check_batches(loader: DataLoader, name: str) -> None:
    """Every forward pass gathers weights from all ranks, so all must make the same number of them."""
    counts = all_gather_object(len(loader))
    if len(set(counts)) > 1:
        raise UserError(
            f'{name}: the ranks have {min(counts)} to {max(counts)} batches, and a divided model computes on all ranks '
            f'together; set {name}.sampler.round_up=True.'
        )


def _check_keepers(runner: Runner) -> None:
    """Who removes earlier checkpoints must know of their parts, which lie on a local disk."""
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        if not isinstance(hook, SafeCheckpointHook) or '://' in str(hook.out_dir or runner.work_dir):
            raise UserError(
                f'{_NAME}, checkpoints={runner.model.checkpoints!r}: needs '
                "default_hooks.checkpoint.type='SafeCheckpointHook' and a local directory; set them, or "
                "checkpoints='whole'."
            )


def _save_whole(runner: Runner, save: Callable[..., None], *args, **kwargs) -> None:
    """``Runner.save_checkpoint`` with whole tensors; called on all ranks, writes on the main one."""
    model, optim_wrapper = unwrap(runner.model), runner.optim_wrapper
    parts = model.state_dict()
    weights = OrderedDict(full_values(parts))
    weights._metadata = parts._metadata
    state = full_values(optim_wrapper.state_dict()) if kwargs.get('save_optimizer', True) else None
    assert isinstance(optim_wrapper, OptimWrapper)
    with (
        replaced(model, 'state_dict', lambda *args, **kw: weights),
        replaced(optim_wrapper, 'state_dict', lambda: state),
    ):
        save(*args, **kwargs)
