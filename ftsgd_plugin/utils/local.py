"""Tensors that are divided over the ranks (DTensor), without importing what divides them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def local_value(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor, detached and sharing its memory; a tensor that is not divided, detached."""
    return tensor.detach().to_local() if hasattr(tensor, 'to_local') else tensor.detach()
