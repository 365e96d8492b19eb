"""A training loop with LayerGradNormHook, and the norms it must record, for the test files of the hook."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn
from torch.nn.functional import cross_entropy

from ftsgd_plugin.freezing import freeze_layers, select_layers
from ftsgd_plugin.hooks import LayerGradNormHook
from ftsgd_plugin.layers import list_layers
from helpers import chain
from helpers.small_models import amp_wrapper

SGD = dict(type='SGD', lr=0.1, momentum=0.9)


class Training:
    """The part of a runner that the hook uses, around a plain loop."""

    def __init__(self, model, directory, interval=1, optimizer=SGD, optim_wrapper=None, **wrapper):
        cfg = dict(
            optimizer=dict(optimizer),
            constructor='mmpretrain.FreezeEmbedOptimWrapperConstructor',
            paramwise_cfg=dict(freeze='none'),
            **wrapper,
        )
        self.model, self.optim_wrapper = model, optim_wrapper or build_optim_wrapper(model, cfg)
        self.hook, self.directory, self.iter = LayerGradNormHook(interval), directory, 0
        self.scalars, self.log_dir = [], str(directory)
        self.visualizer = SimpleNamespace(add_scalars=lambda scalars, step: self.scalars.append((step, scalars)))
        self.message_hub = MessageHub.get_instance(f'{directory}')
        self.hook.before_train(self)

    def step(self, inputs, labels, poison=False):
        """One iteration; ``poison`` makes its loss infinite."""
        self.hook.before_train_iter(self, self.iter)
        # The base class's context: autocast on a CPU supports bfloat16 only, and the test is about the scaler.
        with OptimWrapper.optim_context(self.optim_wrapper, self.model):
            loss = cross_entropy(self.model(inputs), labels)
        self.optim_wrapper.update_params(loss * float('inf') if poison else loss)
        self.hook.after_train_iter(self, self.iter)
        self.iter += 1

    def rows(self) -> list[dict]:
        """All lines of the CSV file."""
        with open(self.directory / 'layer_grad_norms.csv', newline='') as file:
            return list(csv.DictReader(file))

    def norms(self) -> dict[str, float]:
        """Layer -> norm of the last record."""
        rows = self.rows()
        return {row['layer']: float(row['norm']) for row in rows if row['iter'] == rows[-1]['iter']}


def amp_training(model, directory, optimizer=SGD, **options) -> Training:
    """A loop with a loss scaler, on the CPU."""
    with amp_wrapper():
        return Training(model, directory, optimizer=optimizer, type='AmpOptimWrapper', dtype='float32', **options)


class InBackward:
    """A user's wrapper that updates during the backward pass, with the method that the hook expects of it."""

    def __init__(self, model, lr=0.1):
        self.model, self.lr, self.callbacks = model, lr, []
        for param in model.parameters():
            param.register_post_accumulate_grad_hook(self._update)

    def observe_gradients(self, callback):
        self.callbacks.append(callback)
        return SimpleNamespace(remove=lambda: self.callbacks.remove(callback))

    def _update(self, param):
        for callback in self.callbacks:
            callback(param, param.grad)
        with torch.no_grad():
            param.add_(param.grad, alpha=-self.lr)
        param.grad = None

    def update_params(self, loss):
        loss.backward()

    def should_sync(self):
        return True


def random_tokens(model):
    """In training mode, with a random class token: MMPretrain's starts at zero, which has no norm to divide by."""
    nn.init.normal_(model.backbone.cls_token, std=0.02)
    return model.train()


def batches(count: int, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images (size, 3, 16, 16) and labels (size,)."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 3, 16, 16, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def reference(model, inputs, labels) -> dict[str, tuple[float, float, float]]:
    """Layer -> (norm, norm / sqrt(n), norm / weight norm), parameter by parameter with float64 sums."""
    model.zero_grad()
    cross_entropy(model(inputs), labels).backward()
    expected = {}
    for layer in list_layers(model):
        squares = [float((p.grad.double() ** 2).sum()) for p in layer.params.values() if p.grad is not None]
        if squares:
            norm = math.sqrt(sum(squares))
            weight = math.sqrt(sum(float((p.detach().double() ** 2).sum()) for p in layer.params.values()))
            count = sum(p.numel() for p in layer.params.values())
            expected[layer.name] = (norm, norm / math.sqrt(count), norm / weight)
    model.zero_grad()
    return expected


def measured(rows) -> dict[str, tuple[float, ...]]:
    """Layer -> the three quantities of its line; NaN where empty."""
    keys = ('norm', 'norm_per_sqrt_n', 'norm_per_weight_norm')
    return {row['layer']: tuple(float(row[key]) if row[key] else math.nan for key in keys) for row in rows}


def assert_close(found: dict, expected: dict, tolerance: float) -> None:
    """The same layers in the same order, and equal values."""
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=tolerance), name


def train_chain(model, directory, rank: int, world: int, accumulate: int) -> Training:
    """Eight updates of the chain: the stem is frozen in the first four. ``world`` ranks share each batch."""
    training = Training(model, directory, interval=4, accumulative_counts=accumulate)
    training.optim_wrapper.initialize_count_status(model, 0, 8)
    layers = list_layers(model)
    for step in range(8):
        if step % 4 == 0:
            freeze_layers(model, select_layers(layers, 'embed' if step == 0 else 'none'))
        training.step(*(part[rank::world] for part in chain.batch(step)))
    return training


def train_chain_on_two_ranks(rank: int, directory: Path) -> None:
    """Without and with accumulation, in ``two1`` and ``two2``."""
    for accumulate in (1, 2):
        out = directory / f'two{accumulate}'
        out.mkdir(exist_ok=True)
        model = MMDistributedDataParallel(chain.Chain(), device_ids=None, broadcast_buffers=False)
        train_chain(model, out, rank, 2, accumulate)
