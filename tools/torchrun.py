"""torchrun without its traceback where the failing process has printed one line, or was stopped or killed.

python tools/torchrun.py --standalone --nproc_per_node 2 tools/train.py CONFIG --launcher pytorch    # as dist_train.sh
"""

import logging
import os
import signal
import sys

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.patching import replaced

USER_ERROR = 2  # exit code of the tools after their one line
SAVE_SECONDS = 120  # between the signal that a rank gets and SIGKILL: it writes a checkpoint (torchrun: 30)


@one_line_errors
def main() -> None:
    import torch
    from torch.distributed.elastic.multiprocessing.api import PContext, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    cannot_meet = getattr(torch.distributed, 'DistNetworkError', RuntimeError)  # its base class, in older versions
    logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
    received = []

    def as_sigterm(number: int, frame) -> None:
        """torchrun forwards SIGTERM and would die of SIGUSR1, which schedulers send ahead of a limit."""
        received.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGUSR1, as_sigterm)
    close = PContext.close
    patient = replaced(
        PContext, 'close', lambda self, death_sig=None, timeout=SAVE_SECONDS: close(self, death_sig, timeout)
    )
    try:
        with patient:
            torchrun()
    except SignalException as stopped:  # the ranks have saved and said so
        sys.exit(128 + (received or [stopped.sigval])[0])
    except ChildFailedError as failed:
        rank, first = failed.get_first_failure()
        if first.exitcode == USER_ERROR or first.exitcode >= 128:  # 128 + n: stopped by a signal
            sys.exit(first.exitcode)
        if first.exitcode < 0:
            name = signal.Signals(-first.exitcode).name
            cause = ', usually because memory ran out' * (-first.exitcode == signal.SIGKILL)
            raise UserError(
                f'rank {rank} (process {first.pid}) was killed by signal {-first.exitcode} ({name}){cause}; start '
                'the same command again, a training with --resume.'
            ) from None
        raise
    except cannot_meet as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'MASTER_ADDR, PORT: the processes cannot meet there ({reason}); set another PORT') from error


if __name__ == '__main__':
    main()
