"""Gradient accumulation: is a window open?"""

from mmengine.optim import OptimWrapper
from torch.optim import Optimizer


def at_update_boundary(optimizer: OptimWrapper | Optimizer) -> bool:
    """Whether the last update is complete, so that no accumulated gradient waits for one.

    Args:
        optimizer: MMEngine's wrapper (of one optimizer or several), or a bare optimizer, which accumulates nothing.
    """
    if not isinstance(optimizer, OptimWrapper):
        return True
    if hasattr(optimizer, 'optim_wrappers'):  # OptimWrapperDict
        return all(at_update_boundary(inner) for inner in optimizer.optim_wrappers.values())
    return optimizer.should_update()
