"""A config cut to two iterations and a short evaluation of every split, on a few of its images."""

from collections.abc import Iterator, Mapping

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

LOADERS = ('train_dataloader', 'val_dataloader')  # of a training; what only a test reads is not tried
ITERATIONS = 2
EVALUATED = 8  # images of a split at least; every group that has one adds one

Images = dict[str, list[list[int]]]  # loader -> of each of its data sets the positions of the images


def choose_images(cfg: Config) -> Images:
    """The images for a trial: of the training data a batch, of every evaluated split some of each group.

    Reads the metadata of all splits, but no image.

    Args:
        cfg: Full config.

    Raises:
        UserError: Metadata is missing or malformed.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    chosen: Images = {}
    for loader in LOADERS:
        for settings in _datasets(cfg[loader]):
            plain = {key: value for key, value in settings.items() if key not in ('pipeline', 'lazy_init')}
            data = DATASETS.build({**plain, 'pipeline': []})
            if loader == 'train_dataloader':
                positions = _spread(len(data), cfg[loader].batch_size)
            else:
                positions = sorted({*_first_of_groups(data), *_spread(len(data), EVALUATED)})
            chosen.setdefault(loader, []).append(_in_file(positions, settings.get('indices'), len(data)))
    return chosen


def cut(cfg: Config, images: Images) -> None:
    """Let a config train one batch in each of two epochs and evaluate once, without writing weights.

    Two epochs and not two batches of one: schedules step between, and gradual unfreezing opens more.

    Args:
        cfg: Full config, changed in place.
        images: From :func:`choose_images`.
    """
    for loader, chosen in images.items():
        for settings, positions in zip(_datasets(cfg[loader]), chosen, strict=True):
            settings['indices'] = positions
    length = 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'
    cfg.train_cfg[length] = cfg.train_cfg.val_interval = ITERATIONS
    cfg.train_cfg.pop('val_begin', None)
    hooks = cfg.default_hooks
    hooks.checkpoint.update(interval=-1, save_last=False, save_best=None)
    hooks.logger.interval = 1
    cfg.run.smoke = True


def _datasets(loader: Mapping) -> list[dict]:
    """The settings of the data sets of a loader, which may concatenate several."""
    return loader['dataset'].get('datasets', [loader['dataset']])


def _spread(count: int, wanted: int) -> list[int]:
    """Positions all over sorted data, which begins with images of one class."""
    return np.linspace(0, count - 1, min(wanted, count)).astype(int).tolist()


def _first_of_groups(data: BaseDataset) -> Iterator[int]:
    seen = set()
    for position in range(len(data)):
        if (group := data.get_data_info(position).get('group')) not in seen:
            seen.add(group)
            yield position


def _in_file(positions: list[int], indices: int | list[int] | None, count: int) -> list[int]:
    """Positions in data of which a config already takes a part, as positions in all of it."""
    if indices is None or (isinstance(indices, int) and indices >= 0):
        return positions
    if isinstance(indices, int):  # the last ones
        return [position - count for position in positions]
    return [indices[position] for position in positions]
