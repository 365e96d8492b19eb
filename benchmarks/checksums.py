"""What comparing the checksums of a checkpoint costs, beside loading it.

python benchmarks/checksums.py --gib 1 --repeat 3
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ftsgd_plugin.checkpoint import integrity
from ftsgd_plugin.checkpoint.io import check_readable
from ftsgd_plugin.records import environment


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--gib', type=int, default=1, help='size of the checkpoint')
    parser.add_argument('--repeat', type=int, default=3)
    return parser.parse_args()


def cpu_seconds(function: Callable[[], object], repeat: int) -> float:
    """Median seconds of this process per call."""
    found = []
    for _ in range(repeat):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return statistics.median(found)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / 'checkpoint.pth'
        weights = {f'blocks.{i}.weight': torch.randn(1 << 22) for i in range(64 * args.gib)}  # 16 MiB each
        torch.save({'state_dict': weights}, path)
        del weights

        def compare() -> None:
            integrity._whole.clear()
            assert integrity.damage(path) is None

        def again() -> None:
            check_readable(str(path))

        steps = {
            'compare the checksums': compare,
            'compare them again (the file has not changed), map the tensors': again,
            'load all tensors': lambda: torch.load(path, weights_only=True),
        }
        versions = environment()
        print(f'{args.gib} GiB from memory, 1 thread, Python {versions["python"]}, torch {versions["torch"]}\n')
        print('| step | CPU seconds per GiB |\n|---|---|')
        for name, step in steps.items():
            print(f'| {name} | {cpu_seconds(step, args.repeat) / args.gib:.2f} |')


if __name__ == '__main__':
    main()
