"""From a config file and options to a runner."""

import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from mmpretrain.engine.hooks import VisualizationHook

from ..checkpoint.io import check_readable, checkpoint_to_resume
from ..evaluation.checks import check_configured_metrics, check_configured_splits
from ..hooks import (
    CheckpointFitHook,
    DivergenceHook,
    FrozenFeaturesHook,
    GradientRatesHook,
    OptimizerModeHook,
    PhaseEndHook,
    ReleaseModelHook,
    ShardingHook,
)
from ..layers import unwrap
from ..models.lora import with_adapters
from ..optim.values import check_settings
from ..records import LOADERS
from ..utils.errors import UserError, one_line
from ..utils.names import type_name
from ..utils.patching import replaced
from .config_check import check_config, check_counting, check_dicts, check_keys, check_options, check_parts
from .device_decoding import prepare_device_decoding
from .disk import configs_written_whole, refuse_unwritable_log, unwritable_log_refused
from .fit_check import FitHook
from .image_cache import hand_on_image_cache
from .inheritance import inheritance_failure
from .process_group import join_group
from .schedule_files import embed_schedules
from .start_up import configs_formatted_once, figures_on_demand
from .unwaited import copy_without_waiting, wait_for_no_scalar

_SHARDED = 'ShardedDataParallel'


def read_config(path: str) -> Config:
    """Read a config file.

    Raises:
        UserError: The file does not exist or cannot be parsed.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: no such config; the configs of this project are in configs/.')
    try:
        cfg = Config.fromfile(path)
    except UserError:
        raise
    except Exception as error:
        if (reason := inheritance_failure(error)) is not None:
            raise UserError(f'{path}: {reason}.') from error
        reason = one_line(error)
        raise UserError(f'{path}: not a readable config ({type(error).__name__}: {reason}); correct it.') from error
    check_dicts(cfg)
    embed_schedules(cfg)
    return cfg


def merge_cfg_options(cfg: Config, path: str, options: dict | None) -> None:
    """Merge ``--cfg-options`` into a config.

    Args:
        cfg: The config, changed in place.
        path: Its file, for the message.
        options: Values by dotted key; ``None`` for none.

    Raises:
        UserError: An option does not fit the config.
    """
    if options is None:
        return
    check_options(cfg, options)
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, IndexError) as error:
        reason = one_line(error)
        raise UserError(f'--cfg-options: does not fit {path} ({reason}); check the keys.') from error
    embed_schedules(cfg)


def load_config(
    path: str,
    dataloader_defaults: dict,
    *,
    work_dir: str | None = None,
    cfg_options: dict | None = None,
    launcher: str = 'none',
    local_rank: int = 0,
    pin_memory: bool = True,
    persistent_workers: bool = True,
) -> Config:
    """Read a config and merge options into it, in MMPretrain's order of priority.

    Args:
        path: Config file.
        dataloader_defaults: Filled into every data loader that does not set them.
        work_dir: Directory for logs and checkpoints. Default: the config's, else ``./work_dirs/CONFIG_NAME``.
        cfg_options: Values by dotted key; see :func:`merge_cfg_options`.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        local_rank: Rank on this machine, unless the environment variable ``LOCAL_RANK`` gives it.
        pin_memory: Whether the data loaders may pin memory; without a GPU none does.
        persistent_workers: Whether data workers may be kept between epochs.

    Raises:
        UserError: The file does not exist, cannot be parsed, or an option does not fit it.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    cfg = read_config(path)
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('./work_dirs', Path(path).stem)
    for name in LOADERS:
        if cfg.get(name) is not None:
            cfg[name] = {**deepcopy(dataloader_defaults), **cfg[name]}
    merge_cfg_options(cfg, path, cfg_options)
    check_dicts(cfg)
    for name in LOADERS:
        if cfg.get(name) is None:
            continue
        if not pin_memory or not torch.cuda.is_available():
            cfg[name]['pin_memory'] = False
        if not persistent_workers or not cfg[name].get('num_workers', 0):  # torch refuses persistence without workers
            cfg[name]['persistent_workers'] = False
    return cfg


def build_runner(cfg: Config, resume_settings: str | None = None) -> Runner:
    """Build the runner of a config, ready to train or test.

    On a machine without a GPU the ranks of a distributed run meet over gloo. A checkpoint that is to be loaded is
    opened first and later compared with the model. The log does not list how each parameter was initialised.

    Args:
        cfg: The config.
        resume_settings: As in :class:`ftsgd_plugin.CheckpointFitHook`, for a run that resumes.

    Raises:
        UserError: A key, a type or a value of the config is wrong, the checkpoint cannot be read, an evaluated split is
            not in its data loader, or mixed precision has no GPU.
    """
    check_keys(cfg)
    check_parts(cfg, cfg.filename or 'the config')
    check_counting(cfg)
    prepare_device_decoding(cfg)
    uncached = hand_on_image_cache(cfg)
    check_config(cfg)
    model = with_adapters(cfg.model, cfg.get('optim_wrapper'))
    if model is not cfg.model:
        cfg.model = model
    check_settings(cfg)
    for name in ('val', 'test'):  # a test after training must not be the first to find it
        check_configured_splits(cfg, name)
        check_configured_metrics(cfg, name)
    if type_name(cfg.get('optim_wrapper')) == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise UserError(
            'optim_wrapper.type: AmpOptimWrapper (--amp) needs a GPU and this machine has none; '
            "use type='OptimWrapper' (leave out --amp)."
        )
    if cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from = checkpoint_to_resume(cfg.work_dir)
    if cfg.get('load_from'):
        check_readable(cfg.load_from)
    if cfg.launcher != 'none':
        _choose_model_wrapper(cfg)
    with configs_written_whole(), unwritable_log_refused(), configs_formatted_once(), figures_on_demand():
        runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    refuse_unwritable_log(runner.logger)
    wait_for_no_scalar(runner.message_hub)
    copy_without_waiting(runner.model)
    for warning in uncached:
        runner.logger.warning(warning)
    if cfg.launcher == 'none' and type_name(cfg.get('model_wrapper_cfg')) == _SHARDED:
        runner.logger.warning(
            'model_wrapper_cfg: a process without launcher is not sharded, and leaves out its options, mixed_precision '
            'too; bash tools/dist_train.sh CONFIG 1 uses them.'
        )
    runner.register_hook(FitHook())
    if not any(isinstance(hook, ShardingHook) for hook in runner.hooks):
        runner.register_hook(ShardingHook())
    if not any(isinstance(hook, CheckpointFitHook) for hook in runner.hooks):
        runner.register_hook(CheckpointFitHook())
    for hook in runner.hooks:
        if isinstance(hook, CheckpointFitHook):
            hook.resume_settings = resume_settings or hook.resume_settings
            hook.new_parameters = cfg.get('new_parameters') or hook.new_parameters
    runner.register_hook(ReleaseModelHook())
    for kind in (OptimizerModeHook, GradientRatesHook, DivergenceHook, PhaseEndHook, FrozenFeaturesHook):
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    runner.register_hook(_ShortLogHook())
    for hook in runner.hooks:
        if isinstance(hook, VisualizationHook):
            _build_no_training_loop(hook)
    return runner


def _build_no_training_loop(hook: VisualizationHook) -> None:
    """Let MMPretrain's hook not build the training loop, data and all, in a runner that only validates."""
    after_val_iter = hook.after_val_iter

    def draw(runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence) -> None:
        if isinstance(runner._train_loop, BaseLoop):
            after_val_iter(runner, batch_idx, data_batch, outputs)
        else:
            hook.after_test_iter(runner, batch_idx, data_batch, outputs)

    replaced(hook, 'after_val_iter', draw)


def without_init_log(model: BaseModule) -> replaced:
    """Suppress the three lines per parameter that MMEngine logs at the end of ``init_weights``, until undone."""
    return replaced(model, '_dump_init_info', lambda *args, **kwargs: None)


class _ShortLogHook(Hook):
    """:func:`without_init_log` while the runner initialises the model."""

    def __init__(self) -> None:
        self._patch: replaced | None = None  # a loop that is run directly, as by WiSE-FT, has no before_run

    def before_run(self, runner: Runner) -> None:
        self._patch = without_init_log(unwrap(runner.model))

    def before_train(self, runner: Runner) -> None:
        if self._patch is not None:
            self._patch.undo()

    before_val = before_test = before_train


def _choose_model_wrapper(cfg: Config) -> None:
    """Join the ranks, and choose a model wrapper that suits the optimizer wrapper."""
    wrapper = cfg.get('model_wrapper_cfg') or {}
    if not is_distributed():
        dist_cfg = dict(cfg.get('env_cfg', {}).get('dist_cfg', {}))
        if type_name(wrapper) == _SHARDED and wrapper.get('cpu_offload'):
            dist_cfg['backend'] = 'cpu:gloo,cuda:nccl'  # norms of gradients that lie on the CPU (pytorch#148532)
        join_group(cfg.launcher, **dist_cfg)
    in_backward = type_name(cfg.get('optim_wrapper')) == 'SGDInBackwardOptimWrapper'
    if cfg.get('model_wrapper_cfg') is None and in_backward:
        cfg.model_wrapper_cfg = {'type': 'InBackwardDataParallel'}
    wrapper = cfg.get('model_wrapper_cfg') or {}
    if not torch.cuda.is_available() and type_name(wrapper) not in ('InBackwardDataParallel', _SHARDED):
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **wrapper,
            'device_ids': None,
        }
