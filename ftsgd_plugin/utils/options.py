"""Command-line options that several tools share. Importing this module imports neither torch nor MMEngine."""

import argparse

from .errors import UserError
from .format import parse_bytes, parse_duration

TFLOPS = 60.0  # sustained TFLOP/s of a GPU that GPU-hours assume; not a measurement


class _KeyValue(argparse.Action):
    """MMEngine's ``DictAction``, imported when the option is used, with a usage error for words without ``=``."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for word in values:
            if '=' not in word:
                parser.error(f'{option_string}: {word!r} is not KEY=VALUE')
        from mmengine.config import DictAction

        DictAction(self.option_strings, self.dest, nargs=self.nargs)(parser, namespace, values, option_string)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options KEY=VALUE ...``, a dict for :func:`ftsgd_plugin.runner.build.merge_cfg_options`."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_KeyValue,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. optim_wrapper.optimizer.lr=3e-4 randomness.seed=1; '
        'lists as key="[a,b]"',
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that MMPretrain's ``tools/train.py`` and ``tools/test.py`` have in common."""
    parser.add_argument('--work-dir', help='directory for logs and checkpoints (default: ./work_dirs/CONFIG_NAME)')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin memory in the data loaders')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes --local-rank, torchrun sets LOCAL_RANK.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def positive_int(text: str) -> int:
    """The ``type`` of an option that counts."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive whole number')
    return int(text)


def count(text: str) -> int:
    """The ``type`` of an option that counts and may be 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 0 up')
    return int(text)


def seed_number(text: str) -> int:
    """The ``type`` of an option that seeds random numbers: what NumPy takes."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 0 to {2**32 - 1}')
    return int(text)


def byte_size(text: str) -> int:
    """The ``type`` of an option in bytes, e.g. ``8GiB``."""
    try:
        return parse_bytes(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def duration(text: str) -> float:
    """The ``type`` of an option in seconds, e.g. ``2h``."""
    try:
        return parse_duration(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
