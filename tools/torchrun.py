"""torchrun, without its pages of traceback where one line says what is wrong.

python tools/torchrun.py --nproc_per_node 2 tools/train.py CONFIG --launcher pytorch     # what dist_train.sh runs
"""

import logging
import sys

try:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main, parse_args
except Exception:
    import ftsgd_plugin  # noqa: F401  says in one line what is wrong; takes too long where nothing is

    raise

USER_ERROR = 2  # exit code of the programs here after their one line


def busy_port(error: RuntimeError) -> str | None:
    """A line about the port if that is what torch complains about; its wording differs between versions."""
    args = parse_args(sys.argv[1:])
    if args.standalone or args.rdzv_backend != 'static' or args.rdzv_endpoint:
        return None  # --master_port, which PORT sets, is not used
    if 'EADDRINUSE' not in str(error) and 'ddress already in use' not in str(error):
        return None
    return f'port {args.master_port} of {args.master_addr} is in use; set PORT= to a free one'


if __name__ == '__main__':
    logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
    try:
        main()
    except ChildFailedError as failed:
        _, first = failed.get_first_failure()
        if first.exitcode == USER_ERROR:
            sys.exit(USER_ERROR)
        raise
    except RuntimeError as error:
        line = busy_port(error)
        if line is None:
            raise
        print(f'error: {line}', file=sys.stderr)
        sys.exit(USER_ERROR)
