"""A training step in which the host does not wait for the device, with the numbers of MMEngine."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from helpers import unique_name
from mmengine.logging import HistoryBuffer, MessageHub
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch.utils._python_dispatch import TorchDispatchMode

from ftsgd_plugin.hooks import divergence
from ftsgd_plugin.runner import unwaited
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.runner.unwaited import PatientHistory, copy_without_waiting, wait_for_no_scalar
from ftsgd_plugin.utils import norms


class Waits(TorchDispatchMode):
    """Counts the operators that make the host wait for a GPU: those whose result is a Python value or a size."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        names = ('_local_scalar_dense', 'nonzero', 'equal', 'is_nonzero', 'masked_select', '_unique2')
        self.count += func.overloadpacket.__name__ in names
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Tensors of the CPU are treated as those of a GPU are."""
    monkeypatch.setattr(unwaited, '_on_device', lambda value: True)
    monkeypatch.setattr(norms, '_on_host', lambda tensors: False)


def hubs() -> tuple[MessageHub, MessageHub]:
    ours, theirs = (MessageHub.get_instance(unique_name()) for _ in range(2))
    wait_for_no_scalar(ours)
    return ours, theirs


def assert_same(ours: HistoryBuffer, theirs: HistoryBuffer) -> None:
    for mine, other in zip(ours.data, theirs.data):
        assert mine.dtype == other.dtype and mine.tolist() == other.tolist()


@pytest.mark.parametrize('kind', [int, float, torch.tensor, lambda value: torch.tensor([float(value)]), np.float32])
def test_a_history_is_mmengines(as_on_a_gpu, kind):
    (ours, theirs), draw = hubs(), random.Random(0)
    for step in range(60):
        value, count = kind(draw.randint(0, 9)), draw.randint(1, 3)
        for hub in (ours, theirs):
            hub.update_scalar('train/loss', value, count)
        if step % 17 == 0 or step == 59:
            mine, other = (hub.get_scalar('train/loss') for hub in (ours, theirs))
            for method in (HistoryBuffer.mean, HistoryBuffer.min, HistoryBuffer.max):
                assert method(mine, 10) == method(other, 10) and method(mine) == method(other)
            assert mine.current() == other.current() and type(mine.current()) is type(other.current())
            assert_same(mine, other)


def test_the_oldest_values_are_dropped_as_mmengine_does():
    ours, theirs = PatientHistory(max_length=5), HistoryBuffer(max_length=5)
    for value in range(12):
        for history in (ours, theirs):
            history.update(float(value))
    assert ours.data[0].tolist() == theirs.data[0].tolist() == [7, 8, 9, 10, 11]


def test_values_are_read_together_and_only_when_somebody_looks(as_on_a_gpu):
    hub, _ = hubs()
    running = torch.zeros(())
    with Waits() as waits:
        for _ in range(20):
            running += 1  # the owner still uses its tensor
            hub.update_scalar('train/loss', running)
        assert waits.count == 0
    assert hub.get_scalar('train/loss').data[0].tolist() == list(range(1, 21))
    with Waits() as waits:
        hub.get_scalar('train/loss').mean()
    assert waits.count == 0


def test_what_is_saved_is_mmengines_and_loads_safely(as_on_a_gpu, tmp_path):
    ours, theirs = hubs()
    for hub in (ours, theirs):
        hub.update_scalar('train/loss', torch.tensor(0.5))
        hub.update_scalar('train/memory', 7)
        hub.update_scalar('not/resumed', 1.0, resumed=False)
    saved, expected = ours.state_dict(), theirs.state_dict()
    assert saved['resumed_keys'] == expected['resumed_keys'] and list(saved['log_scalars']) == list(
        expected['log_scalars']
    )
    for key, value in saved['log_scalars'].items():
        assert type(value) is HistoryBuffer
        assert_same(value, expected['log_scalars'][key])
    torch.save(saved, tmp_path / 'saved.pth')
    loaded = torch.load(tmp_path / 'saved.pth', weights_only=True)
    assert_same(loaded['log_scalars']['train/loss'], expected['log_scalars']['train/loss'])
    resumed, _ = hubs()
    resumed.load_state_dict(loaded)
    resumed.update_scalar('train/loss', torch.tensor(0.25))
    assert resumed.get_scalar('train/loss').data[0].tolist() == [0.5, 0.25]
    history = ours.get_scalar('train/loss')
    for copied in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert type(copied) is HistoryBuffer and copied.data[0].tolist() == [0.5]


def test_what_is_not_a_scalar_is_refused_as_by_mmengine():
    ours, theirs = hubs()
    for hub in (ours, theirs):
        with pytest.raises(AssertionError):
            hub.update_scalar('train/loss', torch.zeros(2))


@pytest.mark.parametrize('device, expected', [('cuda', True), ('cpu', False)])
def test_batches_are_copied_to_a_gpu_without_waiting(device, expected):
    class Sample(DataSample):
        def to(self, *args, non_blocking=False, **kwargs):
            self.set_field(non_blocking, 'waited_not')
            return self

    model = torch.nn.Module()
    model.data_preprocessor = ClsDataPreprocessor()
    model.data_preprocessor._device = torch.device(device)
    copy_without_waiting(model)
    assert model.data_preprocessor.cast_data(Sample()).waited_not is expected
    copy_without_waiting(torch.nn.Linear(1, 1))  # a model without one


@pytest.mark.parametrize('unwaited_scalars', [True, False])
def test_no_operator_of_a_step_waits(digits_config, monkeypatch, as_on_a_gpu, unwaited_scalars):
    """All default hooks, and a fused optimizer, as is the default on CUDA. Without the patch MMEngine reads the loss.

    The outcome of the check for NaN is read one step later on a GPU, from pinned memory; here it is not read.
    """
    monkeypatch.setattr(
        divergence._Update, 'of', classmethod(lambda cls, step, losses, skipped: cls(step, losses, False))
    )
    cfg = digits_config(subset=96, train_cfg=dict(max_epochs=1), launcher='none')
    cfg.optim_wrapper.optimizer.fused = True
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = None
    cfg.train_dataloader.collate_fn = dict(type='default_collate')  # as tools/train.py sets it
    if not unwaited_scalars:
        monkeypatch.setattr('ftsgd_plugin.runner.build.wait_for_no_scalar', lambda hub: None)
    runner, counts = build_runner(cfg), []
    loop = runner.train_loop
    run_iter = loop.run_iter

    def counted(*args) -> None:
        with Waits() as waits:
            run_iter(*args)
        counts.append(waits.count)

    loop.run_iter = counted
    runner.train()
    assert len(counts) == 3
    assert counts[:-1] == ([0, 0] if unwaited_scalars else [1, 1])  # the last step of an epoch writes the log
