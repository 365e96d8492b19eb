"""Measure what a training run costs beyond a plain PyTorch loop, and against stock MMPretrain, by CPU time.

    python benchmarks/loop_overhead.py                               # 5 runs of each, about 750 CPU s
    python benchmarks/loop_overhead.py --image-size 64               # about 230 CPU s
    python benchmarks/loop_overhead.py --start-only                  # until the first step
    python benchmarks/loop_overhead.py --sides ours plain stock stock-runner
    python benchmarks/loop_overhead.py --json FILE                   # every turn of every run

A run of each side is a process of its own with one thread and no data workers:

- ours: `tools/train.py` with this project's loop, default hooks, checkpoints, records and evaluation;
- plain: a loop in plain PyTorch over the same timm model, decoding, transforms and optimizer; it evaluates after each
  epoch and saves the last and the best weights;
- stock: MMPretrain's train.py with its own VisionTransformer, transforms, loop, hooks and checkpoints;
- stock-runner: the same train.py, loop, hooks and checkpoints, with this project's model, data sets and transforms.

All train deit_tiny_patch16_224 from random weights with AdamW, batch 16, on JPEGs of 400 x 350 pixels: at 224 x 224,
where a step takes seconds, or with `--image-size 64` steps of 0.3 s, which show what a run adds to each. The runs of a
round take turns step by step, so that whatever slows the machine slows all of them; what a step costs is the CPU time
from one batch to the next. The order turns from round to round.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

from loop_sides import BATCH, SIDES, SOCKET, command, our_config, stock_config, write_images

HERE = Path(__file__).resolve().parent
PARTS = {
    'start-up': 'start-up',
    'step': 'a step',
    'epoch end': 'evaluation and checkpoints of an epoch',
    'training': 'the whole epoch',
}
TIMEOUT = 900  # seconds that a side may take for a turn


class Run:
    """A run of one side in a new process, which works when it has the turn.

    Attributes:
        used: CPU seconds at the first step, and after every turn.
    """

    def __init__(self, side: str, data: Path, size: int, epochs: int, directory: Path) -> None:
        self.side, self.used, self._log = side, [], directory / 'log'
        work_dir = directory / 'work'
        work_dir.mkdir(parents=True)
        config = directory / f'{side.replace("-", "_")}.py'
        if side != 'plain':
            ours = side == 'ours'
            stock = partial(stock_config, only_runner=side == 'stock-runner')
            config.write_text((our_config if ours else stock)(data, size, epochs))
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(TIMEOUT)
        paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get('PYTHONPATH', '')])
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': paths, SOCKET: str(theirs.fileno())}
        with open(self._log, 'w') as log, theirs:
            self._process = subprocess.Popen(
                command(side, config, data, size, epochs, work_dir),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                pass_fds=[theirs.fileno()],
            )
        self._lines = self._socket.makefile('r')
        self._wait()

    def turn(self) -> None:
        """Let it make a step."""
        self._socket.send(b'1')
        self._wait()

    def end(self) -> None:
        """Let it end, wherever it is."""
        self._socket.close()
        self._lines.close()
        self._process.wait(TIMEOUT)

    def _wait(self) -> None:
        line = self._lines.readline()
        if not line:
            raise SystemExit(f'{self.side} has failed:\n{self._log.read_text()[-2000:]}')
        self.used.append(float(line))

    def result(self) -> dict:
        """CPU seconds until the first step, and of every turn since."""
        return {'start-up': self.used[0], 'turns': [after - before for before, after in zip(self.used, self.used[1:])]}


def measure(
    rounds: int,
    size: int,
    images: int,
    evaluated: int,
    epochs: int,
    sides: tuple[str, ...],
    steps: bool,
    keep: Callable,
) -> dict:
    """All rounds: per side its results, which ``keep`` receives after every round."""
    found: dict[str, list[dict]] = {side: [] for side in sides}
    turns = epochs * (images // BATCH) if steps else 0
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / 'data'
        write_images(data, images, evaluated)
        for number in range(rounds):
            order = [sides[(number + i) % len(sides)] for i in range(len(sides))]
            runs = [Run(side, data, size, epochs, Path(temporary) / f'{number}-{side}') for side in order]
            for _ in range(turns):
                for run in runs:
                    run.turn()
            for run in runs:
                run.end()
                found[run.side].append(run.result())
                total = sum(run.result()['turns'])
                text = f'round {number + 1}, {run.side}: {run.used[0]:.2f} CPU s until the first step, then {total:.2f}'
                print(text, file=sys.stderr, flush=True)
            keep(found)
    return found


def seconds(result: dict, part: str, epoch: int) -> list[float]:
    """CPU seconds of a part of a run: of its start-up, or of each of its epochs; ``epoch`` is the number of steps.

    The turn of an epoch's last step has the evaluation and the checkpoints in it, and the first step of all makes
    buffers: the time of a step is the mean of the others.
    """
    if part == 'start-up':
        return [result[part]]
    found = []
    for start in range(0, len(result['turns']), epoch):
        turns = result['turns'][start : start + epoch]
        step = statistics.mean(turns[not start : -1])
        found.append({'step': step, 'epoch end': turns[-1] - step, 'training': sum(turns)}[part])
    return found


def table(record: dict) -> list[str]:
    """Medians, and ours over the others as the median and the range of the paired ratios."""
    found = record['runs']
    parts = list(PARTS) if found['ours'][0]['turns'] else ['start-up']
    cells = [f'{PARTS[part]}, CPU s' for part in parts] + [f'ours / this: {PARTS[part]}' for part in parts]
    lines = [f'| | {" | ".join(cells)} |', '|---' * (1 + len(cells)) + '|']
    for side, results in found.items():
        found_in = [[value for one in results for value in seconds(one, part, record['epoch'])] for part in parts]
        cells = [f'{statistics.median(values):.3g}' for values in found_in]
        for part in parts:
            ratios = ratios_of(record, side, part)
            if side == 'ours':
                cells.append('')
            else:
                cells.append(f'{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})')
        lines.append(f'| {side} | {" | ".join(cells)} |')
    return lines


def ratios_of(record: dict, side: str, part: str) -> list[float]:
    """Ours over another side: start-up by start-up, epoch by epoch."""
    ours, other = (
        [value for one in record['runs'][name] for value in seconds(one, part, record['epoch'])]
        for name in ('ours', side)
    )
    return [mine / theirs for mine, theirs in zip(ours, other, strict=True)]


def verdicts(record: dict) -> list[str]:
    """The goals beside what was measured."""
    lines = []
    for side, part, limit, goal in (
        ('plain', 'step', 1.03, 'at most 3 % over the plain loop'),
        ('stock', 'step', 1 / 1.1, 'at least 10 % ahead of stock MMPretrain'),
        ('stock', 'training', 1 / 1.1, 'at least 10 % ahead of stock MMPretrain'),
        ('stock', 'start-up', 1.0, "start-up at most stock MMPretrain's"),
    ):
        if side not in record['runs'] or (part != 'start-up' and record['settings']['start_only']):
            continue
        median = statistics.median(ratios_of(record, side, part))
        met = 'met' if median <= limit else '**not met**'
        lines.append(f'- {goal}: {met}; ours / {side} {median:.3f} (goal: at most {limit:.3f}), {PARTS[part]}.')
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5, help='default: 5')
    parser.add_argument('--image-size', type=int, default=224, help='pixels a side that are trained on (default: 224)')
    parser.add_argument('--images', type=int, default=128, help='training images (default: 128)')
    parser.add_argument('--evaluated', type=int, default=32, help='images of an evaluation (default: 32)')
    parser.add_argument('--epochs', type=int, default=2, help='default: 2')
    parser.add_argument('--sides', nargs='+', choices=SIDES, default=list(SIDES[:3]), help='default: ours plain stock')
    parser.add_argument('--start-only', action='store_true', help='end every run at its first step')
    parser.add_argument('--json', metavar='PATH', help='write every run')
    args = parser.parse_args()
    if args.images < 3 * BATCH:
        parser.error(f'--images: at least {3 * BATCH}, so that an epoch has a step between its first and its last')
    if 'ours' not in args.sides:
        parser.error('--sides: everything is compared with ours; add it')
    import mmengine
    import mmpretrain
    import timm
    import torch

    versions = ', '.join(f'{module.__name__} {module.__version__}' for module in (torch, timm, mmengine, mmpretrain))
    record = {
        'where': f'{date.today()}, {platform.machine()}, one thread, Python {platform.python_version()}, {versions}',
        'settings': {
            name: getattr(args, name)
            for name in ('rounds', 'image_size', 'images', 'evaluated', 'epochs', 'start_only')
        },
        'epoch': args.images // BATCH,
    }

    def keep(runs: dict) -> None:
        if args.json:
            Path(args.json).write_text(json.dumps({**record, 'runs': runs}, indent=1) + '\n')

    sides, steps = tuple(args.sides), not args.start_only
    record['runs'] = measure(args.rounds, args.image_size, args.images, args.evaluated, args.epochs, sides, steps, keep)
    print(f'{record["where"]}; {record["settings"]}\n')
    print('\n'.join([*table(record), '', *verdicts(record)]))


if __name__ == '__main__':
    main()
