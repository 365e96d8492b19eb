"""Refuse a checkpoint that does not fit the run, instead of a warning in the log."""

from collections.abc import Sequence
from logging import WARNING
from os.path import abspath

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner, find_latest_checkpoint
from mmpretrain.registry import HOOKS

from ..checkpoint.adoption import adopt_kind_of_update, adopt_settings
from ..checkpoint.compatibility import (
    accept_new,
    check_pretrained,
    misfits,
    of_backbone,
    summarise,
    warn_of_other_classes,
)
from ..checkpoint.differences import Difference, differences, summarise_differences
from ..checkpoint.io import STARTED_FROM, weights_of
from ..checkpoint.settings import SETTINGS, describe_settings, foreign_state
from ..datasets.preprocessing import store_preprocessing
from ..layers import unwrap
from ..utils.config_hash import as_text, other_settings
from ..utils.errors import UserError

RESUME_SETTINGS = ('same', 'config')
# What is compared with the checkpoint's state itself, or belongs to the start of a run.
_COMPARED = (
    *('optim_wrapper', 'param_scheduler', 'randomness', 'auto_scale_lr', 'load_from', 'new_parameters'),
    *('train_cfg.max_epochs', 'train_cfg.max_iters', 'train_cfg.val_interval', 'env_cfg'),
)


class CheckpointRefusedError(UserError):
    """A checkpoint does not fit the run; nothing of it has been loaded."""


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compare every checkpoint with the run before any of it is loaded.

    MMEngine loads what fits and leaves the rest at random values. Testing and resuming require an exact fit of the
    weights; resuming also requires the same training state (optimizer, parameters of every group, schedulers) and the
    same settings (hyperparameters, schedules, seed), because MMEngine would silently train with those of the
    checkpoint. When training starts from ``load_from``, the head may differ (another number of classes), the backbone
    may not. Weights named by ``init_cfg=dict(type='Pretrained')`` must fill their module. A head that was trained for
    other classes of the same number gets a warning.

    Args:
        resume_settings (str): What happens if hyperparameters or schedules differ from the checkpoint's: ``'same'``
            (default) refuses, ``'config'`` continues with the config's, at the position of the checkpoint.
        new_parameters (Sequence[str]): Parameters or modules, by name or glob, that the file of ``load_from`` or
            ``init_cfg`` need not have; ``build_runner`` takes them from the config's ``new_parameters``. A norm after
            the last block may always start again, with a warning. Defaults to ().

    Raises:
        UserError: The checkpoint does not fit; the message names the file and the first tensors or settings.
    """

    priority = 'VERY_HIGH'

    def __init__(self, resume_settings: str = 'same', new_parameters: Sequence[str] = ()) -> None:
        if resume_settings not in RESUME_SETTINGS:
            raise UserError(f'resume_settings={resume_settings!r}: choose {" or ".join(RESUME_SETTINGS)}.')
        self.resume_settings = resume_settings
        self.new_parameters = [new_parameters] if isinstance(new_parameters, str) else list(new_parameters)

    def before_run(self, runner: Runner) -> None:
        """Check what ``init_weights`` is about to load."""
        model = unwrap(runner.model)
        if _trains(runner) and not getattr(model, 'is_init', False):  # after a training there is nothing to initialise
            check_pretrained(model, self.new_parameters, _classes(runner))

    def before_train(self, runner: Runner) -> None:
        """Remember the file that training started from: a resumed run's config names another."""
        if not runner._resume:
            start = runner._load_from or ''
            runner.message_hub.update_info(STARTED_FROM, start if '://' in start or not start else abspath(start))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check a checkpoint before any of it is copied into the model."""
        path = runner._load_from or find_latest_checkpoint(runner.work_dir)
        resuming = _trains(runner) and runner._resume
        restart = f'start again from its weights with load_from={path} and without --resume'
        model = unwrap(runner.model)
        if resuming:
            reason = foreign_state(checkpoint, model, runner.optim_wrapper, runner.param_schedulers)
            if reason:
                raise CheckpointRefusedError(
                    f'{path}: cannot be resumed: it {reason}; use the config it was trained with, or {restart}.'
                )
        found = misfits(model, weights_of(checkpoint))
        if _trains(runner) and not resuming:
            found = accept_new(model, of_backbone(found), path, self.new_parameters)
        if found:
            raise CheckpointRefusedError(
                f'{path}: does not fit the model of this config: {summarise(found)}; '
                'use the config the checkpoint was trained with.'
            )
        warn_of_other_classes(path, checkpoint, _classes(runner))
        if resuming:
            _check_length(runner, checkpoint['meta'], path, restart)
            self._compare_settings(runner, checkpoint, path, restart)
            _warn_of_other_config(runner, checkpoint, path)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the preprocessing, and what a later resume compares by name."""
        store_preprocessing(runner.cfg, checkpoint)
        if 'optimizer' in checkpoint:
            settings = describe_settings(unwrap(runner.model), runner.optim_wrapper, runner.param_schedulers)
            checkpoint['meta'][SETTINGS] = {**settings, 'config': as_text(runner.cfg)}

    def _compare_settings(self, runner: Runner, checkpoint: dict, path: str, restart: str) -> None:
        """Refuse other settings than the checkpoint's, or take them over."""
        seeds = checkpoint['meta'].get('seed'), runner._randomness_cfg.get('seed')
        if None not in seeds and seeds[0] != seeds[1]:
            found = Difference('randomness.seed', *seeds)
            raise CheckpointRefusedError(f'{path}: cannot be resumed: {found}; set it to {seeds[0]}, or {restart}.')
        adopt_kind_of_update(checkpoint, runner.optim_wrapper)
        lengths = {'max_epochs': runner.max_epochs, 'max_iters': runner.max_iters}
        # The loop itself refuses to continue by iterations if an iteration means something else now.
        counts_like = getattr(runner.train_loop, 'counts_like', lambda runtime_info: True)
        by_epoch_only = not counts_like(checkpoint['message_hub'].get('runtime_info', {}))
        found = differences(checkpoint, runner.optim_wrapper, runner.param_schedulers, lengths, by_epoch_only)
        if not found:
            return
        if self.resume_settings == 'same':
            raise CheckpointRefusedError(
                f'{path}: cannot be resumed: {summarise_differences(found)}; set it to the value of the checkpoint, '
                f'continue with that of the config by --resume-settings config, or {restart}.'
            )
        epoch_length = len(runner.train_dataloader)
        adopt_settings(checkpoint, runner.optim_wrapper, runner.param_schedulers, epoch_length)
        for line in found:
            print_log(f"{path}: {line}; the config's is used from here on.", 'current', WARNING)


def _check_length(runner: Runner, meta: dict, path: str, restart: str) -> None:
    """Refuse a run that ends before its checkpoint: it would train nothing and call the result its own."""
    key = 'iter' if isinstance(runner.train_loop, IterBasedTrainLoop) else 'epoch'
    done, length = meta.get(key, 0), getattr(runner, f'max_{key}s')
    if length is not None and done > length:
        raise CheckpointRefusedError(
            f'{path}: cannot be resumed: it was written after {done} {key}s, and train_cfg.max_{key}s={length}; '
            f'set it to {done} or more, or {restart}.'
        )


def _warn_of_other_config(runner: Runner, checkpoint: dict, path: str) -> None:
    """Name other data, augmentation or model options than the checkpoint's: the record will name the new ones only."""
    saved = checkpoint['meta'].get(SETTINGS, {}).get('config')
    found = [] if saved is None else other_settings(saved, runner.cfg)
    found = [line for line in found if not line.startswith(_COMPARED)]
    if runner.cfg.get('val_dataloader') is None:  # --no-validate
        found = [line for line in found if not line.startswith('val_')]
    if found:
        named = '; '.join(found[:3]) + (f' and {len(found) - 3} more' if len(found) > 3 else '')
        line = f"{path}: was trained with other settings, and is continued with this config's: {named}."
        print_log(line, 'current', WARNING)


def _trains(runner: Runner) -> bool:
    """Whether the run trains: MMEngine builds the training loop when training starts and keeps its config for tests."""
    return isinstance(runner._train_loop, BaseLoop)


def _classes(runner: Runner) -> Sequence[str] | None:
    """The classes of the data that the run trains or evaluates on, if they have names."""
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        if isinstance(loop, BaseLoop) and hasattr(loop, 'dataloader'):
            return (getattr(loop.dataloader.dataset, 'metainfo', None) or {}).get('classes')
    return None
