"""Sharded training: parameters, gradients and optimizer state divided over the ranks by torch's ``fully_shard``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={'wrapper': ['ShardedDataParallel'], 'values': ['full_values', 'is_sharded']},
)
