"""Runs that are resumed by another config: refused in one line, or by the config's settings if asked for."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import IterBasedTrainLoop, Runner

from ftsgd_plugin.hooks import checkpoint_compatibility
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.runner.run import train
from ftsgd_plugin.utils.errors import UserError


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
