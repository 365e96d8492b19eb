"""A checkpoint is resumed under its own settings, or under the config's if asked for; never silently under others."""

import copy
import functools
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from helpers.small_models import mmpretrain_vit, trained
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS

from ftsgd_plugin.checkpoint.adoption import adopt_settings
from ftsgd_plugin.checkpoint.differences import differences
from ftsgd_plugin.checkpoint.settings import SETTINGS, describe_settings, foreign_state
from ftsgd_plugin.hooks import checkpoint_compatibility
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.runner.run import train
from ftsgd_plugin.utils.errors import UserError

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


@pytest.fixture(scope='module')
def one_epoch(digits_root, tmp_path_factory):
    """The checkpoint after the first of two epochs."""
    from helpers.digits import load_digits_config

    directory = tmp_path_factory.mktemp('one')
    cfg = load_digits_config(digits_root, 'freeze-embed', 64, launcher='none', work_dir=str(directory))
    cfg.train_cfg.max_epochs, cfg.default_hooks.checkpoint.max_keep_ckpts = 2, 2
    cfg.optim_wrapper.paramwise_cfg['freeze'] = ['patch_embed', 'blocks.0.*']
    build_runner(cfg).train()
    return directory / 'epoch_1.pth'


@pytest.mark.parametrize(
    'options, said',
    [
        (
            {'optim_wrapper.paramwise_cfg.freeze': ['patch_embed', 'blocks.1.*']},
            'it trained blocks.1 which this',
        ),
        ({'optim_wrapper.optimizer.momentum': 0.0}, 'optimizer.momentum is 0.9 in the checkpoint and 0 in this config'),
        ({'randomness.seed': 7}, 'randomness.seed is 0 in the checkpoint and 7 in this config; set it to 0'),
        ({'train_cfg.max_epochs': 3}, 'train_cfg.max_epochs is 2 in the checkpoint and 3 in this config'),
    ],
    ids=['freeze', 'momentum', 'seed', 'longer'],
)
def test_a_run_refuses_other_settings_in_one_line_with_the_ways_out(one_epoch, digits_config, options, said):
    options = {
        'launcher': 'none',
        'train_cfg.max_epochs': 2,
        'optim_wrapper.paramwise_cfg.freeze': ['patch_embed', 'blocks.0.*'],
        **options,
    }
    cfg = digits_config('freeze-embed', 64, load_from=str(one_epoch), resume=True, **options)
    with pytest.raises(UserError) as caught:
        build_runner(cfg).train()
    message = str(caught.value)
    assert message.startswith(f'{one_epoch}: cannot be resumed: ') and said in message and '\n' not in message
    assert f'start again from its weights with load_from={one_epoch} and without --resume' in message
    adoptable = 'freeze' not in said and 'trained' not in said and 'seed' not in said
    assert ('--resume-settings config' in message) == adoptable


def test_a_refused_run_leaves_the_config_beside_the_record_as_it_is(one_epoch, digits_config, tmp_path):
    """MMEngine writes the new one before anything is compared."""
    options = {'train_cfg.max_epochs': 2, 'optim_wrapper.paramwise_cfg.freeze': ['patch_embed', 'blocks.0.*']}
    config, kept = tmp_path / 'config.py', tmp_path / 'work/config.py'
    digits_config('freeze-embed', 64, **options).dump(config)
    kept.parent.mkdir()
    kept.write_text('a = 1\n')
    with pytest.raises(UserError, match=r'momentum is 0\.9 in the checkpoint and 0 in this config'):
        train(str(config), resume=str(one_epoch), cfg_options={'optim_wrapper.optimizer.momentum': 0.0})
    assert kept.read_text() == 'a = 1\n'


def test_a_longer_run_follows_its_own_schedule_if_asked(one_epoch, digits_config):
    """Case: max_epochs raised; from the next step on the rates are those of a run of the new length."""
    options = {'launcher': 'none', 'train_cfg.max_epochs': 3, 'optim_wrapper.optimizer.weight_decay': 0.05}
    options['optim_wrapper.paramwise_cfg.freeze'] = ['patch_embed', 'blocks.0.*']
    straight = build_runner(digits_config('freeze-embed', 64, **options))
    straight.train()
    resumed = build_runner(
        digits_config('freeze-embed', 64, load_from=str(one_epoch), resume=True, **options), 'config'
    )
    resumed.train()
    rates = [runner.message_hub.log_scalars['train/lr'].data[0].tolist() for runner in (straight, resumed)]
    assert rates[1][2:] == rates[0][2:] and rates[1][:2] == rates[0][:2] and len(rates[0]) == 6
    assert {group['weight_decay'] for group in resumed.optim_wrapper.optimizer.param_groups} == {0.05}
    assert isinstance(resumed, Runner) and resumed.epoch == 3


def test_a_run_shorter_than_its_checkpoint_is_refused_whatever_is_asked(one_epoch, digits_config):
    """It trained nothing, and called the longer training's weights its own result."""
    options = {'train_cfg.max_epochs': 1, 'optim_wrapper.paramwise_cfg.freeze': ['patch_embed', 'blocks.0.*']}
    path = one_epoch.with_name('epoch_2.pth')
    cfg = digits_config('freeze-embed', 64, launcher='none', load_from=str(path), resume=True, **options)
    said = 'it was written after 2 epochs, and train_cfg.max_epochs=1; set it to 2 or more, or start again'
    with pytest.raises(UserError, match=said):
        build_runner(cfg, 'config').train()


@pytest.mark.parametrize('done, refused', [(4, True), (3, False), (2, False)])
def test_a_run_by_iterations_is_as_long_as_its_checkpoint_at_least(done, refused):
    runner = SimpleNamespace(train_loop=IterBasedTrainLoop.__new__(IterBasedTrainLoop), max_iters=3, max_epochs=1)
    message = 'after 4 iters, and train_cfg.max_iters=3; set it to 4 or more'
    with pytest.raises(UserError, match=message) if refused else nullcontext():
        checkpoint_compatibility._check_length(runner, dict(epoch=7, iter=done), 'a.pth', 'start again')


def test_other_data_and_model_options_are_named(one_epoch, digits_config, monkeypatch):
    """They are not in the checkpoint's state, and the record names those of the last start only."""
    lines = []
    monkeypatch.setattr(checkpoint_compatibility, 'print_log', lambda line, *_: lines.append(line))
    checkpoint = torch.load(one_epoch, weights_only=True)
    options = {'train_cfg.max_epochs': 2, 'optim_wrapper.paramwise_cfg.freeze': ['patch_embed', 'blocks.0.*']}

    def warned(**more) -> list[str]:
        lines.clear()
        cfg = digits_config('freeze-embed', 64, launcher='none', **options, **more)
        checkpoint_compatibility._warn_of_other_config(SimpleNamespace(cfg=cfg), checkpoint, 'a.pth')
        return lines

    assert warned() == warned(**{'default_hooks.logger.interval': 7}) == []
    (line,) = warned(**{'train_dataloader.dataset.split': 'val', 'model.backbone.drop_rate': 0.2})
    assert line.startswith('a.pth: was trained with other settings') and line.endswith('.')
    assert "train_dataloader.dataset.split='train' there, 'val' here" in line
    assert 'model.backbone.drop_rate=' in line and ' there, 0.2 here' in line
    assert warned(val_dataloader=None) == []


def test_an_unknown_choice_is_refused(digits_config):
    from ftsgd_plugin.hooks import CheckpointFitHook

    with pytest.raises(UserError, match="resume_settings='new': choose same or config"):
        CheckpointFitHook('new')
