"""Time and memory of the driver of a large sweep, whose runs are faked: what a run costs besides its training.

    python benchmarks/sweep_scale.py                        # 840 and 10,080 runs; ten minutes
    python benchmarks/sweep_scale.py --seeds 1              # 120 runs
    python benchmarks/sweep_scale.py --record benchmarks/sweep_scale.md --machine TEXT

The plan is CLIP ViT-B/16 of configs/sweeps/paper.py with more seeds. Every stage is the code of tools/sweep.py,
tools/tables.py or tools/report.py in a process of its own. In place of Ray a run writes at once the record that a
training would leave; its time is not counted.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from tabulate import tabulate

from ftsgd_plugin.records import RunRecord, code_version, environment, write_record
from ftsgd_plugin.sweep.driver import sweep
from ftsgd_plugin.sweep.forecast import predict_costs
from ftsgd_plugin.sweep.plan import claim_directory, read_plan
from ftsgd_plugin.sweep.running import run_tasks
from ftsgd_plugin.sweep.runs import survey
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.files import write_text
from ftsgd_plugin.utils.format import format_bytes
from ftsgd_plugin.utils.options import positive_int
from ftsgd_plugin.utils.paths import config_path

LIMIT = 0.1  # seconds of the driver for each run
METRICS = (
    'id/accuracy',
    'ood/accuracy',
    'ood/worst_group',
    'split/val',
    'split/test',
    *map('group/{}'.format, range(4)),
)
AT_ONCE = 64


@dataclass(frozen=True)
class Cost:
    """What a stage took.

    Attributes:
        cpu, wall: Seconds.
        growth: Bytes of memory that it added at its peak.
    """

    cpu: float
    wall: float
    growth: int


class Instant:
    """A place for runs, as :class:`ftsgd_plugin.sweep.ray_backend.Cluster` is one, where they end at once.

    Args:
        settings: Directory -> ``(model, method, dataset, lr, seed, config_hash, epochs)`` of its record.
    """

    def __init__(self, settings: dict[str, tuple]) -> None:
        self.workers, self._settings = AT_ONCE, settings
        self.cpu = self.wall = 0.0

    def run(self, jobs: Iterable, started: Callable[[int], None]) -> Iterator[tuple[int, int, str]]:
        """As many at a time as there are workers; they end in the order of their start."""
        waiting = enumerate(jobs)
        while batch := list(itertools.islice(waiting, self.workers)):
            for index, _ in batch:
                started(index)
            for index, (_, directory) in batch:
                self._finish(directory)
                yield index, 0, ''

    def _finish(self, directory: str) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        write_record(fake_record(*self._settings[directory]), directory)
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall

    def close(self) -> None:
        """Nothing to leave."""


def fake_record(
    model: str, method: str, dataset: str, lr: float, seed: int, config_hash: str, epochs: int
) -> RunRecord:
    """What a training would leave, with random accuracies."""
    numbers = random.Random(f'{model} {method} {dataset} {lr} {seed}')
    values = [{key: numbers.random() for key in METRICS} for _ in range(epochs)]
    best = max(range(epochs), key=lambda epoch: values[epoch]['id/accuracy'])
    return RunRecord(
        model, method, dataset, lr, seed, config_hash, 'finished', values, best, code=code_version(),
        environment={'python': '3.11', 'torch': '2.11.0', 'device': 'none (faked)', 'processes': 1},
        resources={'seconds': 100.0, 'peak_bytes': 2**33, 'state_bytes': 2**30, 'parameters': 10**8},
        command='none (faked)',
    )  # fmt: skip


def memory(key: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (at its peak) of this process in bytes."""
    return int(next(line for line in open('/proc/self/status') if line.startswith(key)).split()[1]) * 1024


def measured(stage: Callable[[], tuple[float, float] | None]) -> Cost:
    """Run a stage in a forked process, without its output; it returns the CPU and wall time that do not count."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                Path('/proc/self/clear_refs').write_text('5')  # forgets the peak of the parent
                before, cpu, wall = memory('VmRSS'), time.process_time(), time.perf_counter()
                others = stage()
                others = others if isinstance(others, tuple) else (0.0, 0.0)
                spent = (time.process_time() - cpu - others[0], time.perf_counter() - wall - others[1])
            os.write(writing, json.dumps([*spent, memory('VmHWM') - before]).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    if not content:
        raise SystemExit('a stage has failed; its error is above')
    return Cost(*json.loads(content))


def stages(plan: Path, out: Path) -> Iterator[tuple[str, Callable]]:
    """Name and function of everything that a user does with a sweep, in order."""
    from ftsgd_plugin.results.report import write_report
    from ftsgd_plugin.results.tables import write_tables

    content = read_plan(str(plan))
    settings = {}
    for task in survey(content, out):
        run = task.run
        names = (run.model, run.method, run.dataset, run.lr, run.seed)
        settings[str(task.directory)] = (*names, task.hash, task.config.train_cfg.max_epochs)

    def run() -> tuple[float, float]:
        place = Instant(settings)
        claim_directory(content, out)
        run_tasks(survey(content, out), out, lambda: place)
        return place.cpu, place.wall

    predict_costs(survey(replace(content, seeds=content.seeds[:1]), out))  # kept in the cache directory
    yield 'list: `tools/sweep.py --dry-run`', lambda: sweep(plan, out, dry_run=True)
    yield 'start, watch and conclude: `tools/sweep.py`', run
    yield 'list again, all finished', lambda: sweep(plan, out, dry_run=True)
    yield 'start again, nothing to do', run
    yield '`tools/tables.py`', lambda: write_tables([out])
    yield '`tools/report.py`', lambda: write_report([out], out / 'report.html', command='-')


def run_all(seeds: int) -> tuple[int, dict[str, Cost]]:
    """Number of runs, and stage -> its cost, for CLIP ViT-B/16 of the paper's plan with so many seeds."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ['XDG_CACHE_HOME'] = directory  # programs of another checkout would replace the costs in the user's
        plan = Path(directory) / 'plan.py'
        write_text(
            plan,
            f"_base_ = {config_path('sweeps/paper')!r}\nmodels = ['clip-vit-b16']\nmodel_seeds = {{'_delete_': True}}\n"
            f'seeds = {list(range(seeds))}\n',
        )
        count = len(read_plan(str(plan)).runs())
        costs = {}
        for name, stage in stages(plan, Path(directory) / 'out'):
            costs[name] = measured(stage)
            each, mib = 1000 * costs[name].cpu / count, costs[name].growth / 2**20
            print(f'{count} runs, {name}: {each:.1f} ms of CPU time per run, {mib:.0f} MiB', flush=True)
    return count, costs


def page(found: dict[int, dict[str, Cost]], machine: str) -> str:
    """The record of the benchmark in Markdown."""
    versions = environment()
    counts = sorted(found)
    header = ['stage', *(f'{count:,} runs: {what}' for count in counts for what in ('CPU ms per run', 'memory added'))]
    rows = [
        [
            name,
            *(
                text
                for count in counts
                for text in (f'{1000 * found[count][name].cpu / count:.1f}', format_bytes(found[count][name].growth))
            ),
        ]
        for name in found[counts[0]]
    ]
    lines = [
        '# The driver of a large sweep',
        '',
        f'`python benchmarks/sweep_scale.py --seeds {" ".join(str(count // SEED) for count in counts)}`, '
        f'{datetime.now().date()}, {machine}, Python {versions["python"]}, torch {versions["torch"]}: time of the '
        'driver and memory that a stage adds to its process at its peak. Runs are faked and end at once, 64 at a time; '
        "their own time is not counted. The costs of the plan's configs were predicted before.",
        '',
        tabulate(rows, header, tablefmt='pipe', disable_numparse=True),
        '',
    ]
    if len(counts) > 1:
        few, many = counts[0], counts[-1]
        stages_cpu = {count: sum(cost.cpu for cost in costs.values()) for count, costs in found.items()}
        slope = max((found[many][name].growth - found[few][name].growth) / (many - few) for name in found[few])
        lines += [
            f'All stages together: {1000 * stages_cpu[many] / many:.0f} ms of CPU time per run at {many:,} runs '
            f'({1000 * stages_cpu[few] / few:.0f} ms at {few:,}). Each further run adds at most '
            f'{format_bytes(slope)} of memory to a stage.',
            '',
        ]
    return '\n'.join(lines)


SEED = 120  # runs of the plan with one seed


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=positive_int, nargs='+', default=[7, 84], help=f'{SEED} runs each')
    parser.add_argument('--record', help='file for the results in Markdown')
    parser.add_argument('--machine', default='machine not named', help='for the record')
    args = parser.parse_args()
    found = dict(run_all(seeds) for seeds in args.seeds)
    text = page(found, args.machine)
    if args.record:
        write_text(args.record, text)
    print(f'\n{text}')
    slow = [name for count, costs in found.items() for name, cost in costs.items() if cost.cpu > LIMIT * count]
    if slow:
        raise UserError(f'more than {LIMIT:g} s of CPU time per run: {", ".join(slow)}.')


if __name__ == '__main__':
    main()
