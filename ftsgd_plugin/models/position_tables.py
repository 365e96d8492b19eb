"""Resize Swin's and BEiT's position tables with any SciPy: MMPretrain calls ``interp2d``, which SciPy 1.14 removed.

``RectBivariateSpline`` computes the same bicubic spline (SciPy's own guide to the transition from ``interp2d``).
"""

import importlib.metadata
import sys
from types import ModuleType

import numpy as np
import torch
import wrapt
from mmengine.utils import digit_version

from ..utils.patching import replaced

_NAME = 'resize_relative_position_bias_table'


def resize_position_table(src_shape: int, dst_shape: int, table: torch.Tensor, num_head: int) -> torch.Tensor:
    """Resize a table of relative position biases, as MMPretrain's function of the (nearly) same name does.

    Positions near the centre keep their place; the others are spread in a geometric progression (BEiT, arXiv
    2106.08254).

    Args:
        src_shape: Entries per side of the table, S.
        dst_shape: Entries per side of the result, D.
        table: The biases (S * S, heads).
        num_head: Number of heads.

    Returns:
        torch.Tensor: The resized table (D * D, heads), float32, on the device of ``table``.
    """
    from scipy.interpolate import RectBivariateSpline

    half, target = src_shape // 2, dst_shape // 2
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        ratio = (left + right) / 2
        if (1 - ratio**half) / (1 - ratio) > target:
            right = ratio
        else:
            left = ratio
    distances = np.cumsum(ratio ** np.arange(half))
    source = np.concatenate([-distances[::-1], [0.0], distances])
    wanted = np.arange(-target, target + 0.1, 1.0)
    heads = table.detach().float().cpu().numpy().reshape(src_shape, src_shape, num_head)
    resized = [RectBivariateSpline(source, source, heads[..., k])(wanted, wanted) for k in range(num_head)]
    return torch.from_numpy(np.stack(resized, axis=-1)).float().view(-1, num_head).to(table.device)


def use_maintained_spline(embed: ModuleType) -> None:
    """Let MMPretrain call :func:`resize_position_table`, where SciPy has no ``interp2d``.

    Args:
        embed: The module ``mmpretrain.models.utils.embed``, when it has just been imported, or later.
    """
    if digit_version(importlib.metadata.version('scipy')) < digit_version('1.14.0'):
        return
    original = getattr(embed, _NAME)
    for name, module in list(sys.modules.items()):
        if name.startswith('mmpretrain.') and vars(module).get(_NAME) is original:
            replaced(module, _NAME, resize_position_table)


# Not imported here: it takes the whole of mmpretrain.models with it.
wrapt.register_post_import_hook(use_maintained_spline, 'mmpretrain.models.utils.embed')
