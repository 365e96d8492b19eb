"""What the tests of this folder share: a sweep of two methods and two learning rates on 96 digits."""

import sys
from pathlib import Path

from helpers import ROOT, run_process

OPTIONS = (
    '--cfg-options',
    'train_dataloader.dataset.indices=96',
    'val_dataloader.dataset.datasets.0.indices=40',
    'val_dataloader.dataset.datasets.1.indices=40',
)
PLAN = dict(
    models=['vit-tiny'],
    datasets=['digits'],
    lrs={'sgd': [1e-3, 1e-2], 'freeze-embed': [1e-3, 1e-2]},
    seeds=[0],
    epochs=1,
)


def write_plan(folder: Path, digits_root: Path | str = 'data/digits', **keys) -> Path:
    """The plan file; ``keys`` replace or add some, ``None`` leaves one out."""
    content = {**PLAN, 'data_roots': {'digits': str(digits_root)}, **keys}
    path = folder / 'tiny.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in content.items() if value is not None))
    return path


def command(plan: Path, out: Path, *more: str) -> list[str]:
    """The command line of the tiny sweep."""
    return list(map(str, [sys.executable, ROOT / 'tools/sweep.py', plan, '--out', out, *more, *OPTIONS]))


def run_sweep(plan: Path, out: Path, *more: str):
    """Run it in a process of its own."""
    return run_process(*command(plan, out, *more), cwd=ROOT)
