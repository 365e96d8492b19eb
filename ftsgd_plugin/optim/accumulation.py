"""Where gradient accumulation stands."""

from mmengine.optim import OptimWrapper
from torch.optim import Optimizer


def at_update_boundary(optimizer: OptimWrapper | Optimizer) -> bool:
    """Whether no accumulated gradient waits for its update.

    Args:
        optimizer: MMEngine's wrapper (of one optimizer or several), or a bare optimizer, which accumulates nothing.
    """
    if not isinstance(optimizer, OptimWrapper):
        return True
    if hasattr(optimizer, 'optim_wrappers'):  # OptimWrapperDict
        return all(at_update_boundary(inner) for inner in optimizer.optim_wrappers.values())
    return optimizer.should_update()
