"""Every method in two gloo processes against one process with the same global batch, through three phase boundaries."""

import pytest
import torch
import torch.multiprocessing as mp
from helpers import ROOT
from helpers.small_models import batch, expected_names, loss_of, small_classifier, trained
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import PARAM_SCHEDULERS

from ftsgd_plugin.layers import list_layers
from ftsgd_plugin.optim.data_parallel import InBackwardDataParallel

EPOCHS, PER_EPOCH, GLOBAL_BATCH = 4, 3, 8
LR = {'adamw': 1e-3, 'adamw-freeze-embed': 1e-3, 'gradual-unfreezing': 3e-4}
METHODS = ['sgd', 'adamw', 'freeze-embed', 'adamw-freeze-embed', 'freeze-embed-no-momentum', 'gradual-unfreezing']
IN_BACKWARD = ['sgd-in-backward', 'sgd-in-backward gradually']
RUNS = [(method, accumulate) for method in METHODS for accumulate in (1, 2)] + [(name, 1) for name in IN_BACKWARD]


def dtype_of(method: str) -> torch.dtype:
    """Adam divides by the gradient's size: rounding noise of a gradient that is zero in theory becomes a full step."""
    return torch.float64 if method.startswith('adamw') else torch.float32


def train(method: str, accumulate: int, rank: int = 0, world: int = 1) -> dict:
    """Train by the method's own config part; the weights after every step, and what the ranks must agree on."""
    init_default_scope('mmpretrain')
    part = Config.fromfile(ROOT / f'configs/_base_/methods/{method.split()[0]}.py')
    inner = small_classifier('vit-b16').to(dtype_of(method))
    model = inner
    if world > 1:
        in_backward = part.optim_wrapper.type == 'SGDInBackwardOptimWrapper'
        model = InBackwardDataParallel(inner) if in_backward else MMDistributedDataParallel(inner, device_ids=None)
    cfg = part.optim_wrapper
    cfg.optimizer.lr = LR.get(method, 1e-2)
    if accumulate > 1:
        cfg.accumulative_counts = accumulate
    optim_wrapper = build_optim_wrapper(model, cfg)
    scheduler_cfg = dict(part.param_scheduler, end=EPOCHS)
    if method.endswith('gradually'):
        scheduler_cfg = dict(type='GradualUnfreezingLR', end=EPOCHS)
    scheduler = PARAM_SCHEDULERS.build(scheduler_cfg, default_args=dict(optimizer=optim_wrapper))
    optim_wrapper.initialize_count_status(model, 0, EPOCHS * PER_EPOCH)
    alive = [0]
    if hasattr(optim_wrapper, 'observe_gradients'):
        optim_wrapper.observe_gradients(lambda *_: alive.append(_gradient_bytes(inner)))
    weights, phases = [], []
    model.train()
    for iteration in range(EPOCHS * PER_EPOCH):
        images, labels = (part[rank::world] for part in batch('vit-b16', iteration, GLOBAL_BATCH))
        phases.append(sorted(trained(inner)))
        with optim_wrapper.optim_context(model):
            loss = loss_of(model, images.to(dtype_of(method)), labels)
        optim_wrapper.update_params(loss)
        weights.append(torch.cat([param.detach().flatten() for param in inner.parameters()]))
        if iteration % PER_EPOCH == PER_EPOCH - 1:
            scheduler.step()
    largest = max(layer.num_bytes for layer in list_layers(inner))
    return {'weights': torch.stack(weights), 'phases': phases, 'alive': max(alive), 'largest': largest}


def _gradient_bytes(model) -> int:
    return sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.save({run: train(*run, rank, 2) for run in RUNS}, f'{folder}/{rank}.pt')
    torch.distributed.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('methods')
    mp.spawn(_worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f'{rank}.pt', weights_only=True) for rank in range(2)]


@pytest.mark.parametrize('run', RUNS, ids=lambda run: f'{run[0]}-{run[1]}')
def test_two_processes_equal_one_and_each_other_after_every_step(ranks, run):
    first, second = (rank[run] for rank in ranks)
    alone = train(*run)
    assert first['phases'] == second['phases'] == alone['phases']
    tolerance = dict(rtol=1e-9, atol=1e-10) if dtype_of(run[0]) == torch.float64 else dict(rtol=2e-5, atol=2e-6)
    for step, (one, other, expected) in enumerate(zip(first['weights'], second['weights'], alone['weights'])):
        assert torch.equal(one, other), f'ranks differ after step {step}'
        torch.testing.assert_close(one, expected, **tolerance, msg=lambda text, step=step: f'step {step}: {text}')
    moved = (alone['weights'][-1] - alone['weights'][0]).abs().max()
    assert moved > 100 * tolerance['atol']


@pytest.mark.parametrize('run', [run for run in RUNS if 'gradual' in run[0]], ids=lambda run: f'{run[0]}-{run[1]}')
def test_the_gradual_runs_cross_three_boundaries_at_updates_only(ranks, run):
    model = small_classifier('vit-b16')
    accumulate = run[1]
    for iteration, names in enumerate(ranks[0][run]['phases']):
        window_start = iteration - iteration % accumulate
        assert set(names) == expected_names(model, window_start // PER_EPOCH)
    assert len({tuple(names) for names in ranks[0][run]['phases']}) == 4


def test_in_backward_equals_ddp_with_sgd(ranks):
    for rank in ranks:
        ours, ddp = rank['sgd-in-backward', 1], rank['freeze-embed-no-momentum', 1]
        torch.testing.assert_close(ours['weights'], ddp['weights'], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('name', IN_BACKWARD)
def test_in_backward_keeps_one_layers_gradient_in_two_processes_too(ranks, name):
    for rank in ranks:
        assert 0 < rank[name, 1]['alive'] <= rank[name, 1]['largest']
