"""The demo's configs on the digits of the tests."""

from pathlib import Path

from mmengine.config import Config

from helpers import ROOT, unique_name


def load_digits_config(digits_root: Path, method: str, subset: int | None = None, **options) -> Config:
    """The demo's config of a method on the fixture's digits; ``subset`` cuts every split to so many images."""
    cfg = Config.fromfile(ROOT / f'configs/vit-tiny_{method}_digits.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for dataset in loader.dataset.get('datasets', [loader.dataset]):
            dataset.data_root = str(digits_root)
            if subset:
                dataset.indices = subset
    cfg.experiment_name = unique_name()
    cfg.merge_from_dict(options)
    return cfg
