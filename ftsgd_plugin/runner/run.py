"""Train or evaluate by one function call; ``tools/train.py`` and ``tools/test.py`` are their command lines."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import mmengine
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checkpoint.io import checkpoint_to_resume
from ..hooks.checkpoint_compatibility import CheckpointRefusedError
from ..hooks.divergence import record_divergence
from ..hooks.stop import StopHook
from ..utils.cli import launch_rank
from ..utils.errors import DivergedError, UserError, check_parent
from ..utils.files import atomic_write, write_bytes
from ..utils.locks import lock_directory
from ..utils.names import type_name
from ..utils.signals import StopSignals
from .build import build_runner, load_config
from .config_check import check_keys, check_parts
from .data_check import check_data
from .failures import explain
from .peers import Peers
from .process_group import collective_timeout
from .start_up import configs_formatted_once

_COLLATE = dict(type='default_collate')


@configs_formatted_once()
def train(
    config: str,
    *,
    resume: bool | str = False,
    resume_settings: str | None = None,
    amp: bool = False,
    validate: bool = True,
    auto_scale_lr: bool = False,
    persistent_workers: bool = True,
    hooks: Sequence[Hook] = (),
    **options,
) -> Runner:
    """Fine-tune a classifier.

    SIGTERM, SIGHUP, SIGUSR1 or SIGINT stops it at the next update with a checkpoint
    (:class:`ftsgd_plugin.hooks.stop.StopHook`); a second SIGINT ends it at once.

    Args:
        config: Config file.
        resume: ``True`` or ``'auto'`` to resume from the latest checkpoint of the work directory, if it has one; or a
            checkpoint.
        resume_settings: What happens if the optimizer's settings or the schedules differ from the checkpoint's:
            ``'same'`` (default) refuses, ``'config'`` continues with the config's from the checkpoint's position on.
        amp: Automatic mixed precision; needs a GPU.
        validate: Whether to evaluate during training.
        auto_scale_lr: Whether to scale the learning rate with the batch size, as the config's ``auto_scale_lr`` says.
        persistent_workers: Whether data workers are kept between epochs.
        hooks: Hooks of this call that are not part of the config, such as one that prints progress.
        **options: ``work_dir``, ``cfg_options``, ``launcher``, ``local_rank``, ``pin_memory`` of
            :func:`ftsgd_plugin.runner.build.load_config`.

    Returns:
        Runner: MMEngine's runner after training.

    Raises:
        DivergedError: The run has met a loss, gradient, weight or score that is not finite.
        UserError: The config, an option or a checkpoint does not fit, or another process trains in the directory.
        Interrupted: A signal has stopped it; a ``SystemExit`` with the code 128 + the signal's number.

    Examples:
        >>> train(config_path('vit-tiny_freeze-embed_digits'), work_dir='runs/a', cfg_options={'randomness.seed': 1})
    """
    defaults = dict(pin_memory=True, persistent_workers=persistent_workers, collate_fn=_COLLATE)
    cfg = load_config(config, defaults, persistent_workers=persistent_workers, **options)
    check_keys(cfg)
    check_parts(cfg, config, needed=('train_dataloader', 'train_cfg', 'optim_wrapper'))
    check_data(cfg, ('train_dataloader', 'val_dataloader') if validate else ('train_dataloader',))
    if not validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).pop('save_best', None)
    if amp:
        if (kind := type_name(cfg.optim_wrapper)) not in ('', 'OptimWrapper', 'AmpOptimWrapper'):
            raise UserError(f'--amp cannot be combined with optim_wrapper.type={kind!r}; drop one.')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        if cfg.get('auto_scale_lr') is None:
            raise UserError(f'{config}: --auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config.')
        cfg.auto_scale_lr.enable = True
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        if not launch_rank():
            stack.enter_context(lock_directory(cfg.work_dir))
        if resume:
            checkpoint = checkpoint_to_resume(cfg.work_dir) if resume in (True, 'auto') else resume
            cfg.resume = checkpoint is not None
            cfg.load_from = checkpoint or cfg.get('load_from')  # nothing to resume yet: start as the config says
        stack.enter_context(_config_kept_if_refused(cfg))
        runner = build_runner(cfg, resume_settings)
        stack.callback(_end_workers, runner)
        peers = None
        if get_world_size() > 1:
            timeout = collective_timeout(cfg.get('env_cfg', {}).get('dist_cfg', {}))
            peers = stack.enter_context(Peers(signals, timeout))
        for hook in hooks:
            runner.register_hook(hook)
        runner.register_hook(StopHook(signals, peers))
        try:
            runner.train()
        except DivergedError as error:
            record_divergence(runner, str(error))
            raise
        except Exception as error:
            if (explained := explain(error, peers)) is None:
                raise
            raise explained from error
    return runner


def _end_workers(runner: Runner) -> None:
    """End the data workers that were kept between epochs, while their queues still work.

    The garbage collector would end them in any order: where a queue goes first, each worker is waited for in vain.
    """
    for name in ('_train_loop', '_val_loop'):
        loop = getattr(runner, name, None)  # a dict until it is built
        iterator = getattr(getattr(loop, 'dataloader', None), '_iterator', None)
        if iterator is not None:
            loop.dataloader._iterator = None
            iterator._shutdown_workers()


@contextlib.contextmanager
def _config_kept_if_refused(cfg: Config) -> Iterator[None]:
    """Restore the config in the work directory, which MMEngine overwrites first, if a checkpoint is refused.

    Otherwise it would not be the config of the record and the checkpoints beside it.
    """
    file = Path(cfg.work_dir, Path(cfg.filename or '.').name)
    earlier = file.read_bytes() if file.is_file() else None
    try:
        yield
    except CheckpointRefusedError:
        if earlier is not None and is_main_process():
            write_bytes(file, earlier)
        raise


@configs_formatted_once()
def test(
    config: str,
    checkpoint: str,
    *,
    out: str | None = None,
    out_item: str = 'pred',
    amp: bool = False,
    wilds_predictions: str | None = None,
    **options,
) -> dict[str, float]:
    """Evaluate a checkpoint on every split and group of its benchmark.

    Args:
        config: Config file.
        checkpoint: Checkpoint that training wrote.
        out: File for the predictions (``.pkl``) or the metrics (``.json``, ``.yaml``, ``.pkl``).
        out_item: What ``out`` receives: ``'pred'`` or ``'metrics'``.
        amp: Mixed precision.
        wilds_predictions: Directory for the prediction files of the WILDS leaderboard; the official numbers of the
            ``wilds`` package are logged.
        **options: ``work_dir``, ``cfg_options``, ``launcher``, ``local_rank``, ``pin_memory`` of
            :func:`ftsgd_plugin.runner.build.load_config`.

    Returns:
        dict: The metrics as fractions from 0 to 1, such as ``id/accuracy``.

    Raises:
        UserError: The config, an option, a checkpoint or the name of an output does not fit.
    """
    if out is not None:
        _check_output(out, out_item)
    cfg = load_config(config, dict(pin_memory=True, collate_fn=_COLLATE), **options)
    check_keys(cfg)
    check_parts(cfg, config, needed=('test_dataloader', 'test_cfg', 'test_evaluator'))
    check_data(cfg, ('test_dataloader',))
    cfg.load_from = checkpoint
    if amp:
        cfg.test_cfg.fp16 = True
    runner = build_runner(cfg)
    if out is not None and out_item == 'pred':
        runner.test_evaluator.metrics.append(_DumpAtomically(out))
    if wilds_predictions is not None:
        from ..evaluation.wilds import WildsPredictions

        dataset = runner.test_dataloader.dataset
        predictions = WildsPredictions(getattr(dataset, 'datasets', [dataset]), wilds_predictions, runner.seed)
        runner.test_evaluator.metrics.append(predictions)
    metrics = runner.test()
    if out is not None and out_item == 'metrics' and runner.rank == 0:
        _dump(metrics, out)
    return metrics


test.__test__ = False  # pytest would collect it


def _check_output(out: str, item: str) -> None:
    if item == 'pred' and not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {out}: predictions are written as .pkl; use that suffix or --out-item metrics.')
    if item == 'metrics' and not out.endswith(('.json', '.yaml', '.yml', '.pkl')):
        raise UserError(f'--out {out}: metrics are written as .json, .yaml or .pkl; use such a suffix.')
    check_parent(out, f'--out {out}')


def _dump(content, out: str | os.PathLike) -> None:
    with atomic_write(out) as temporary:
        mmengine.dump(content, str(temporary), file_format=Path(out).suffix[1:])


class _DumpAtomically(DumpResults):
    """MMEngine's dump of the predictions, written under a temporary name first."""

    def compute_metrics(self, results: list) -> dict:
        _dump(results, self.out_file_path)
        return {}
