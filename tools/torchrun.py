"""torchrun without its traceback where the failing process has printed one line.

python tools/torchrun.py --standalone --nproc_per_node 2 tools/train.py CONFIG --launcher pytorch    # as dist_train.sh
"""

import logging
import sys

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError

USER_ERROR = 2  # exit code of the tools after their one line


@one_line_errors
def main() -> None:
    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    cannot_meet = getattr(torch.distributed, 'DistNetworkError', RuntimeError)  # its base class, in older versions
    logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
    try:
        torchrun()
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        if first.exitcode != USER_ERROR:
            raise
        sys.exit(USER_ERROR)
    except cannot_meet as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'MASTER_ADDR, PORT: the processes cannot meet there ({reason}); set another PORT') from error


if __name__ == '__main__':
    main()
