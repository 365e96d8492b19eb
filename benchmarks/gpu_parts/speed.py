"""Images per second and utilisation of training steps in bfloat16: this package, stock MMPretrain, a plain loop.

The batch of uint8 images is on the device already, as after a copy that is hidden behind the step before. Every loop
normalises it and takes steps of SGD with momentum on all layers, unless the row says freeze-embed. FLOPs are those that
:mod:`ftsgd_plugin.profiling.predict` counts for that step of our network; the three loops train the same network.
"""

import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import timm
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn.functional import cross_entropy

from ftsgd_plugin.profiling.device_peaks import utilisation
from ftsgd_plugin.profiling.fake_step import model_config
from ftsgd_plugin.profiling.phases import load_method
from ftsgd_plugin.profiling.predict import predict_methods
from ftsgd_plugin.profiling.train_step import step_seconds

from .networks import CLASSES, Network

WARM_UP = 5  # steps after the first
SGD = dict(type='SGD', lr=1e-4, momentum=0.9)


def eager_rows(network: Network, device: str, steps: int) -> dict[str, Callable[[], dict]]:
    """What needs no compiler: functions that measure a row, by its name.

    Args:
        network: The network.
        device: ``'cuda'``, or ``'cpu'`` for a dry run.
        steps: Timed steps.
    """
    settings = dict(network=network, device=device, steps=steps)
    return {
        'ours': partial(ours, **settings),
        'ours, channels_last': partial(ours, channels_last=True, **settings),
        'MMPretrain': partial(stock, **settings),
        'plain loop': partial(plain, **settings),
    }


def compiled_rows(network: Network, device: str, steps: int, compiled: dict) -> dict[str, Callable[[], dict]]:
    """The same for compiled networks; ``compiled`` are arguments of ``torch.compile``."""
    settings = dict(network=network, device=device, steps=steps, compiled=compiled)
    return {
        'ours, compile': partial(ours, **settings),
        'ours, compile, channels_last': partial(ours, channels_last=True, **settings),
        'plain loop, compile, channels_last': partial(plain, channels_last=True, **settings),
        'ours, compile, channels_last, freeze-embed': partial(
            ours, channels_last=True, method='freeze-embed', **settings
        ),
    }


def ours(
    network: Network,
    device: str,
    steps: int,
    compiled: dict | None = None,
    channels_last: bool = False,
    method: str = 'sgd',
) -> dict:
    """A step of this package's classifier under MMEngine's ``train_step``."""
    model = model_config(network.config())
    model['backbone'].update(channels_last=channels_last, compile=False if compiled is None else compiled)
    wrapper = {**load_method(method).optim_wrapper, **_bfloat16(device, loss_scale=dict(enabled=False))}
    return _mmengine_row(model, wrapper, network, device, steps, method)


def stock(network: Network, device: str, steps: int) -> dict:
    """A step of MMPretrain's own classifier, with the wrapper that its ``--amp`` sets."""
    return _mmengine_row(network.stock_model(), dict(optimizer=SGD, **_bfloat16(device)), network, device, steps)


def _bfloat16(device: str, **options) -> dict:
    """The optimizer wrapper of mixed precision; MMEngine refuses it on a CPU."""
    return dict(type='AmpOptimWrapper', dtype='bfloat16', **options) if device == 'cuda' else dict(type='OptimWrapper')


def _mmengine_row(
    settings: dict, wrapper: dict, network: Network, device: str, steps: int, method: str = 'sgd'
) -> dict:
    init_default_scope('mmpretrain')
    with torch.device(device):  # a GPU draws the weights in no time
        model = MODELS.build(settings).train()
    optim_wrapper = build_optim_wrapper(model, wrapper)
    images, labels = batch(network, device)
    samples = [DataSample().set_gt_label(label) for label in labels.split(1)]
    data = dict(inputs=images, data_samples=samples)
    return _row(lambda: model.train_step(data, optim_wrapper), network, device, steps, method)


def plain(network: Network, device: str, steps: int, compiled: dict | None = None, channels_last: bool = False) -> dict:
    """A step of timm's network in a loop of a few lines, as PyTorch's tutorials write it."""
    name, options = network.timm
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with torch.device(device):
        model = timm.create_model(name, num_classes=CLASSES, **options).to(memory_format=layout).train()
    run = model if compiled is None else torch.compile(model, **compiled)
    optimizer = torch.optim.SGD(model.parameters(), lr=SGD['lr'], momentum=SGD['momentum'], fused=True)
    images, labels = batch(network, device)
    shape = dict(dtype=torch.float32, device=device)
    mean, std = (torch.tensor(network.config().model.data_preprocessor[key], **shape) for key in ('mean', 'std'))
    mean, std = mean.view(-1, 1, 1), std.view(-1, 1, 1)

    def step() -> None:
        inputs = ((images.float() - mean) / std).contiguous(memory_format=layout)
        with torch.autocast(device, torch.bfloat16):
            loss = cross_entropy(run(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return _row(step, network, device, steps)


def batch(network: Network, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random uint8 images (B, 3, H, W) and labels (B,)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (network.batch, 3, network.pixels, network.pixels), generator=generator)
    return images.to(torch.uint8).to(device), torch.randint(CLASSES, (network.batch,), generator=generator).to(device)


def _row(step: Callable[[], object], network: Network, device: str, steps: int, method: str = 'sgd') -> dict:
    """Time a step: the first one, which compiles, and the median of the others."""
    torch.backends.cudnn.benchmark = True  # as configs/_base_/runtime.py sets it
    start = time.perf_counter()
    step()
    _wait(device)
    first = time.perf_counter() - start
    for _ in range(min(WARM_UP, steps)):
        step()
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    seconds = median(step_seconds(step, steps, device))
    name = torch.cuda.get_device_name() if device == 'cuda' else device
    flops = flops_per_image(network, method)
    return dict(
        batch=network.batch,
        steps=steps,
        first_step_seconds=first,
        step_seconds=seconds,
        images_per_second=network.batch / seconds,
        flops_per_image=flops,
        mfu=utilisation(flops * network.batch / seconds, name),
        allocated=torch.cuda.max_memory_allocated() if device == 'cuda' else None,
    )


def _wait(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


_flops: dict[tuple[str, str], float] = {}


def flops_per_image(network: Network, method: str) -> float:
    """FLOPs of a step per image, traced with the CPU's operators: the same on every machine."""
    key = network.part, method
    if key not in _flops:
        (predicted,) = predict_methods(network.config(), [method], batch_size=1, device='cpu')
        _flops[key] = predicted.mean_flops_per_image
    return _flops[key]


def free(device: str) -> None:
    """Forget a row's model: what was compiled for it, and the memory that the allocator keeps."""
    if compiler := sys.modules.get('torch._dynamo'):  # whose import takes a second
        compiler.reset()
    gc.collect()
    if device == 'cuda':
        torch.cuda.empty_cache()
