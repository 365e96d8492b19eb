"""A plain loop and MMEngine's Runner end bit-identical after 20 steps: weights and optimizer state."""

import io

import pytest
import timm
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import StepLR

from ftsgd_plugin import GradualUnfreezing, param_groups

pytestmark = pytest.mark.filterwarnings('ignore:the frozen embedding')
STEPS, CONSTRUCTOR = 20, 'mmpretrain.FreezeEmbedOptimWrapperConstructor'
# method -> optimizer's type, its settings, and whether it unfreezes
METHODS = {
    'freeze-embed': ('SGD', dict(lr=0.01, momentum=0.9), False),
    'freeze-embed-no-momentum': ('SGD', dict(lr=0.01), False),
    'adamw': ('AdamW', dict(lr=1e-3, weight_decay=0.05), False),
    'gradual-unfreezing': ('SGD', dict(lr=1e-3, momentum=0.9), True),
}


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(
        'vit_tiny_patch16_224', img_size=16, patch_size=8, embed_dim=24, depth=4, num_heads=2, num_classes=3
    )


@pytest.fixture(scope='module')
def samples() -> list[tuple[torch.Tensor, int]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(3, 16, 16, generator=generator), step % 3) for step in range(4 * STEPS)]


class ForRunner(BaseModel):
    """The network with the interface of MMEngine's models."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(0)

    def init_weights(self) -> None:
        """Not timm's, which the Runner would call."""

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, mode: str = 'tensor'):
        logits = self.net(inputs)
        return dict(loss=cross_entropy(logits, labels)) if mode == 'loss' else logits


def by_runner(method: str, samples, directory) -> tuple[nn.Module, torch.optim.Optimizer]:
    kind, settings, gradual = METHODS[method]
    decay = dict(norm_decay_mult=0.0) if 'weight_decay' in settings else {}
    freeze = 'none' if method == 'adamw' else 'embed'
    schedule = [dict(type='StepLR', step_size=8, gamma=0.5, by_epoch=False)]
    if gradual:
        unfreezing = dict(type='mmpretrain.GradualUnfreezingLR', by_epoch=False, warmup=1, cooldown=2, end=STEPS)
        schedule.append(unfreezing)
    runner = Runner(
        ForRunner(),
        str(directory),
        train_dataloader=dict(
            dataset=samples,
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=STEPS),
        optim_wrapper=dict(
            optimizer=dict(type=kind, **settings),
            constructor=CONSTRUCTOR,
            paramwise_cfg=dict(freeze=freeze, **decay),
        ),
        param_scheduler=schedule,
        default_scope='mmpretrain',
        experiment_name=directory.name,
    )
    runner.train()
    return runner.model.net, runner.optim_wrapper.optimizer


def by_hand(method: str, samples, resume_at: int | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The loop; at ``resume_at`` a checkpoint continues in new objects."""
    kind, settings, gradual = METHODS[method]
    rest = dict(settings)
    options = {key: rest.pop(key) for key in ('lr', 'weight_decay') if key in rest}
    if 'weight_decay' in options:
        options['norm_decay_mult'] = 0.0

    def build(seed: int) -> list:
        model = network(seed).train()
        groups = param_groups(model, 'none' if method == 'adamw' else 'embed', **options)
        optimizer = getattr(torch.optim, kind)(groups, **rest)
        schedule = [StepLR(optimizer, 8, 0.5)]
        if gradual:
            schedule.append(GradualUnfreezing(optimizer, model, STEPS, warmup=1, cooldown=2))
        return [model, optimizer, *schedule]

    parts = build(0)
    for step in range(STEPS):
        if step == resume_at:
            file = io.BytesIO()
            torch.save([part.state_dict() for part in parts], file)
            file.seek(0)
            parts = build(1)
            for part, state in zip(parts, torch.load(file, weights_only=True)):
                part.load_state_dict(state)
        model, optimizer, *schedule = parts
        images, labels = torch.utils.data.default_collate(samples[4 * step : 4 * step + 4])
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        for scheduler in schedule:
            scheduler.step()
    return model, optimizer


def assert_same_bits(ours: tuple[nn.Module, torch.optim.Optimizer], theirs: tuple[nn.Module, torch.optim.Optimizer]):
    for (name, mine), (other, weight) in zip(ours[0].state_dict().items(), theirs[0].state_dict().items(), strict=True):
        assert name == other and torch.equal(mine, weight), name
    mine, other = (optimizer.state_dict() for _, optimizer in (ours, theirs))
    assert mine['param_groups'] == other['param_groups'] and mine['state'].keys() == other['state'].keys()
    for index, state in mine['state'].items():
        assert state.keys() == other['state'][index].keys()
        for key, value in state.items():
            same = other['state'][index][key]
            assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same, (index, key)


@pytest.mark.parametrize('method', METHODS)
def test_weights_and_optimizer_state_are_bit_equal_to_the_runners(method, samples, tmp_path):
    start = network(0).state_dict()
    theirs = by_runner(method, samples, tmp_path)
    frozen = [name for name, weight in theirs[0].state_dict().items() if torch.equal(weight, start[name])]
    assert frozen == ([] if method == 'adamw' else ['patch_embed.proj.weight', 'patch_embed.proj.bias'])
    assert_same_bits(by_hand(method, samples), theirs)
    assert_same_bits(by_hand(method, samples, resume_at=11), theirs)
