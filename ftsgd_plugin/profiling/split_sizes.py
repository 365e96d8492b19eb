"""How many images a split has, and iterations an epoch, before any data is read if the numbers are published."""

from math import ceil

from mmengine.config import Config
from mmpretrain.registry import DATASETS

from ..datasets.digits import DIGITS_PER_SPLIT, IMAGES_PER_DIGIT
from ..records import run_names


def iterations_per_epoch(cfg: Config) -> int:
    """Iterations per epoch of a run in one process, from its training data and batch size.

    Raises:
        UserError: The data cannot be read.
        AttributeError, KeyError: The config has no training data, or none whose size is published.
    """
    loader = cfg.train_dataloader
    images = split_size(run_names(cfg)['dataset'], loader.dataset)
    return images // loader.batch_size if loader.get('drop_last') else ceil(images / loader.batch_size)


def split_size(name: str, dataset: dict) -> int:
    """Published number of images of a split, of other data the number on disk; ``indices`` may cut it."""
    if name == 'digits':  # written in the layout of Waterbirds and read by its class
        size = DIGITS_PER_SPLIT[dataset['split']] * IMAGES_PER_DIGIT
    else:
        kind = dataset['type']  # a name, or the class in a config of the newer style
        published = (DATASETS.get(kind) if isinstance(kind, str) else kind).PUBLISHED
        if dataset['split'] not in published:
            return len(DATASETS.build({key: value for key, value in dataset.items() if key != 'pipeline'}))
        size = published[dataset['split']]
    indices = dataset.get('indices')
    if indices is None:
        return size
    return min(size, abs(indices)) if isinstance(indices, int) else len(indices)  # a negative number: so many last
