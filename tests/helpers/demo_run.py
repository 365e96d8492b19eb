"""The demo's config as the tests of the programs run it."""

import json
from pathlib import Path

from helpers import ROOT

CONFIG = ROOT / 'configs/vit-tiny_freeze-embed_digits.py'
ONE_EPOCH = ('--cfg-options', 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1')


def scalars(work_dir: Path) -> list[dict]:
    """The lines of a run's scalars.json."""
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_child(directory: Path, name: str, text: str) -> Path:
    """Write a config that inherits the demo's and changes what ``text`` says."""
    path = directory / name
    path.write_text(f'_base_ = {str(CONFIG)!r}\n{text}\n')
    return path
