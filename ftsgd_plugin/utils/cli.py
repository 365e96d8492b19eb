"""How a program ends: one line for a mistake of the user, a traceback for a bug, one process that reports."""

import functools
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable

from .build_errors import build_failure
from .environment import import_failure
from .errors import UserError
from .format import printable
from .signals import Interrupted
from .write_errors import discard_stdout, stdout_is_broken, write_failure

PATIENCE_SECONDS = 5  # a launcher ends the other ranks within this time after one has failed
DEBUG = 'FTSGD_DEBUG'  # environment variable: show the traceback of a user error too


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate a program so that what a user can fix is one line on stderr and exit code 2.

    Of several processes one reports: the first rank that fails. The others wait for their launcher to end them: they
    have found the same mistake, or they have lost their peer and fail with an error that explains nothing.

    Neither torch nor MMEngine is imported: programs parse their arguments first and import both in ``main``.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        # mmcv-lite recommends the full MMCV for a module of detectors, at every import.
        warnings.filterwarnings('ignore', category=UserWarning, module=r'mmcv\.cnn\.bricks\.transformer')
        try:
            main()
            sys.stdout.flush()  # at the interpreter's end it could not be reported
        except Interrupted as stop:
            _end(stop.message, stop.code)
        except BrokenPipeError:
            if not stdout_is_broken():
                raise
            discard_stdout()  # its reader has ended, as in `| head`
            _end('', 128 + signal.SIGPIPE)
        except KeyboardInterrupt:
            _end('interrupted by SIGINT: ended at once, without saving', 128 + signal.SIGINT)
        except Exception as error:
            line = line_for_users(error)
            rank = launch_rank()
            time.sleep(PATIENCE_SECONDS * (((rank or 0) > 0) + (_in_group() and line is None)))
            if line is None:
                raise
            if os.environ.get(DEBUG):
                traceback.print_exc()
            _end(f'error: {line}', 2, every_rank=True)

    return wrapped


def _end(line: str, code: int, every_rank: bool = False) -> None:
    """End the program with a line on stderr (of rank 0, unless ``every_rank``) and an exit code."""
    rank = launch_rank()
    if line and (every_rank or not rank):
        print(line if line.isprintable() else printable(line), file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        discard_stdout()
    sys.stderr.flush()
    if rank is not None:
        os._exit(code)  # a clean shutdown would wait for the other ranks, and let them report meanwhile
    sys.exit(code)


def _in_group() -> bool:
    """Whether this process has joined a process group."""
    torch = sys.modules.get('torch')
    # A torch whose import failed has no attributes.
    distributed = getattr(torch, 'distributed', None)
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def launch_rank() -> int | None:
    """This process's rank, also before the group exists; ``None`` for a single process."""
    if _in_group():
        return sys.modules['torch'].distributed.get_rank()
    for rank, size in (
        ('RANK', 'WORLD_SIZE'),
        ('SLURM_PROCID', 'SLURM_NTASKS'),
        ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
    ):
        if os.environ.get(rank, '').isdigit() and os.environ.get(size, '') not in ('', '1'):
            return int(os.environ[rank])
    return None


def line_for_users(error: Exception) -> str | None:
    """What a user can fix, as one line; ``None`` for a bug, which keeps its traceback."""
    if isinstance(error, UserError):
        # An error from a data loader's worker arrives with the worker's traceback in front.
        return str(error).strip().splitlines()[-1].removeprefix(f'{UserError.__module__}.{UserError.__qualname__}: ')
    if (line := build_failure(error)) is not None:
        return line
    if (line := write_failure(error)) is not None:
        return line
    if isinstance(error, OSError) and error.filename is not None:
        return f'{error.filename}: {error.strerror}; correct the path or its permissions.'
    failure = import_failure(error)
    return None if failure is None else str(failure)
