"""A checkpoint is resumed under its own settings, or under the config's if asked for; never silently under others."""

import copy
import functools

import pytest
import torch
from helpers.small_models import mmpretrain_vit, trained
from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS

from ftsgd_plugin.checkpoint.adoption import adopt_settings
from ftsgd_plugin.checkpoint.differences import differences
from ftsgd_plugin.checkpoint.settings import SETTINGS, describe_settings, foreign_state

EPOCH_LENGTH = 5
SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)
COSINE = dict(type='CosineAnnealingLR', by_epoch=True)
GRADUAL = dict(type='GradualUnfreezingLR', by_epoch=True)


@functools.cache
def initialised() -> torch.nn.Module:
    return mmpretrain_vit()


class Training:
    """Model, optimizer wrapper and schedulers, stepped as MMEngine's loop and ``ParamSchedulerHook`` do."""

    def __init__(self, optimizer=SGD, schedulers=(COSINE,), freeze='embed', epochs=4, **paramwise):
        self.model, self.epochs = copy.deepcopy(initialised()), epochs
        constructor = OPTIM_WRAPPER_CONSTRUCTORS.get('FreezeEmbedOptimWrapperConstructor')
        cfg = dict(type='OptimWrapper', optimizer=dict(optimizer))
        self.wrapper = constructor(cfg, dict(freeze=freeze, **paramwise))(self.model)
        self.schedulers = []
        for scheduler in schedulers:
            by_epoch = scheduler.get('by_epoch', True) or scheduler.get('convert_to_iter_based')
            own = {'end': epochs if by_epoch else epochs * EPOCH_LENGTH, **scheduler}
            defaults = dict(optimizer=self.wrapper, epoch_length=EPOCH_LENGTH)
            self.schedulers.append(PARAM_SCHEDULERS.build(own, default_args=defaults))
        self.iteration, self.rates = 0, []

    def train(self, iterations: int) -> 'Training':
        for _ in range(iterations):
            self.rates.append([group['lr'] for group in self.wrapper.optimizer.param_groups])
            for param in self.model.parameters():
                param.grad = torch.ones_like(param) if param.requires_grad else None
            self.wrapper.step()
            self.iteration += 1
            for by_epoch in (False, True):
                for scheduler in self.schedulers:
                    if scheduler.by_epoch == by_epoch and (not by_epoch or self.iteration % EPOCH_LENGTH == 0):
                        scheduler.step()
        return self

    def checkpoint(self, described: bool = True) -> dict:
        """What MMEngine saves; without names as version 0.1.0 did."""
        meta = dict(epoch=self.iteration // EPOCH_LENGTH, iter=self.iteration)
        if described:
            meta[SETTINGS] = describe_settings(self.model, self.wrapper, self.schedulers)
        info = dict(max_epochs=self.epochs, max_iters=self.epochs * EPOCH_LENGTH)
        return dict(
            meta=meta,
            message_hub=dict(runtime_info=info),
            optimizer=copy.deepcopy(self.wrapper.state_dict()),
            param_schedulers=copy.deepcopy([scheduler.state_dict() for scheduler in self.schedulers]),
        )

    def compare(self, checkpoint: dict) -> str:
        """What this run says to a checkpoint; empty if it may resume."""
        reason = foreign_state(checkpoint, self.model, self.wrapper, self.schedulers)
        return reason or '; '.join(map(str, self.differences(checkpoint)))

    def differences(self, checkpoint: dict) -> list:
        lengths = dict(max_epochs=self.epochs, max_iters=self.epochs * EPOCH_LENGTH)
        return differences(checkpoint, self.wrapper, self.schedulers, lengths)

    def load(self, checkpoint: dict) -> 'Training':
        """As ``Runner.resume`` does."""
        self.wrapper.load_state_dict(copy.deepcopy(checkpoint['optimizer']))
        for scheduler, state in zip(self.schedulers, copy.deepcopy(checkpoint['param_schedulers'])):
            scheduler.load_state_dict(state)
        self.iteration = checkpoint['meta']['iter']
        return self


CONFIGS = {
    'constant': dict(schedulers=()),
    'cosine': dict(),
    'cosine by iterations': dict(
        schedulers=[dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)]
    ),
    'gradual': dict(schedulers=[GRADUAL]),
    'warm-up and cosine': dict(
        schedulers=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=7),
            dict(type='CosineAnnealingLR', by_epoch=True, begin=1),
            dict(type='CosineAnnealingMomentum', by_epoch=True, eta_min=0.5),
        ]
    ),
    'steps': dict(schedulers=[dict(type='MultiStepLR', milestones=[1, 3], gamma=0.3)]),
    'per layer': dict(norm_decay_mult=0.0, custom_keys={'head': dict(lr_mult=10.0)}),
    'layer-wise': dict(layer_decay_rate=0.7, schedulers=[GRADUAL]),
    'adamw': dict(optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.99))),
}


@pytest.mark.parametrize('described', [True, False], ids=['names', 'as 0.1.0'])
@pytest.mark.parametrize('name', CONFIGS)
def test_the_same_settings_may_resume_at_any_step(name, described):
    for iterations in (EPOCH_LENGTH, 3 * EPOCH_LENGTH + 1):
        checkpoint = Training(**CONFIGS[name]).train(iterations).checkpoint(described)
        assert Training(**CONFIGS[name]).compare(checkpoint) == ''


# changed arguments -> what is said with names, and without (None: the same)
CHANGES = {
    'lr': (dict(optimizer={**SGD, 'lr': 0.2}), 'optim_wrapper.optimizer.lr is 0.1 in the checkpoint and 0.2 in', None),
    'momentum': (dict(optimizer={**SGD, 'momentum': 0.0}), 'optim_wrapper.optimizer.momentum is 0.9 in the', None),
    'decay': (dict(optimizer={**SGD, 'weight_decay': 0.0}), 'optimizer.weight_decay is 0.01 in the checkpoint', None),
    'nesterov': (dict(optimizer={**SGD, 'nesterov': True}), 'optimizer.nesterov is False in the checkpoint', None),
    'maximize': (dict(optimizer={**SGD, 'maximize': True}), 'optimizer.maximize is False in the checkpoint', None),
    'lr of one layer': (dict(custom_keys={'head': dict(lr_mult=2.0)}), 'optimizer.lr of head is 0.1 in the', None),
    'layer-wise decay': (
        dict(layer_decay_rate=0.5),
        'lr of pos_embed (and of 2 more groups) is 0.1 in the checkpoint and 0.0125',
        None,
    ),
    'other optimizer': (
        dict(optimizer=dict(type='AdamW', lr=0.1)),
        'another optimizer than AdamW (SGD)',
        'another optimizer than AdamW (it has no ',
    ),
    'fewer options': (
        dict(optimizer=dict(type='Rprop', lr=0.1)),
        'another optimizer than Rprop (SGD)',
        'another optimizer than Rprop (it has no etas, step_sizes',
    ),
    'other frozen layers, equal counts': (
        dict(freeze=['patch_embed', 'blocks.1.*']),
        'trained blocks.1 which this config does not, and did not train blocks.0 which this config does',
        "has blocks.1 in the optimizer's group",
    ),
    'other frozen layers of a block': (
        dict(freeze=['patch_embed', 'blocks.0.attn', 'blocks.0.norm1', 'blocks.1.*']),
        'trained blocks.1 which',
        'tensors in',
    ),
    'more layers': (dict(freeze='embed'), 'did not train blocks.0 which this config does', 'tensors in'),
    'norms apart': (
        dict(freeze=['patch_embed', 'blocks.0.*'], norm_decay_mult=0.0),
        'groups (another freeze or other paramwise options)',
        'groups (another freeze or other paramwise options)',
    ),
    'longer': (dict(epochs=8), 'train_cfg.max_epochs is 4 in the checkpoint and 8 in this config', None),
    'shorter': (dict(epochs=3), 'train_cfg.max_epochs is 4 in the checkpoint and 3 in this config', None),
    'eta_min': (
        dict(schedulers=[dict(COSINE, eta_min=1e-3)]),
        'param_scheduler[0] (CosineAnnealingLR).eta_min is 0 in the checkpoint and 0.001 in',
        None,
    ),
    'no schedule': (dict(schedulers=()), 'state of 1 parameter schedulers, this config has 0', None),
    'two': (dict(schedulers=[COSINE, dict(type='ConstantLR')]), 'schedulers, this config has 2', None),
    'other kind': (
        dict(schedulers=[GRADUAL]),
        'followed the schedule CosineAnnealingLR, this config has GradualUnfreezingLR',
        'a schedule of another kind than GradualUnfreezingLR (with T_max, eta_min',
    ),
    'other unit': (
        dict(schedulers=[dict(type='CosineAnnealingLR', by_epoch=False)]),
        'param_scheduler[0] (CosineAnnealingLR).by_epoch is True in the checkpoint and False',
        None,
    ),
}


@pytest.mark.parametrize('described', [True, False], ids=['names', 'as 0.1.0'])
@pytest.mark.parametrize('name', CHANGES)
def test_every_change_is_named_with_both_values(name, described):
    change, *said = CHANGES[name]
    frozen = ['patch_embed', 'blocks.0.*'] if 'layers' in name or name == 'norms apart' else 'embed'
    frozen = 'embed' if name == 'lr of one layer' else frozen
    checkpoint = Training(freeze=frozen).train(EPOCH_LENGTH).checkpoint(described)
    assert (said[0] if described or said[1] is None else said[1]) in Training(**{'freeze': frozen, **change}).compare(
        checkpoint
    )


def test_without_names_the_shapes_of_the_optimizers_state_are_compared():
    """Version 0.1.0 names a group by its block only: attention and MLP look alike there."""
    freeze = [['patch_embed', 'blocks.0.norm*', f'blocks.0.{part}'] for part in ('attn', 'mlp')]
    checkpoint = Training(freeze=freeze[0]).train(1).checkpoint(described=False)
    said = Training(freeze=freeze[1]).compare(checkpoint)
    assert 'optimizer state of shape (32, 16) where this config has a parameter of shape' in said and 'blocks.0' in said


def test_without_a_schedule_the_length_may_change():
    """Nothing that was trained depends on it."""
    checkpoint = Training(schedulers=()).train(EPOCH_LENGTH).checkpoint()
    assert Training(schedulers=(), epochs=8).compare(checkpoint) == ''
    fixed = dict(schedulers=[dict(COSINE, end=2)])
    assert Training(**fixed, epochs=8).compare(Training(**fixed).train(EPOCH_LENGTH).checkpoint()) == ''


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('iterations', [3, 2 * EPOCH_LENGTH])
def test_adopted_settings_are_those_of_a_run_by_this_config_at_that_step(name, iterations):
    """Learning rates and what trains, compared with a run by the new config from the start; momentum is kept."""
    base = CONFIGS[name].get('optimizer', SGD)
    change = dict(CONFIGS[name], epochs=7, optimizer={**base, 'lr': base['lr'] / 2, 'weight_decay': 0.3})
    checkpoint = Training(**CONFIGS[name]).train(iterations).checkpoint()
    resumed, straight = Training(**change), Training(**change).train(iterations)
    assert resumed.differences(checkpoint)
    adopt_settings(checkpoint, resumed.wrapper, resumed.schedulers, EPOCH_LENGTH)
    assert Training(**change).compare(checkpoint) == ''
    resumed.load(checkpoint)
    assert trained(resumed.model) == trained(straight.model)
    left = 7 * EPOCH_LENGTH - iterations
    assert resumed.train(left).rates == straight.train(left).rates[iterations:]
    for group in resumed.wrapper.optimizer.param_groups:
        assert group['weight_decay'] in (0.0, 0.3)
    assert [s.state_dict() for s in resumed.schedulers] == [s.state_dict() for s in straight.schedulers]


def test_momentum_is_kept_except_that_of_what_closes_again():
    """A longer gradual schedule is behind the shorter one: its closed blocks start again when they open."""
    checkpoint = Training(schedulers=[GRADUAL]).train(3 * EPOCH_LENGTH).checkpoint()
    before = set(checkpoint['optimizer']['state'])
    longer = Training(schedulers=[GRADUAL], epochs=12)
    adopt_settings(checkpoint, longer.wrapper, longer.schedulers, EPOCH_LENGTH)
    longer.load(checkpoint)
    held = set(longer.wrapper.optimizer.state)
    assert held == {param for param in longer.model.parameters() if param.requires_grad}
    assert len(held) < len(before)
