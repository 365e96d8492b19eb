"""Checkpoints that a kill, a full disk or an accumulation window cannot spoil."""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..optim.accumulation import at_update_boundary
from ..utils.errors import UserError

VALIDATED = 'ftsgd_validated'  # message hub: the iteration whose validation is in the log
_REPLACED = 'ftsgd_replaced'  # message hub: name of the checkpoint that goes once the one with this entry is written


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local file backend, writing each file beside its place and moving it there when it is whole."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Raises:
            UserError: The disk is full or the folder cannot be written; an earlier file of that name is untouched.
        """
        target = Path(filepath)
        unfinished = target.with_name(f'.{target.name}.tmp')
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(unfinished, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise UserError(
                f'{filepath}: cannot be written ({error.strerror}); make room or choose another work_dir.'
            ) from error


register_backend('ftsgd-atomic', AtomicLocalBackend)


class _RemoveLater:
    """A file backend whose removals wait for :meth:`flush`, so that the new file is there before the old one goes."""

    def __init__(self, backend) -> None:
        self._backend, self._waiting = backend, []

    def __getattr__(self, name: str) -> Callable:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._waiting.append(path)

    def flush(self, keep: set[str]) -> None:
        for path in self._waiting:
            if path not in keep and self._backend.isfile(path):
                self._backend.remove(path)
        self._waiting.clear()


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, with the same options and files, safe to be interrupted and exact to resume.

    - A checkpoint is written beside its place and moved there whole; the one it replaces is removed afterwards.
    - It is taken at an update boundary: inside an accumulation window it waits for the window's update, as the
      accumulated gradients are in no checkpoint. It keeps the name of the epoch (iteration) it was due at.
    - It is written again after the validation that follows it, so that the best score and the log are in it.

    Only for local folders; elsewhere (``backend_args``, ``s3://``) writing and removing are MMEngine's own.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._text: str | None = None
        self._due: int | None = None  # epoch or iteration of a checkpoint that waits for its update boundary
        self._written: int | None = None  # epoch or iteration of the checkpoint that was written or resumed last

    def before_train(self, runner: Runner) -> None:
        """Choose the file backend; when resuming, do what a kill after the last checkpoint has left undone."""
        local = self.backend_args is None and self.file_client_args is None
        local = local and '://' not in str(self.out_dir or runner.work_dir)
        if local:
            self.backend_args = {'backend': 'ftsgd-atomic'}
        super().before_train(runner)
        if local:
            self.file_backend = _RemoveLater(self.file_backend)
            if replaced := runner.message_hub.runtime_info.get(_REPLACED):
                self.file_backend.remove(self.file_backend.join_path(self.out_dir, replaced))
                self._remove_outdated()
        position = runner.epoch if self.by_epoch else runner.iter
        self._written = position or None
        if VALIDATED not in runner.message_hub.runtime_info:  # a new run, or a checkpoint of MMEngine's own hook
            runner.message_hub.update_info(VALIDATED, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Save what was due, now that the window may have ended."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self._due is not None and at_update_boundary(runner.optim_wrapper):
            step = self._due
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, and the last one anew with the outcome of this validation."""
        step = runner.epoch if self.by_epoch else runner.iter
        runner.message_hub.update_info(VALIDATED, runner.iter)
        super().after_val_epoch(runner, metrics)
        if self._written == step and self._due is None:
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        last, self.last_ckpt = self.last_ckpt, None  # the parent would write the last one too; after_val_epoch does
        try:
            with self._text_made_once(runner):
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self.last_ckpt = last
        self._remove_outdated()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if not at_update_boundary(runner.optim_wrapper):
            self._due = step
            return
        self._due, self._written = None, step
        kept = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        if kept and len(kept) == self.max_keep_ckpts and kept[-1] != step:
            runner.message_hub.update_info(_REPLACED, self.filename_tmpl.format(kept[0]))
        with self._text_made_once(runner):
            super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_outdated()

    def _text_made_once(self, runner: Runner) -> AbstractContextManager:
        """MMEngine formats the config anew for every checkpoint, which takes longer than writing a small one."""
        if self._text is None:
            self._text = runner.cfg.pretty_text
        return mock.patch.object(type(runner.cfg), 'pretty_text', self._text)

    def _remove_outdated(self) -> None:
        if is_main_process() and isinstance(getattr(self, 'file_backend', None), _RemoveLater):
            best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
            self.file_backend.flush(keep={self.last_ckpt, *best})
