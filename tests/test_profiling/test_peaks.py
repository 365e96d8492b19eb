"""What devices can do at most: published for known GPUs, measured for others."""

import numpy as np
import pytest
import torch

from ftsgd_plugin.profiling import peaks
from ftsgd_plugin.profiling.peaks import PRECISIONS, device_peaks
from ftsgd_plugin.profiling.train_step import step_seconds

# torchtitan's get_peak_flops (torchtitan/tools/utils.py): dense bf16.
TORCHTITAN = {
    'NVIDIA A100-SXM4-80GB': 312e12,
    'NVIDIA H100 NVL': 835e12,
    'NVIDIA H100 PCIe': 756e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA H200': 989e12,
}


@pytest.mark.parametrize('name', TORCHTITAN)
def test_a_known_gpu_has_its_published_peak(name, monkeypatch):
    """Half precision is torchtitan's; the other precisions are slower in the order that the units of the chip have."""
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: name)
    monkeypatch.setattr(peaks, '_copy_rate', lambda source, target: 5e10)
    found = {precision: device_peaks.__wrapped__('cuda', precision) for precision in PRECISIONS}
    assert found['bfloat16'].flops == found['float16'].flops == pytest.approx(TORCHTITAN[name], rel=1e-3)
    assert found['bfloat16'].flops == pytest.approx(2 * found['tf32'].flops, rel=2e-3)
    assert found['tf32'].flops > 5 * found['float32'].flops
    assert all(one.device == name and one.source.endswith('data sheet') for one in found.values())


def test_a_cpu_is_measured(monkeypatch):
    monkeypatch.setattr(peaks, '_SIDES', {'cpu': 512})
    monkeypatch.setattr(peaks, '_BYTES', {'cpu': 2**24})
    found = device_peaks.__wrapped__('cpu')
    square, data = np.ones((512, 512), np.float32), np.ones(2**22, np.float32)
    into, other = np.empty_like(square), np.empty_like(data)
    with np.errstate(all='ignore'):
        numpy_flops = 2 * 512**3 / min(step_seconds(lambda: np.matmul(square, square, out=into), 5, 'cpu'))
        numpy_bytes = 2 * 2**24 / min(step_seconds(lambda: np.copyto(other, data), 5, 'cpu'))
    assert 0.1 < found.flops / numpy_flops < 10 and 0.1 < found.bandwidth / numpy_bytes < 10
    assert found.link == pytest.approx(found.bandwidth / 2, rel=0.9)
    assert found.source.startswith('measured') and str(torch.get_num_threads()) in found.device
