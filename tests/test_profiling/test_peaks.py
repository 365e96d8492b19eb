"""What devices can do at most: published for known GPUs, measured for others."""

import pytest
import torch

from ftsgd_plugin.profiling import peaks
from ftsgd_plugin.profiling.peaks import PRECISIONS, device_peaks

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
    """Rates are work over the shortest time, with a clock that does not depend on what else the machine does."""
    monkeypatch.setattr(peaks, '_SIDES', {'cpu': 64})
    monkeypatch.setattr(peaks, '_BYTES', {'cpu': 2**16})
    durations = iter([9.0, 4.0, 2.0, 0.5, 3.0, 5.0] * 3)  # seconds of the calls: products, a copy, the link's copy
    now, ends = [0.0], []

    def clock() -> float:
        if ends:
            now[0] += ends.pop()
        else:
            ends.append(next(durations))
        return now[0]

    monkeypatch.setattr(peaks, 'perf_counter', clock)
    found = device_peaks.__wrapped__('cpu')
    assert found.flops == 2 * 64**3 / 0.5
    assert found.bandwidth == 2 * 2**16 / 0.5 and found.link == 2**16 / 0.5
    assert found.source.startswith('measured') and str(torch.get_num_threads()) in found.device
