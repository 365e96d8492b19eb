"""What a device can do at most: floating point operations and bytes of memory per second.

Of known GPUs these are the manufacturer's numbers (:mod:`ftsgd_plugin.profiling.device_peaks`); of any other device and
of CPUs the best of a few matrix products and copies, measured here within a second.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from time import perf_counter

import torch

from .device_peaks import DEVICE_PEAKS

PRECISIONS = ('float32', 'tf32', 'bfloat16', 'float16')
_SIDES = {'cpu': 1024, 'cuda': 8192}  # of the square matrices that are multiplied
_BYTES = {'cpu': 2**26, 'cuda': 2**30}  # that are copied


@dataclass(frozen=True)
class Peaks:
    """The most that a device can do.

    Attributes:
        device: Its name.
        precision: One of ``PRECISIONS``, that of ``flops``.
        flops: Floating point operations per second in matrix products (a multiply-add counts two).
        bandwidth: Bytes per second between the device's memory and its cores; reads and writes both count.
        link: Bytes per second from the host's memory to the device's; on a CPU those of a copy within memory.
        source: Where ``flops`` and ``bandwidth`` come from; ``link`` is always measured.
    """

    device: str
    precision: str
    flops: float
    bandwidth: float
    link: float
    source: str


@cache
def device_peaks(device: str, precision: str = 'float32') -> Peaks:
    """Look a device up, or measure it.

    Args:
        device: ``'cpu'`` (with the number of threads that torch has now) or ``'cuda'``.
        precision: One of ``PRECISIONS``.
    """
    name = torch.cuda.get_device_name() if device == 'cuda' else _cpu_name()
    if (known := DEVICE_PEAKS.get(name)) is not None:
        flops, bandwidth, source = known.flops(precision), known.bandwidth, "the manufacturer's data sheet"
    else:
        flops, bandwidth = _matmul_rate(device, precision), 2 * _copy_rate(device, device)
        source = 'measured by matrix products and copies'
    return Peaks(name, precision, flops, bandwidth, _copy_rate('cpu', device), source)


def _matmul_rate(device: str, precision: str) -> float:
    side = _SIDES[device]
    dtype = getattr(torch, precision, torch.float32)
    left, right = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    return 2 * side**3 / _least_seconds(lambda: torch.mm(left, right, out=out), device)


def _copy_rate(source: str, target: str) -> float:
    size = _BYTES['cpu'] if 'cpu' in (source, target) else _BYTES['cuda']
    from_ = torch.ones(size // 4, device=source, pin_memory=source != target)
    to = torch.empty_like(from_, device=target)
    return size / _least_seconds(lambda: to.copy_(from_, non_blocking=True), target)


def _least_seconds(function: Callable[[], object], device: str, count: int = 5) -> float:
    """The shortest of a few calls: a busy moment makes a device look slower than it is, never faster."""
    seconds = []
    for _ in range(count + 1):  # the first one is slower
        if device == 'cuda':
            torch.cuda.synchronize()
        start = perf_counter()
        function()
        if device == 'cuda':
            torch.cuda.synchronize()
        seconds.append(perf_counter() - start)
    return min(seconds)


def _cpu_name() -> str:
    threads = torch.get_num_threads()
    return f'CPU ({threads} thread{"s" if threads > 1 else ""})'
