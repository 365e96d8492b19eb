"""Stop a training when a signal asks for it, where it can be resumed bit by bit."""

from pathlib import Path
from signal import Signals
from typing import Protocol

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..checkpoint.parts import remove_parts
from ..layers import unwrap
from ..optim.accumulation import at_update_boundary
from ..optim.sharding.values import is_sharded
from ..utils.signals import Interrupted, StopSignals, shield_workers
from .checkpoint import ATOMIC, SafeCheckpointHook
from .pointer import write_pointer
from .run_record import RunRecordHook
from .sharding import ShardingHook

_SAVED = 'ftsgd_interrupted'  # message hub: the checkpoint of an interruption, to remove after the next regular one


class Ranks(Protocol):
    """What the hook needs to know about the other ranks; :class:`ftsgd_plugin.runner.peers.Peers`."""

    def wanted(self) -> int | None:
        """The signal that some rank has received, as far as this rank knows."""

    def agree(self) -> int | None:
        """At an update boundary: the signal, if all ranks stop at this boundary."""

    def wait_for_save(self) -> None:
        """Rank 0: all is saved. The others wait for it."""


class StopHook(Hook):
    """After a signal, save a checkpoint at the next update boundary and raise :class:`Interrupted`.

    The checkpoint is ``iter_N.pth`` beside the regular ones, named by ``last_checkpoint`` and removed when a resumed
    run has written its next regular one. If the position is on the disk already, as in the validation after an epoch,
    nothing is written. A loop that cannot resume within an epoch saves nothing within one, and the line says so; so
    does a run without a checkpoint hook. The record is marked ``interrupted``.

    Args:
        signals: What this process has received.
        ranks: What the ranks of a distributed run agree on; ``None`` for one process.
    """

    priority = 'LOWEST'  # after the schedule, the log and the regular checkpoint of the iteration

    def __init__(self, signals: StopSignals, ranks: Ranks | None = None) -> None:
        self.signals, self.ranks = signals, ranks
        self._training = False
        self._leftover: str | None = None

    def before_train(self, runner: Runner) -> None:
        """From here on a signal waits for an update boundary."""
        self._leftover = runner.message_hub.runtime_info.get(_SAVED)
        for loop in (runner._train_loop, runner._val_loop):
            if hasattr(loop, 'dataloader'):
                shield_workers(loop.dataloader)
        self._training = True
        self.signals.defer()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop here if a signal was received and no accumulated gradient waits."""
        self._remove_leftover(runner)
        if not at_update_boundary(runner.optim_wrapper):
            return
        number = self.signals.received if self.ranks is None else self.ranks.agree()
        if number is not None:
            self._stop(runner, number, runner.iter + 1)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stop a validation during training; a resumed run begins with it.

        Within an accumulation window it continues: only the validation that is in progress and the window's update lead
        to a position that can be resumed.
        """
        if not self._training or not at_update_boundary(runner.optim_wrapper):
            return
        if self.ranks is None:
            number = self.signals.received
        elif is_sharded(unwrap(runner.model)):  # saving, and every batch of the others, needs all ranks
            number = self.ranks.agree()
        else:
            number = self.ranks.wanted()
        if number is not None:
            self._stop(runner, number, runner.iter, in_validation=True)

    def after_train_epoch(self, runner: Runner) -> None:
        """Remove the checkpoint of an earlier interruption once there is a regular one."""
        self._remove_leftover(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """As after an epoch."""
        self._remove_leftover(runner)

    def after_train(self, runner: Runner) -> None:
        """The run is complete; a signal that comes now changes nothing."""
        self._training = False

    def _stop(self, runner: Runner, number: int, iteration: int, in_validation: bool = False) -> None:
        for hook in runner.hooks:
            if in_validation and isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)  # it has put the averaged weights into the model
            if isinstance(hook, RunRecordHook):
                hook.remember(runner)
        what = self._save(runner, iteration, in_validation)
        name = Signals(number).name
        line = f'interrupted by {name} at iteration {iteration}: {what}; continue with the same command and --resume'
        for hook in runner.hooks:
            if isinstance(hook, RunRecordHook):
                hook.interrupt(runner, line)
        if self.ranks is not None:
            self.ranks.wait_for_save()
        raise Interrupted(number, line)

    def _save(self, runner: Runner, iteration: int, in_validation: bool) -> str:
        """Save the position unless it is saved; what was done, for the message."""
        _complete(runner)
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        if not hooks:
            return 'no checkpoint was written, as the run has no checkpoint hook'
        hook = next((hook for hook in hooks if isinstance(hook, SafeCheckpointHook)), hooks[0])
        if hook.last_ckpt and getattr(hook, 'saved_iteration', None) == iteration:
            return f'{hook.last_ckpt} has all of it'
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop) and not hasattr(loop, 'sampler') and not in_validation:
            return (
                f'nothing was saved since {hook.last_ckpt or "the start"}, as train_cfg.type={type(loop).__name__} '
                'cannot resume within an epoch (ResumableEpochTrainLoop can)'
            )
        name = f'iter_{iteration}.pth'
        runner.message_hub.update_info(_SAVED, name)
        local = hook.backend_args is None and '://' not in str(hook.out_dir)
        options = {
            'meta': dict(epoch=runner.epoch, iter=iteration),
            'by_epoch': False,
            'backend_args': ATOMIC if local else hook.backend_args,
        }
        if isinstance(hook, SafeCheckpointHook):
            with hook.cheap_saving(runner):
                runner.save_checkpoint(hook.out_dir, name, **options)
        else:
            runner.save_checkpoint(hook.out_dir, name, **options)
        _complete(runner)
        path = hook.file_backend.join_path(hook.out_dir, name)
        write_pointer(runner, path)
        if self._leftover != name:
            self._remove(hook)
        return f'saved {path}'

    def _remove_leftover(self, runner: Runner) -> None:
        if self._leftover is None:
            return
        for hook in runner.hooks:
            if isinstance(hook, SafeCheckpointHook) and hook.is_held():
                return  # its newest one is not complete
            if isinstance(hook, CheckpointHook) and hook.last_ckpt:  # None until this process has written one
                self._remove(hook)
                runner.message_hub.pop_info(_SAVED)
                return

    def _remove(self, hook: CheckpointHook) -> None:
        name, self._leftover = self._leftover, None
        path = Path(str(hook.out_dir)) / str(name)
        if name and is_main_process() and str(path) != str(hook.last_ckpt):
            path.unlink(missing_ok=True)
            remove_parts(path)


def _complete(runner: Runner) -> None:
    """Wait for the checkpoint that is being written in the background: the process ends here."""
    for hook in runner.hooks:
        if isinstance(hook, ShardingHook):
            hook.finish()
