"""ResourceHook in runs of the demo: peaks by phase, rates, the parts of a step, the summary file; HostMemoryHook."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import Runner

from ftsgd_plugin.hooks import HostMemoryHook, ResourceHook
from ftsgd_plugin.hooks import resources as module


def train(cfg) -> tuple[Runner, dict, list[dict]]:
    """The runner, its resources.json and the scalars of its log."""
    cfg.custom_hooks = [dict(type='ResourceHook')]
    cfg.default_hooks.logger.interval = 4
    cfg.default_hooks.checkpoint = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    directory = Path(runner.log_dir)
    lines = [json.loads(line) for line in (directory / 'vis_data/scalars.json').read_text().splitlines()]
    return runner, json.loads((directory / 'resources.json').read_text()), [line for line in lines if 'loss' in line]


def test_the_summary_accounts_for_every_iteration(digits_config):
    cfg = digits_config('freeze-embed', subset=256, **{'train_cfg.max_epochs': 2})
    runner, summary, log = train(cfg)
    (phase,) = summary['phases']
    assert (summary['device'], summary['world_size']) == ('cpu', 1)
    assert (phase['first_iteration'], phase['iterations'], phase['images']) == (0, 16, 512)
    trained = sum(p.numel() for p in runner.model.parameters() if p.requires_grad)
    assert phase['trained_parameters'] == trained
    assert phase['gradients'] == phase['state'] == 4 * trained
    assert phase['weights'] == 4 * sum(p.numel() for p in runner.model.parameters())
    assert phase['images_per_second'] == pytest.approx(512 / phase['wall_seconds'])
    assert set(phase['seconds']) == {'data', 'forward', 'backward', 'optimizer'}
    assert 0 < sum(phase['seconds'].values()) < phase['wall_seconds']
    assert phase['peak'] == summary['peak'] > 100e6 and phase['reserved'] is None
    assert len(log) == 4
    for line in log:
        parts = [line[f'seconds_{part}'] for part in ('data', 'forward', 'backward', 'optimizer')]
        assert min(parts) >= 0 and 100 < line['peak_memory'] <= summary['peak'] / 2**20
        assert line['images_per_second'] <= 1.01 * 32 / sum(parts)  # by wall clock, other hooks included


def test_evaluation_is_excluded(digits_config, monkeypatch):
    cfg = digits_config('freeze-embed', subset=64, **{'train_cfg.max_epochs': 2})
    monkeypatch.setattr(Runner, 'val_loop', property(lambda self: SimpleNamespace(run=lambda: slow_validation(self))))

    late = 0
    monkeypatch.setattr(module, 'time', SimpleNamespace(perf_counter=lambda: time.perf_counter() + late))

    def slow_validation(runner):
        nonlocal late
        runner.call_hook('before_val')
        late += 10_000  # seconds
        runner.call_hook('after_val')

    _, summary, _ = train(cfg)
    assert summary['phases'][0]['iterations'] == 4
    assert summary['phases'][0]['wall_seconds'] < 10_000 <= late


def test_a_phase_for_every_set_of_trained_parameters(digits_config):
    cfg = digits_config('gradual-unfreezing', subset=64, **{'train_cfg.max_epochs': 3})
    _, summary, _ = train(cfg)
    phases = summary['phases']
    assert [phase['first_iteration'] for phase in phases] == [0, 2, 4]
    assert [phase['iterations'] for phase in phases] == [2, 2, 2]
    trained = [phase['trained_parameters'] for phase in phases]
    assert trained == sorted(set(trained)) and trained[0] == 130
    assert [phase['state'] for phase in phases] == [4 * count for count in trained]


def test_sgd_in_backward_holds_one_gradient(digits_config):
    cfg = digits_config('freeze-embed-no-momentum', subset=64, **{'train_cfg.max_epochs': 1})
    cfg.optim_wrapper.type = 'SGDInBackwardOptimWrapper'
    runner, summary, _ = train(cfg)
    (phase,) = summary['phases']
    assert phase['gradients'] == max(p.numel() * 4 for p in runner.model.parameters() if p.requires_grad)
    assert phase['state'] == 0 and phase['seconds']['backward'] > 0


def test_training_is_unchanged_and_the_wrapper_is_restored(digits_config):
    runner, _, _ = train(digits_config('freeze-embed', subset=64, **{'train_cfg.max_epochs': 1}))
    assert 'backward' not in vars(runner.optim_wrapper)
    plain = digits_config('freeze-embed', subset=64, **{'train_cfg.max_epochs': 1})
    plain.custom_hooks = []
    plain.default_hooks.checkpoint = None
    reference = Runner.from_cfg(plain)
    reference.train()
    for ours, theirs in zip(runner.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_peak_of_a_phase_survives_mmengines_resets(monkeypatch):
    """A stand-in for CUDA's counter: the logger resets it, evaluation raises it, a new phase resets it."""
    counter = SimpleNamespace(live=50, peak=0)

    def reset():
        counter.peak = counter.live

    def work(size):
        counter.peak = max(counter.peak, size)  # and free all of it

    for name, function in (
        ('reset_peak_memory_stats', reset),
        ('max_memory_allocated', lambda: counter.peak),
        ('max_memory_reserved', lambda: 2 * counter.peak),
        ('get_device_name', lambda: 'stand-in'),
    ):
        monkeypatch.setattr(module.torch.cuda, name, function)
    hook = ResourceHook()
    hook._cuda, hook._params = True, [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(5))]
    runner = SimpleNamespace(iter=0, optim_wrapper=None)

    def begin(trained):
        hook._begin_phase(runner, trained)

    begin([False, True])
    for size in (100, 900, 300):
        work(size)
        hook._read_peak()
        reset()  # LoggerHook
    hook.before_val(runner)
    work(5000)
    hook.after_val(runner)
    work(400)
    hook._read_peak()
    hook._end_phase(runner)
    begin([True, True])
    work(700)
    hook._read_peak()
    hook._end_phase(runner)
    assert [phase['peak'] for phase in hook.phases] == [900, 700]
    assert [phase['reserved'] for phase in hook.phases] == [1800, 1400]
    assert hook.summary()['peak'] == 900


@pytest.mark.gpu
def test_the_peak_on_cuda_is_the_allocators(digits_config):
    cfg = digits_config('freeze-embed', subset=256, **{'train_cfg.max_epochs': 1})
    _, summary, log = train(cfg)
    assert summary['peak'] >= max(line['memory'] for line in log) * 2**20 * 0.9
    assert summary['phases'][0]['seconds']['backward'] > 0


@pytest.fixture
def logged_memory(monkeypatch):
    """``train/memory`` that HostMemoryHook logs on a device."""

    def log(device: str) -> list[float]:
        monkeypatch.setattr(module, 'get_device', lambda: device)
        runner = SimpleNamespace(message_hub=MessageHub.get_instance(f'host_memory_{device}'))
        HostMemoryHook().after_train_iter(runner, 0)
        buffer = runner.message_hub.log_scalars.get('train/memory')
        return [] if buffer is None else buffer.data[0].tolist()

    return log


def test_memory_on_the_cpu_is_the_peak_resident_memory_in_mib(logged_memory):
    (value,) = logged_memory('cpu')
    assert value == module.peak_resident_bytes() // 2**20
    assert value >= psutil.Process().memory_info().rss / 2**20 - 50


def test_memory_on_a_gpu_is_left_to_mmengine(logged_memory):
    assert logged_memory('cuda') == []


@pytest.mark.parametrize('platform, factor', [('linux', 1024), ('darwin', 1)])
def test_units_of_the_kernels_peak(monkeypatch, platform, factor):
    monkeypatch.setattr(module.sys, 'platform', platform)
    monkeypatch.setattr(module.resource, 'getrusage', lambda who: SimpleNamespace(ru_maxrss=3000))
    assert module.peak_resident_bytes() == 3000 * factor
