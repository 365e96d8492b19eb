"""What ``tools/train.py`` and ``tools/test.py`` share: options, launchers, one-line errors."""

import argparse
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from .checkpoints import check_readable
from .distributed import init_cpu_group, leave_group
from .errors import UserError
from .hooks import CheckpointFitHook

SAME_ERROR_SECONDS = 5
DEBUG = 'FTSGD_DEBUG'  # environment variable: show the traceback of a user error too


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate a program so that a :class:`UserError` is one line on stderr and exit code 2."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
            leave_group()
        except Exception as error:
            line = _line_for_users(error)
            if line is None:
                raise
            if os.environ.get(DEBUG):
                traceback.print_exc()
            distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            if distributed and torch.distributed.get_rank() > 0:
                time.sleep(SAME_ERROR_SECONDS)  # if rank 0 says the same, the launcher ends this rank meanwhile
            print(f'error: {line}', file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            if distributed:
                os._exit(2)  # the other ranks wait in a collective; a clean shutdown would wait for them
            sys.exit(2)

    return wrapped


def _line_for_users(error: Exception) -> str | None:
    """What a user can mend, as one line; ``None`` for a bug, which keeps its traceback."""
    text = str(error).strip()
    if isinstance(error, UserError):
        # An error from a data loader's worker arrives with the worker's traceback in front.
        return text.splitlines()[-1].removeprefix('ftsgd_plugin.errors.UserError: ')
    if isinstance(error, KeyError) and ' is not in the ' in text and ' registry' in text:  # a misspelt type
        name, _, rest = text.strip('"\'').partition(' is not in the ')
        registry = rest.split(' registry')[0]
        return f'type={name!r} is not in the {registry} registry; correct the name or add custom_imports.'
    if isinstance(error, ValueError) and text.startswith('Invalid ') and len(text.splitlines()) == 1:  # torch.optim
        return f'optim_wrapper.optimizer: {text}; correct the value.'
    return None


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options that MMPretrain's train and test have in common."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: ./work_dirs/CONFIG_NAME)')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin memory in the data loaders')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. optim_wrapper.optimizer.lr=3e-4 randomness.seed=1; '
        'lists as key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes --local-rank, torchrun sets LOCAL_RANK.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


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
        if args.no_pin_memory or not torch.cuda.is_available():
            cfg[name]['pin_memory'] = False
        if not cfg[name].get('num_workers', 0):
            cfg[name]['persistent_workers'] = False  # torch refuses them without workers
    if args.cfg_options is not None:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (KeyError, TypeError, IndexError) as error:
            reason = ' '.join(str(error).split())
            raise UserError(f'--cfg-options: does not fit {path} ({reason}); check the keys.') from error
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, ready to train or test.

    On a machine without a GPU the ranks of a distributed run meet over gloo. A checkpoint that is to be loaded is
    opened first and later compared with the model. MMEngine's three log lines per initialised parameter are left out.

    Raises:
        UserError: The checkpoint cannot be read.
    """
    for loop in ('val', 'test'):
        _check_evaluated_splits(cfg, loop)
    if cfg.get('load_from'):
        check_readable(cfg.load_from)
    elif cfg.get('resume') and (latest := find_latest_checkpoint(cfg.work_dir)):
        check_readable(latest)
    if cfg.launcher != 'none' and not torch.cuda.is_available():
        init_cpu_group(cfg.launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {}))
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **(cfg.get('model_wrapper_cfg') or {}),
            'device_ids': None,
        }
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    runner.register_hook(CheckpointFitHook())
    model = runner.model.module if hasattr(runner.model, 'module') else runner.model
    model._dump_init_info = _skip_init_info
    return runner


def _check_evaluated_splits(cfg: Config, loop: str) -> None:
    """Find a misspelt split of ``GroupAccuracy`` before the first epoch instead of after it."""
    evaluators = cfg.get(f'{loop}_evaluator') or []
    loader = cfg.get(f'{loop}_dataloader')
    if loader is None:
        return
    datasets = loader.dataset.get('datasets', [loader.dataset])
    splits = [dataset.split for dataset in datasets if 'split' in dataset]
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        if evaluator.get('type') != 'GroupAccuracy' or not splits:
            continue
        for option in ('id', 'ood'):
            subset = evaluator.get(option)
            split = subset if isinstance(subset, str) else (subset or {}).get('split')
            if split not in splits:
                raise UserError(
                    f'{loop}_evaluator.{option}: split {split!r} is not in {loop}_dataloader ({", ".join(splits)}); '
                    'correct one of them.'
                )


def _skip_init_info(*args, **kwargs) -> None:
    """Takes the place of ``BaseModule._dump_init_info``."""
