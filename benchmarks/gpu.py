"""Everything that needs a GPU, in parts of at most two minutes; started by ``bash benchmarks/gpu.sh``.

    bash benchmarks/gpu.sh --pack wheels                     # where there is a network: what the GPU machine lacks
    bash benchmarks/gpu.sh --wheels wheels --minutes 9       # on the GPU machine; again: continues
    bash benchmarks/gpu.sh --again finite                    # measure a part again
    bash benchmarks/gpu.sh --dry-run                         # every part on a CPU, with small networks
    bash benchmarks/gpu.sh --page                            # benchmarks/gpu.md from benchmarks/gpu.json only

Parts run one after another in the order of their value, each in a process of its own; a finished one is skipped, and
one that was cut off continues with the rows it lacks. gpu.json and gpu.md in --out hold every row with device, versions
and date. A part that fails is named and the others still run; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import multiprocessing
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also where another program runs this file

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError, one_line

if TYPE_CHECKING:
    from gpu_parts.records import Records
    from gpu_parts.table import Part, Scale

ROOT = Path(__file__).resolve().parents[1]
PART_SECONDS = 120
LEAST_SECONDS = 20  # a part is not started with less time than that
NO_GPU = 3  # exit code of a child
# torch then asks the driver's management library for GPUs, and not the driver, which does not survive a fork.
os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] = '1'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--minutes',
        type=float,
        help='of this call; what is left waits for the next (default: 9, and for a dry run all)',
    )
    parser.add_argument(
        '--again', nargs='+', default=[], metavar='PART', help='forget the records of these parts first'
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='small networks on the CPU, records in work_dirs/gpu_dry_run'
    )
    parser.add_argument('--out', type=Path, help='directory of gpu.json and gpu.md (default: benchmarks)')
    parser.add_argument('--page', action='store_true', help='write gpu.md from gpu.json and measure nothing')
    parser.add_argument('--pack', type=Path, metavar='DIR', help='collect the wheels that a GPU machine needs')
    parser.add_argument(
        '--has', nargs='+', default=[], metavar='NAME', help='with --pack: packages that it has already'
    )
    parser.add_argument('--wheels', metavar='DIR', help='install these first (gpu.sh does)')
    args = parser.parse_args()
    if args.minutes is None:
        args.minutes = math.inf if args.dry_run else 9
    if not args.minutes > 0:
        parser.error('--minutes is a positive number')
    if args.out is None:
        args.out = ROOT / ('work_dirs/gpu_dry_run' if args.dry_run else 'benchmarks')
    return args


@one_line_errors
def main() -> None:
    args = parse_args()
    if args.pack:
        from gpu_parts.pack import pack

        pack(args.pack, args.has)
    elif args.page:
        from gpu_parts.page import write_page

        write_page(args.out)
    elif run(args.out, args.minutes, args.again, args.dry_run):
        sys.exit(1)


def run(out: Path, minutes: float, again: Sequence[str], dry_run: bool) -> list[str]:
    """Run the parts that are not finished and write the page.

    Args:
        out: Directory of the records.
        minutes: After which no part is started.
        again: Parts whose records are dropped first.
        dry_run: On the CPU, with small networks, in this process.

    Returns:
        list[str]: The parts that failed.

    Raises:
        UserError: There is no GPU, no such part, or the records are of another kind.
    """
    until = time.monotonic() + 60 * minutes
    from gpu_parts.page import write_page
    from gpu_parts.records import Records
    from gpu_parts.table import DRY, FULL, parts

    from ftsgd_plugin.profiling.setup import quieten

    quieten()
    scale, records = (DRY if dry_run else FULL), Records(out, dry_run)
    table = parts(scale, out)
    if unknown := sorted({*again} - {part.name for part in table}):
        raise UserError(f'--again {unknown[0]}: no such part; the parts are {", ".join(part.name for part in table)}.')
    context = None if dry_run else multiprocessing.get_context(_start_method())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the part that runs, too
    for name in again:
        records.remove(name)
    failed = run_parts(table, scale, records, context, until)
    print(f'written: {records.path}, {write_page(out)}')
    return failed


def run_parts(table: Sequence[Part], scale: Scale, records: Records, context, until: float) -> list[str]:
    """Run the parts that are not finished; returns those that failed.

    Args:
        table: The parts.
        scale: Their scale.
        records: Their records.
        context: Of multiprocessing, see :func:`_run_part`.
        until: ``time.monotonic()`` after which no part is started.
    """
    failed, left = [], []
    for part in table:
        record = records.parts.get(part.name)
        if record and record['finished']:
            print(f'{part.name}: finished on {record["date"]}', flush=True)
            continue
        seconds = min(PART_SECONDS, until - time.monotonic())
        if seconds < LEAST_SECONDS:
            left.append(part.name)
            continue
        print(f'{part.name}: at most {seconds:.0f} s', flush=True)
        outcome = _run_part(context, part, scale, records, seconds)
        print(f'{part.name}: {outcome}', flush=True)
        if outcome == 'failed' or (outcome == 'cut off' and seconds == PART_SECONDS):
            failed.append(part.name)
        elif outcome != 'finished':
            left.append(part.name)
    if left:
        print(f'not finished: {", ".join(left)}; the same command continues')
    if failed:
        print(f'failed: {", ".join(failed)}; the same command tries again')
    return failed


def _start_method() -> str:
    """How the processes of the parts start: forked, with the imports paid once, if the GPU can be used after a fork."""
    child = multiprocessing.get_context('fork').Process(target=_touch_gpu)
    child.start()
    child.join()
    if child.exitcode == NO_GPU:
        raise UserError('this machine has no GPU that PyTorch can use; add --dry-run.')
    return 'fork' if child.exitcode == 0 else 'spawn'


def _touch_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        sys.exit(NO_GPU)
    torch.zeros(1, device='cuda').sum().item()


def _run_part(context, part: Part, scale: Scale, records: Records, seconds: float) -> str:
    """Run a part: ``'finished'``, ``'failed'``, ``'cut off'`` or ``'unfinished'``.

    Args:
        context: How its process starts; ``None``: in this one, which nothing can cut off.
        part, scale: What to run.
        records: Where its rows go.
        seconds: After which its process is ended.
    """
    start, failure = time.monotonic(), ''
    command = shlex.join(['bash', 'benchmarks/gpu.sh', *sys.argv[1:]])
    if context is None:
        measure(part, scale.device, records, command)
    else:
        child = context.Process(target=_in_process, args=(part.name, scale, records, command))
        child.start()
        try:
            child.join(seconds)
            if child.exitcode is None:
                failure = f'cut off after {seconds:.0f} s'
            elif child.exitcode != 0:
                failure = f'its process ended with {child.exitcode}'
        finally:
            _end(child)
    record = records.parts.get(part.name)
    if record is None:  # it ended before its first row
        return 'failed'
    failures = {'the process': failure} if failure else {}
    records.update(part.name, seconds=record['seconds'] + time.monotonic() - start, failures=failures)
    if failure:
        return 'cut off' if child.exitcode == -signal.SIGKILL else 'failed'
    return 'finished' if record['finished'] else 'failed' if record['failures'] else 'unfinished'


def _end(child: multiprocessing.Process) -> None:
    """End a part, if it has not ended, and the programs that it has started."""
    with contextlib.suppress(ProcessLookupError):  # none is left, or it has not become the leader of its group
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()


def _in_process(name: str, scale: Scale, records: Records, command: str) -> None:
    """In a process of its own: run a part."""
    os.setsid()
    from gpu_parts.table import parts

    from ftsgd_plugin.profiling.setup import quieten

    quieten()
    gc.freeze()  # the modules: every collection would search them
    part = next(part for part in parts(scale, records.path.parent) if part.name == name)
    measure(part, scale.device, records, command)


def measure(part: Part, device: str, records: Records, command: str) -> None:
    """Measure the rows that a part lacks; each is written at once."""
    import torch
    from gpu_parts.others import Unfinished
    from gpu_parts.speed import free

    from ftsgd_plugin.records import code_version, environment

    commit = code_version()['commit'] or ''
    # Without the mark of a changed file: the page of the call before is one.
    versions = {**environment(), 'cuda': torch.version.cuda, 'commit': commit.rstrip('+')}
    there = records.start(part.name, versions, command)
    whole = True
    for name, row in part.rows().items():
        if name in there:
            continue
        try:
            records.update(part.name, rows={name: row()})
        except Unfinished as reason:
            whole = False
            print(f'  {name}: {reason}', flush=True)
        except Exception as error:
            whole = False
            traceback.print_exc()
            records.update(part.name, failures={name: f'{type(error).__name__}: {one_line(error, limit=200)}'})
        else:
            print(f'  {name}', flush=True)
        free(device)
    records.update(part.name, finished=whole)


if __name__ == '__main__':
    main()
