"""tools/train.py in one process: a cold run by the command of the README, stopping, resuming, starting from weights."""

import json
import re
import sys

import pytest
import torch
from helpers import ROOT, run_process
from helpers.demo_run import CONFIG, scalars
from mmengine.hooks import Hook

from ftsgd_plugin.runner.build import build_runner, load_config
from ftsgd_plugin.utils.errors import UserError

GOLDEN = ROOT / 'tests/assets/vit-tiny_freeze-embed_digits_losses.json'


# test_packaging.py starts the installed program cold.
@pytest.fixture(scope='module', params=['forked', pytest.param('cold', marks=pytest.mark.slow)])
def run(make_project, run_forked, request):
    """One epoch of the demo's config by the command of the README, with every loss logged."""
    options = ('--cfg-options', 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1')
    project = make_project(request.param)
    if request.param == 'cold':
        result = run_process(sys.executable, ROOT / 'tools/train.py', CONFIG, *options, cwd=project)
    else:
        result = run_forked('tools/train.py', CONFIG, *options, cwd=project)
    assert result.returncode == 0, result.stderr
    return project / 'work_dirs' / CONFIG.stem, result.stdout + result.stderr


def test_losses_equal_the_golden_file(run):
    """A refactoring must not change the numbers (relative 1e-3: machines differ)."""
    losses = [line['loss'] for line in scalars(run[0]) if 'loss' in line]
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-3)


def test_work_dir_is_what_mmpretrain_users_know(run):
    work_dir, _ = run
    assert (work_dir / 'epoch_1.pth').is_file()
    assert (work_dir / 'last_checkpoint').is_file()
    assert list(work_dir.glob('best_id_accuracy_epoch_*.pth'))


def test_log_is_readable(run):
    work_dir, console = run
    (log,) = work_dir.glob('*/*.log')
    for text in (console, log.read_text()):
        assert 'paramwise_options' not in text and 'is skipped since' not in text and 'UserWarning' not in text
        assert 'Name of parameter - Initialization information' not in text
        assert re.search(r"freeze='embed'\n +trained +28 layers +301,314 parameters", text)
        assert re.search(r'Epoch\(train\) .* lr: \S+ +eta: \S+ .*loss: \S+ +memory: \d+', text)
        assert re.search(
            r'Epoch\(val\) .*id/accuracy: .*ood/accuracy: .*ood/worst_group: .*group/digit-0-4_grass', text
        )


def test_frozen_bytes_are_the_pretrained_ones(run):
    from safetensors.torch import load_file

    before = load_file(ROOT / 'ftsgd_plugin/models/weights/vit-tiny.safetensors')
    after = torch.load(run[0] / 'epoch_1.pth', weights_only=True)['state_dict']
    same = {name for name, value in before.items() if torch.equal(after[f'backbone.{name}'], value)}
    assert same == {'patch_embed.projection.weight', 'patch_embed.projection.bias'}


class StopAfterFirstEpoch(Hook):
    """Imitates a user's Ctrl-C."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize('method', ['freeze-embed', pytest.param('adamw', marks=pytest.mark.slow)])
def test_stopping_and_resuming_equals_not_stopping(digits_config, tmp_path, method):
    options = {'train_cfg.max_epochs': 2}
    straight = build_runner(digits_config(method, 96, launcher='none', work_dir=str(tmp_path / 'a'), **options))
    straight.train()

    stopped = build_runner(digits_config(method, 96, launcher='none', work_dir=str(tmp_path / 'b'), **options))
    stopped.register_hook(StopAfterFirstEpoch())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = build_runner(
        digits_config(method, 96, launcher='none', work_dir=str(tmp_path / 'b'), resume=True, **options)
    )
    resumed.train()

    assert resumed.epoch == straight.epoch == 2
    for name, value in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    expected, found = (runner.optim_wrapper.state_dict() for runner in (straight, resumed))
    assert found['param_groups'] == expected['param_groups']
    for index, state in expected['state'].items():
        assert all(torch.equal(found['state'][index][key], value) for key, value in state.items())


def test_training_may_start_from_another_head_but_not_another_backbone(trained, inside, digits_config):
    work_dir = trained
    path = str(work_dir / 'epoch_1.pth')
    options = {'train_cfg.max_epochs': 1, 'launcher': 'none', 'load_from': path}
    cfg = digits_config('freeze-embed', 32, **options, **{'model.head.num_classes': 4})
    build_runner(cfg).train()

    cfg = digits_config('freeze-embed', 32, **options, **{'model.backbone.arch.num_layers': 7})
    cfg.model.backbone.pop('init_cfg')
    with pytest.raises(UserError, match=r'backbone\.layers\.6\S+ is missing'):
        build_runner(cfg).train()


def test_workers_are_fitted_after_the_options_are_merged():
    """Torch refuses persistent workers where there are no workers."""
    options = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    cfg = load_config(str(CONFIG), {}, cfg_options=options, persistent_workers=False)
    assert cfg.train_dataloader.persistent_workers is False
    assert load_config(str(CONFIG), {}, cfg_options=options).train_dataloader.persistent_workers is True
    options['train_dataloader.num_workers'] = 0
    assert load_config(str(CONFIG), {}, cfg_options=options).train_dataloader.persistent_workers is False
