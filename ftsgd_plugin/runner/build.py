"""What ``tools/train.py`` and ``tools/test.py`` share: options, reading a config, building the runner."""

import argparse
import os
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..checkpoint.io import check_readable, latest_checkpoint
from ..evaluation import check_evaluated_splits
from ..hooks import CheckpointFitHook
from ..layers import unwrap
from ..utils.errors import UserError
from .process_group import init_cpu_group


class _KeyValue(DictAction):
    """MMEngine's ``DictAction``, with a usage error for words without ``=``."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for word in values:
            if '=' not in word:
                parser.error(f'{option_string}: {word!r} is not KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options that MMPretrain's train and test have in common."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: ./work_dirs/CONFIG_NAME)')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin memory in the data loaders')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes --local-rank, torchrun sets LOCAL_RANK.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options KEY=VALUE ...``, for :func:`merge_cfg_options`."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_KeyValue,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. optim_wrapper.optimizer.lr=3e-4 randomness.seed=1; '
        'lists as key="[a,b]"',
    )


def merge_cfg_options(cfg: Config, path: str, options: dict | None) -> None:
    """Merge ``--cfg-options`` into a config.

    Args:
        cfg: The config, changed in place.
        path: Its file, for the message.
        options: Parsed options; ``None`` for none.

    Raises:
        UserError: An option does not fit the config.
    """
    if options is None:
        return
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, IndexError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'--cfg-options: does not fit {path} ({reason}); check the keys.') from error


def read_config(path: str) -> Config:
    """Read a config file.

    Raises:
        UserError: The file does not exist or cannot be parsed.
    """
    if not Path(path).is_file():
        raise UserError(f'{path}: no such config; the configs of this project are in configs/.')
    try:
        return Config.fromfile(path)
    except UserError:
        raise
    except Exception as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'{path}: not a readable config ({type(error).__name__}: {reason}); correct it.') from error


def load_config(path: str, args: argparse.Namespace, dataloader_defaults: dict) -> Config:
    """Read a config and merge the command line into it, in MMPretrain's order of priority.

    Args:
        path: Config file.
        args: Parsed options of :func:`add_common_options`.
        dataloader_defaults: Filled into every data loader that does not set them.

    Raises:
        UserError: The file does not exist, cannot be parsed, or an option does not fit it.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(path)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('./work_dirs', Path(path).stem)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is None:
            continue
        cfg[name] = {**deepcopy(dataloader_defaults), **cfg[name]}
    merge_cfg_options(cfg, path, args.cfg_options)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is not None:
            _fit_loader_to_machine(cfg[name], args)
    return cfg


def _fit_loader_to_machine(loader: dict, args: argparse.Namespace) -> None:
    if args.no_pin_memory or not torch.cuda.is_available():
        loader['pin_memory'] = False
    # torch refuses persistent workers where there are none
    if getattr(args, 'no_persistent_workers', False) or not loader.get('num_workers', 0):
        loader['persistent_workers'] = False


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, ready to train or test.

    On a machine without a GPU the ranks of a distributed run meet over gloo. A checkpoint that is to be loaded is
    opened first and later compared with the model. MMEngine's three log lines per initialised parameter are left out.

    Raises:
        UserError: The checkpoint cannot be read, an evaluated split is misspelt, or mixed precision has no GPU.
    """
    for loop in ('val', 'test'):
        check_evaluated_splits(cfg.get(f'{loop}_evaluator'), cfg.get(f'{loop}_dataloader'), loop)
    if cfg.get('optim_wrapper', {}).get('type') == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise UserError(
            'optim_wrapper.type: AmpOptimWrapper (--amp) needs a GPU and this machine shows none; '
            "use type='OptimWrapper' (leave out --amp)."
        )
    if cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from = latest_checkpoint(cfg.work_dir)
    if cfg.get('load_from'):
        check_readable(cfg.load_from)
    if cfg.launcher != 'none':
        _choose_model_wrapper(cfg)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    runner.register_hook(CheckpointFitHook())
    unwrap(runner.model)._dump_init_info = _skip_init_info
    return runner


def _choose_model_wrapper(cfg: Config) -> None:
    """Join the ranks where there is no GPU, and wrap the model in what its optimizer wrapper can work with."""
    if not torch.cuda.is_available():
        init_cpu_group(cfg.launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {}))
    if (
        cfg.get('model_wrapper_cfg') is None
        and (cfg.get('optim_wrapper') or {}).get('type') == 'SGDInBackwardOptimWrapper'
    ):
        cfg.model_wrapper_cfg = {'type': 'InBackwardDataParallel'}
    wrapper = cfg.get('model_wrapper_cfg') or {}
    if not torch.cuda.is_available() and wrapper.get('type') != 'InBackwardDataParallel':
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **wrapper,
            'device_ids': None,
        }


def _skip_init_info(*args, **kwargs) -> None:
    """Takes the place of ``BaseModule._dump_init_info``."""
