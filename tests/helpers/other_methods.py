"""Training a tiny ViT by the method parts beside the paper's: alone, resumed, accumulating, on two ranks."""

import io
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import PARAM_SCHEDULERS

from ftsgd_plugin.methods import FLASH, OTHER_METHODS
from ftsgd_plugin.models.lora import with_adapters
from ftsgd_plugin.optim import gradient_lr_mult
from ftsgd_plugin.optim.library_optimizers import missing_library, use_mode
from ftsgd_plugin.optim.measured_rates import is_unmeasured, scale_rates
from helpers import ROOT
from helpers.measured_rates import measure_on_two_ranks
from helpers.small_models import SMALL, batch, classifier, loss_of, randomise, small_classifier

EPOCHS, PER_EPOCH, GLOBAL_BATCH = 2, 2, 4
ITERATIONS = EPOCHS * PER_EPOCH


def part(method: str, freeze: str | None = None) -> Config:
    """The method's config part, its learning rate the middle of its grid; ``freeze`` replaces its own."""
    cfg = Config.fromfile(ROOT / f'configs/_base_/methods/{method}.py')
    cfg.optim_wrapper.optimizer.lr = OTHER_METHODS[method].grid[len(OTHER_METHODS[method].grid) // 2]
    if freeze is not None:
        cfg.optim_wrapper.paramwise_cfg['freeze'] = freeze
    if method in FLASH:  # as the library runs on a CPU: its update by PyTorch's operators, nothing in 8 bits
        cfg.optim_wrapper.optimizer.update(quantize=False, master_weight_bits=None, fused=False)
    return cfg


def can_train(method: str) -> bool:
    """Whether the library of a method is on this machine."""
    return (
        missing_library(Config.fromfile(ROOT / f'configs/_base_/methods/{method}.py').optim_wrapper.optimizer.type)
        is None
    )


def require(method: str) -> None:
    """Skip a test whose library is missing; only that of flashoptim may be."""
    if method in FLASH and not can_train(method):
        pytest.skip("needs flashoptim (extra 'optimizers')")


def model_for(cfg: Config) -> torch.nn.Module:
    """A tiny ViT in float64, in which rounding does not decide Adam's steps, with adapters if the method has them."""
    init_default_scope('mmpretrain')
    settings = with_adapters(dict(backbone=SMALL['vit-b16'][0]), cfg.optim_wrapper)
    if cfg.optim_wrapper.optimizer.type.startswith('flashoptim.'):  # knows no float64
        return small_classifier('vit-b16')
    if settings['backbone'].get('type') != 'LoRABackbone':
        return small_classifier('vit-b16').double()
    torch.manual_seed(0)
    model = classifier(settings['backbone'], 32)
    randomise(model, 0)
    return model.double()


def has_gradient(model: torch.nn.Module) -> torch.Tensor:
    """Which weights, as :meth:`Training.run` orders them, have a gradient at all.

    A bias of the keys changes no attention: its gradient is rounding noise, which Adafactor divides by its own size.
    """
    parts = []
    for name, param in model.named_parameters():
        part = torch.ones(param.shape, dtype=torch.bool)
        if name.endswith(('qkv.bias', 'qkv.original_layer.bias')):
            part[len(part) // 3 : 2 * len(part) // 3] = False
        parts.append(part.flatten())
    return torch.cat(parts)


class Training:
    """A training that can be stopped and continued.

    Args:
        method: Name of the method part.
        accumulate: Iterations per update.
        freeze: Replaces the method's own.
        rank, world: Place among the processes.
    """

    def __init__(
        self, method: str, accumulate: int = 1, freeze: str | None = None, rank: int = 0, world: int = 1
    ) -> None:
        cfg = part(method, freeze)
        self.rank, self.world = rank, world
        self.inner = self.model = model_for(cfg)
        if world > 1:
            self.model = MMDistributedDataParallel(self.inner, device_ids=None)
        if accumulate > 1:
            cfg.optim_wrapper.accumulative_counts = accumulate
        self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.scheduler = None
        if cfg.param_scheduler is not None:
            settings = dict(cfg.param_scheduler, end=EPOCHS)
            self.scheduler = PARAM_SCHEDULERS.build(settings, default_args=dict(optimizer=self.optim_wrapper))
        if is_unmeasured(self.optim_wrapper):
            images, labels = batch('vit-b16', 0, GLOBAL_BATCH)
            loss_of(self.inner, images.double(), labels).backward()
            schedulers = [] if self.scheduler is None else [self.scheduler]
            scale_rates(self.optim_wrapper, schedulers, gradient_lr_mult(self.inner))
            self.inner.zero_grad()
        self.optim_wrapper.initialize_count_status(self.model, 0, ITERATIONS)
        self.iteration = 0
        self.model.train()

    def run(self, iterations: int) -> torch.Tensor:
        """Train; return all weights after every iteration (iterations, parameters)."""
        weights = []
        for _ in range(iterations):
            use_mode(self.optim_wrapper, training=True)
            images, labels = (
                piece[self.rank :: self.world] for piece in batch('vit-b16', self.iteration, GLOBAL_BATCH)
            )
            with self.optim_wrapper.optim_context(self.model):
                loss = loss_of(self.model, images.to(next(self.inner.parameters()).dtype), labels)
            self.optim_wrapper.update_params(loss)
            weights.append(torch.cat([param.detach().flatten() for param in self.inner.parameters()]))
            self.iteration += 1
            if self.iteration % PER_EPOCH == 0 and self.scheduler is not None:
                self.scheduler.step()
        return torch.stack(weights)

    def state(self) -> bytes:
        """What a checkpoint holds; training may continue."""
        use_mode(self.optim_wrapper, training=False)
        buffer = io.BytesIO()
        content = dict(model=self.inner.state_dict(), optimizer=self.optim_wrapper.state_dict(), iter=self.iteration)
        if self.scheduler is not None:
            content['scheduler'] = self.scheduler.state_dict()
        torch.save(content, buffer)
        return buffer.getvalue()

    def load(self, state: bytes) -> None:
        """Continue from a state, read as safely as checkpoints are."""
        content = torch.load(io.BytesIO(state), weights_only=True)
        self.inner.load_state_dict(content['model'])
        self.optim_wrapper.load_state_dict(content['optimizer'])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(content['scheduler'])
        self.iteration = content['iter']
        self.optim_wrapper.initialize_count_status(self.model, self.iteration, ITERATIONS)


def train_on_two_ranks(rank: int, directory: Path) -> None:
    """Every method, accumulating over two iterations; saves the weights after every iteration, and measured rates."""
    methods = [method for method in OTHER_METHODS if method not in FLASH or can_train(method)]
    found = {method: Training(method, 2, rank=rank, world=2).run(ITERATIONS) for method in methods}
    torch.save({**found, 'measured': measure_on_two_ranks(rank)}, directory / f'{rank}.pt')
