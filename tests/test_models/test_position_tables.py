"""Position tables of Swin and BEiT are resized with a SciPy that has no interp2d."""

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ftsgd_plugin.checkpoint.compatibility import misfits
from ftsgd_plugin.models.position_tables import resize_position_table


def positions(size: int, target: int) -> np.ndarray:
    """Where the entries of a side are, by the formula of BEiT: in a geometric progression whose end is half the target.

    Its ratio is 1.5 at most.
    """
    ratio = min(1.5, max(np.roots([1.0] * (size // 2 - 1) + [1.0 - target // 2]).real))
    half = np.cumsum(ratio ** np.arange(size // 2))
    return np.concatenate([-half[::-1], [0.0], half])


def surface(y: np.ndarray, x: np.ndarray, k: int) -> np.ndarray:
    """A polynomial of degree 3 in each direction, not symmetric; a bicubic spline reproduces it exactly."""
    y, x = y[:, None] / 6, x[None, :] / 6
    return x**3 - 2 * y**2 * x + 0.5 * y**3 - y + k * x * y


@pytest.mark.parametrize('source, target', [(7, 13), (9, 13), (11, 13), (13, 23), (27, 47)])
def test_a_cubic_surface_is_resized_exactly(source, target):
    """Rows stay rows, every head keeps its own table, and the entries lie where BEiT's formula puts them."""
    places, heads = positions(source, target), 3
    table = np.stack([surface(places, places, k).ravel() for k in range(heads)], axis=-1)
    found = resize_position_table(source, target, torch.from_numpy(table), heads)
    wanted = np.arange(-(target // 2), target // 2 + 1.0)
    expected = np.stack([surface(wanted, wanted, k).ravel() for k in range(heads)], axis=-1)
    assert found.shape == (target * target, heads) and found.dtype == torch.float32
    inside = abs(wanted) <= places[-1] + 1e-3  # beyond the last entry its value continues
    inside = np.outer(inside, inside).ravel()
    np.testing.assert_allclose(found.numpy()[inside], expected[inside], rtol=1e-4, atol=1e-3)
    assert inside.mean() > 0.4


def swin(window: int, size: int) -> torch.nn.Module:
    arch = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4])
    return MODELS.build(dict(type='SwinTransformer', arch=arch, img_size=size, window_size=window))


def test_a_swin_takes_the_weights_of_another_window():
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    small, large = swin(4, 128), swin(7, 224)
    small.init_weights()
    weights = {name: value.clone() for name, value in small.state_dict().items()}
    name = 'stages.3.blocks.0.attn.w_msa.relative_position_bias_table'
    assert misfits(large, weights) == []
    large.load_state_dict(dict(weights), strict=False)  # as MMEngine does
    expected = resize_position_table(7, 13, weights[name], 4)
    assert torch.equal(large.state_dict()[name], expected) and expected.shape == (169, 4)
    assert large(torch.zeros(1, 3, 224, 224))[-1].isfinite().all()
