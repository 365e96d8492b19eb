"""The order of several ranks in one process."""

import math

from mmengine.dataset import DefaultSampler
from mmpretrain.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class PaddedSampler(DefaultSampler):
    """Repeat as many images at the end of an epoch as ``DefaultSampler`` does to give so many ranks equal numbers.

    Args:
        ranks: Number of ranks.
    """

    def __init__(self, dataset, ranks: int, **options) -> None:
        super().__init__(dataset, **options)
        self.num_samples = self.total_size = math.ceil(len(dataset) / ranks) * ranks
