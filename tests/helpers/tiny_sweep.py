"""A sweep of two methods and two learning rates on 96 digits."""

from pathlib import Path

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


def write_plan(directory: Path, digits_root: Path | str = 'data/digits', **keys) -> Path:
    """The plan file; ``keys`` replace or add some, ``None`` leaves one out."""
    content = {**PLAN, 'data_roots': {'digits': str(digits_root)}, **keys}
    path = directory / 'tiny.py'
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in content.items() if value is not None))
    return path
