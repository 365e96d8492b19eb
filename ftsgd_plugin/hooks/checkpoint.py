"""Checkpoints that a kill, a full disk or an accumulation window cannot damage."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from logging import WARNING
from pathlib import Path

import mmengine.runner.runner
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS

from ..checkpoint.parts import directories_of, remove_parts
from ..checkpoint.saving import save_content
from ..datasets.preprocessing import store_preprocessing
from ..optim.accumulation import at_update_boundary
from ..utils.files import atomic_write, sync_directory, write_bytes
from ..utils.metrics import METRIC_NAMES, better_rule
from ..utils.patching import replaced
from ..utils.paths import PREVIOUS
from .pointer import atomic_pointer

VALIDATED = 'ftsgd_validated'  # message hub: the iteration whose validation is in the log
_REPLACED = 'ftsgd_replaced'  # message hub: the checkpoint to remove once the one with this entry is written


_ID_KEYS = {rule: [f'id/{name}' for name in METRIC_NAMES if better_rule(name) == rule] for rule in ('greater', 'less')}


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local file backend with atomic writes."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Raises:
            UserError: The disk is full or the directory cannot be written; an earlier file of that name is untouched.
        """
        write_bytes(filepath, obj, remedy=_REMEDY)


_REMEDY = 'make room or choose another work_dir'
ATOMIC = {'backend': 'ftsgd-atomic'}  # backend_args of MMEngine's functions
register_backend(ATOMIC['backend'], AtomicLocalBackend)
_save_by_backend = mmengine.runner.runner.save_checkpoint


def _save(checkpoint: dict, filename: str, file_client_args: dict | None = None, backend_args: dict | None = None):
    """MMEngine's ``save_checkpoint``, which makes a copy of the file in memory first, without that copy."""
    if backend_args != ATOMIC:
        _save_by_backend(checkpoint, filename, file_client_args, backend_args)
        return
    with atomic_write(filename, remedy=_REMEDY) as temporary:
        save_content(checkpoint, temporary)


class _RemoveLater:
    """A file backend that defers removals to :meth:`flush`: the new file exists before the old one is removed."""

    def __init__(self, backend) -> None:
        self._backend, self._waiting = backend, []

    def __getattr__(self, name: str) -> Callable:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._waiting.append(path)

    def flush(self, keep: set[str], before: Callable[[str], None]) -> None:
        for path in self._waiting:
            if path not in keep and self._backend.isfile(path):
                before(path)
                self._backend.remove(path)
                remove_parts(path)
        self._waiting.clear()


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, with the same options and files, safe to interrupt and exact to resume.

    - Every checkpoint is written atomically; the one it replaces is removed afterwards.
    - It is taken at an update boundary: inside an accumulation window it waits for the window's update, because no
      checkpoint contains accumulated gradients. It keeps the name of the epoch (iteration) it was due at.
    - It is written again after the validation that follows it, so that it contains the best score and the log.
    - One that waits when training stops is written then, with a warning: what its open window has accumulated is lost.
    - With ``max_keep_ckpts=1`` the checkpoint before the last moves to the directory ``previous``: resuming falls back
      to it if the last one is damaged.

    Without ``rule`` it knows which values of the metrics of ``GroupAccuracy`` are better.

    Only for local directories; elsewhere (``backend_args``, ``s3://``) MMEngine writes and removes as usual.
    """

    # For MMEngine's choice of the rule: its own lists, and the metrics of GroupAccuracy that these do not match.
    _default_greater_keys = [*CheckpointHook._default_greater_keys, *_ID_KEYS['greater']]
    _default_less_keys = [*CheckpointHook._default_less_keys, *_ID_KEYS['less']]

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._config_text: str | None = None
        self._due: int | None = None  # epoch or iteration of a checkpoint that waits for its update boundary
        self._in_best = False  # MMEngine writes the last checkpoint again while it writes the best one
        self._rewrite = False  # and this is to be done after it
        self._written: int | None = None  # epoch or iteration of the checkpoint written or resumed last
        self.is_held: Callable[[], bool] = lambda: False  # while a newer checkpoint is being written, by another hook
        self.saved_iteration: int | None = None  # position of the checkpoint that this process wrote last

    def before_train(self, runner: Runner) -> None:
        """Choose the file backend; when resuming, do what a kill after the last checkpoint left undone."""
        local = self.backend_args is None and self.file_client_args is None
        local = local and '://' not in str(self.out_dir or runner.work_dir)
        if local:
            self.backend_args = dict(ATOMIC)
        super().before_train(runner)
        if local:
            self.file_backend = _RemoveLater(self.file_backend)
            if outdated := runner.message_hub.runtime_info.get(_REPLACED):
                self.file_backend.remove(self.file_backend.join_path(self.out_dir, outdated))
                self._remove_outdated()
        position = runner.epoch if self.by_epoch else runner.iter
        self._written = position or None
        if VALIDATED not in runner.message_hub.runtime_info:  # a new run, or a checkpoint of MMEngine's own hook
            runner.message_hub.update_info(VALIDATED, runner.iter)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the preprocessing of the evaluation, which belongs to the weights."""
        store_preprocessing(runner.cfg, checkpoint)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Save what was due, if the accumulation window has ended."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self._due is not None and at_update_boundary(runner.optim_wrapper):
            step = self._due
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, and the last one again with the outcome of this validation."""
        if not isinstance(runner._train_loop, BaseLoop):  # ``runner.epoch`` would build the training loop
            return
        step = runner.epoch if self.by_epoch else runner.iter
        runner.message_hub.update_info(VALIDATED, runner.iter)
        self._rewrite = self._written == step
        super().after_val_epoch(runner, metrics)
        if self._rewrite and self._due is None:
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def after_train(self, runner: Runner) -> None:
        """Save what still waits: training was stopped within an accumulation window."""
        if self._due is not None:
            runner.logger.log(
                WARNING,
                f'{self.filename_tmpl.format(self._due)}: written within an accumulation window, where training stops; '
                'the gradients accumulated since the last update are not in it.',
            )
            self._write(runner, self._due, dict(epoch=runner.epoch, iter=runner.iter))
        super().after_train(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        last, self._in_best = self.last_ckpt, True
        self.last_ckpt = last or runner.message_hub.runtime_info.get('last_ckpt')  # a resumed run has written one
        try:
            with self.cheap_saving(runner):
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self.last_ckpt, self._in_best = last, False
        self._remove_outdated()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self._in_best:
            self._rewrite = True
        elif at_update_boundary(runner.optim_wrapper):
            self._write(runner, step, meta)
        else:
            self._due = step

    def _write(self, runner: Runner, step: int, meta: dict) -> None:
        self._due, self._written = None, step
        kept = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        if kept and len(kept) == self.max_keep_ckpts and kept[-1] != step:
            runner.message_hub.update_info(_REPLACED, self.filename_tmpl.format(kept[0]))
            self._empty_previous(kept[0])
        with self.cheap_saving(runner), atomic_pointer(runner, self):
            super()._save_checkpoint_with_step(runner, step, meta)
        self.saved_iteration = meta['iter']
        self._remove_outdated()

    @contextlib.contextmanager
    def cheap_saving(self, runner: Runner) -> Iterator[None]:
        """Let ``runner.save_checkpoint`` format the config once, not for every checkpoint, and copy nothing first."""
        if self._config_text is None:
            self._config_text = runner.cfg.pretty_text
        with (
            replaced(type(runner.cfg), 'pretty_text', self._config_text),
            replaced(mmengine.runner.runner, 'save_checkpoint', _save),
        ):
            yield

    def remove_outdated(self) -> None:
        """Remove what has been replaced, once the checkpoint that was being written is complete."""
        self._remove_outdated()

    def _remove_outdated(self) -> None:
        if self.is_held():
            return
        if is_main_process() and isinstance(getattr(self, 'file_backend', None), _RemoveLater):
            best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
            self.file_backend.flush(keep={self.last_ckpt, *best}, before=self._keep_as_previous)

    def _keep_as_previous(self, path: str) -> None:
        """Give the last checkpoint but one, which is about to be removed, a second name."""
        name = os.path.basename(path)
        if self.max_keep_ckpts != 1 or name.startswith('best_'):
            return
        directory = Path(self.out_dir, PREVIOUS)
        directory.mkdir(exist_ok=True)
        (directory / name).unlink(missing_ok=True)
        try:
            os.link(path, directory / name)
        except OSError:  # a file system without hard links
            return
        for parts in directories_of(Path(path)):
            shutil.rmtree(directory / parts.name, ignore_errors=True)
            parts.rename(directory / parts.name)
        self._clear_previous(keep=name)  # of a checkpoint that was still being written when the next one was due
        sync_directory(directory)

    def _empty_previous(self, last: int) -> None:
        """Make room before a checkpoint is written, if the last one exists: at most two and the best at a time."""
        local = isinstance(self.file_backend, _RemoveLater) and self.max_keep_ckpts == 1
        if is_main_process() and local and Path(self.out_dir, self.filename_tmpl.format(last)).is_file():
            self._clear_previous()

    def _clear_previous(self, keep: str = '') -> None:
        for path in Path(self.out_dir, PREVIOUS).glob('*.pth'):
            if path.name != keep:
                path.unlink(missing_ok=True)
                remove_parts(path)
