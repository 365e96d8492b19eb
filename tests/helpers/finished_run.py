"""A finished run of the demo: one epoch on few images, with everything that a run leaves on disk."""

from pathlib import Path

from helpers.digits import load_digits_config


def train_briefly(digits_root: Path, directory: Path, method: str = 'freeze-embed', **options) -> Path:
    """Train for one epoch on 32 images per split and return the work directory."""
    from ftsgd_plugin.runner.build import build_runner

    cfg = load_digits_config(digits_root, method, 32, work_dir=str(directory), **options)
    cfg.train_cfg.max_epochs, cfg.launcher = 1, 'none'
    build_runner(cfg).train()
    return directory
