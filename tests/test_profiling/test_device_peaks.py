"""The peak rates of GPUs and the utilisation that follows from them."""

import pytest

from ftsgd_plugin.profiling.device_peaks import DEVICE_PEAKS, utilisation


@pytest.mark.parametrize('name', ['cpu (x86_64)', 'NVIDIA GeForce RTX 4090', 'NVIDIA H100 80GB HBM3 MIG 1g.10gb'])
def test_a_device_that_is_not_in_the_table_has_no_utilisation(name):
    assert utilisation(1e12, name) is None


def test_utilisation_of_timms_published_count():
    """ViT-B/16 at 3,750 images per second: 17.58 GMACs (timm's results table) forward, three times that per step."""
    assert utilisation(3750 * 17.58e9 * 2 * 3, 'NVIDIA H100 80GB HBM3') == pytest.approx(0.40, abs=0.005)


def test_rates_are_per_second_and_in_bytes():
    for peaks in DEVICE_PEAKS.values():
        assert 3e14 < peaks.bf16_flops < 1e15 and 1e12 < peaks.bandwidth < 1e13
