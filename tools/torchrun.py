"""torchrun, without its pages of traceback where a program has already said in one line what is wrong.

python tools/torchrun.py --nproc_per_node 2 tools/train.py CONFIG --launcher pytorch     # what dist_train.sh runs
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

USER_ERROR = 2  # exit code of the programs here after their one line

if __name__ == '__main__':
    logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
    try:
        main()
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        if first.exitcode == USER_ERROR:
            sys.exit(USER_ERROR)
        raise
