"""The memory figure of the progress line on a CPU."""

import resource
import types
from unittest import mock

from mmengine.logging import MessageHub

from ftsgd_plugin.hooks import HostMemoryHook


def recorded(device: str) -> list[float]:
    runner = types.SimpleNamespace(message_hub=MessageHub.get_instance(f'host_memory_{device}'))
    with mock.patch('ftsgd_plugin.hooks.host_memory.get_device', return_value=device):
        HostMemoryHook().after_train_iter(runner, 0)
    buffer = runner.message_hub.log_scalars.get('train/memory')
    return [] if buffer is None else buffer.data[0].tolist()


def test_peak_resident_memory_in_mb_on_the_cpu():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (value,) = recorded('cpu')
    assert abs(value - peak) < 50


def test_left_to_mmengine_on_a_gpu():
    assert recorded('cuda') == []
