"""Norms of groups of tensors against double precision."""

import math

import pytest
import torch

from ftsgd_plugin.utils.norms import stacked_norms


def exact(tensors) -> float:
    return math.sqrt(sum(float((tensor.double() ** 2).sum()) for tensor in tensors))


def test_layers_of_any_shape_and_layout():
    torch.manual_seed(0)
    layers = [
        [torch.randn(7, 5), torch.randn(())],
        [torch.randn(8, 3, 16, 16).to(memory_format=torch.channels_last)],
        [torch.randn(900, 900).t()],
    ]
    norms = stacked_norms(layers)
    assert norms.tolist() == pytest.approx([exact(own) for own in layers], rel=1e-6)


def test_equal_entries():
    """Adding one square after the other in float32 has an error of 2e-3."""
    same = [torch.full((3072, 768), 0.013)]
    assert stacked_norms([same]).item() == pytest.approx(exact(same), rel=2e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_rounds(dtype):
    large = [torch.full((1000,), 3000.0, dtype=dtype)]
    norms = stacked_norms([large])
    assert norms.dtype == torch.float32 and norms.item() == pytest.approx(exact(large), rel=1e-6)


def test_double_precision_stays():
    values = [torch.randn(50, dtype=torch.float64)]
    assert stacked_norms([values]).item() == pytest.approx(exact(values), rel=1e-14)
