"""How a program ends: one line for a mistake of the user, the traceback for a bug, the process group left in order."""

import functools
import os
import re
import sys
import time
import traceback
from collections.abc import Callable

import torch

from ..runner.process_group import leave_group
from .errors import UserError

PATIENCE_SECONDS = 5  # a launcher ends the other ranks within this time after one has failed
DEBUG = 'FTSGD_DEBUG'  # environment variable: show the traceback of a user error too

# What torch.distributed raises on a rank whose peer has gone.
_PEER_GONE = re.compile(
    r'(?i)connection (?:closed|reset|refused) by|broken pipe|gloo/transport|timed? ?out waiting|remote process exited'
    r'|NCCL (?:error|communicator was aborted)'
)


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate a program so that a :class:`UserError` is one line on stderr and exit code 2.

    Of several processes one speaks: the first rank that fails. The others wait for their launcher to end them, be it
    because they have found the same mistake or because they have lost their peer.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
            leave_group()
        except Exception as error:
            line = line_for_users(error)
            grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
            if _rank() > 0 or (grouped and _PEER_GONE.search(str(error))):
                time.sleep(PATIENCE_SECONDS)
            if line is None:
                raise
            if os.environ.get(DEBUG):
                traceback.print_exc()
            print(f'error: {line}', file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            if grouped:
                os._exit(2)  # the other ranks wait in a collective; a clean shutdown would wait for them
            sys.exit(2)

    return wrapped


def _rank() -> int:
    """This process's rank, also before the group exists; 0 outside a launcher."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    for rank, size in (
        ('RANK', 'WORLD_SIZE'),
        ('SLURM_PROCID', 'SLURM_NTASKS'),
        ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
    ):
        if os.environ.get(rank, '').isdigit() and os.environ.get(size, '') not in ('', '1'):
            return int(os.environ[rank])
    return 0


def line_for_users(error: Exception) -> str | None:
    """What a user can mend, as one line; ``None`` for a bug, which keeps its traceback."""
    text = str(error).strip()
    if isinstance(error, UserError):
        # An error from a data loader's worker arrives with the worker's traceback in front.
        return text.splitlines()[-1].removeprefix('ftsgd_plugin.utils.errors.UserError: ')
    if isinstance(error, KeyError) and ' is not in the ' in text and ' registry' in text:  # a misspelt type
        name, _, rest = text.strip('"\'').partition(' is not in the ')
        registry = rest.split(' registry')[0]
        return f'type={name!r} is not in the {registry} registry; correct the name or add custom_imports.'
    one_line = ' '.join(text.split())
    # MMEngine's registries put "class `Name` in path/to/file.py: " before what a constructor says.
    built = re.match(r'class `(\w+)` in \S+\.py: (.*)', one_line)
    name, reason = built.groups() if built else (None, one_line)
    if isinstance(error, ValueError) and _BAD_HYPERPARAMETER.match(reason):
        return f'optim_wrapper.optimizer: {reason}; correct the value.'
    if isinstance(error, TypeError) and (found := re.search(_BAD_ARGUMENT, reason)):
        return f'type={name or found["owner"]!r}: {found["what"]}; correct the keys of that dict in the config.'
    if isinstance(error, OSError) and error.filename is not None:
        return f'{error.filename}: {error.strerror}; correct the path or its permissions.'
    return None


_BAD_HYPERPARAMETER = re.compile(  # of torch.optim
    'Invalid (?:learning rate|momentum|weight_decay|beta|epsilon|rho|lambd|alpha)|Nesterov momentum requires'
)
_BAD_ARGUMENT = re.compile(
    r'(?P<owner>\w+)\.__init__\(\) (?P<what>got an unexpected keyword argument \'\w+\''
    r'|missing \d+ required (?:positional|keyword-only) arguments?: .+)$'
)
