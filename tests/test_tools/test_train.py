"""The programs end to end: train, resume, test, launch, and the one line that bad input gets."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, free_port, run_process
from mmengine.hooks import Hook

from ftsgd_plugin.checkpoint.compatibility import misfits
from ftsgd_plugin.runner.build import build_runner, load_config

CONFIG = ROOT / 'configs/vit-tiny_freeze-embed_digits.py'
GOLDEN = ROOT / 'tests/assets/vit-tiny_freeze-embed_digits_losses.json'


@pytest.fixture(scope='module')
def project(tmp_path_factory, digits_root):
    """A working directory with the digits where the configs expect them."""
    folder = tmp_path_factory.mktemp('project')
    (folder / 'data').mkdir()
    (folder / 'data/digits').symlink_to(digits_root)
    return folder


@pytest.fixture
def inside(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope='module')
def trained(project):
    """One epoch of the demo's config by the command of the README, with every loss logged."""
    result = run_process(
        sys.executable,
        ROOT / 'tools/train.py',
        CONFIG,
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'default_hooks.logger.interval=1',
        cwd=project,
    )
    assert result.returncode == 0, result.stderr
    work_dir = project / 'work_dirs' / CONFIG.stem
    return work_dir, result.stdout + result.stderr


def scalars(work_dir: Path) -> list[dict]:
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_losses_equal_the_golden_file(trained):
    """A refactoring must not change the numbers (relative 1e-3: machines differ)."""
    losses = [line['loss'] for line in scalars(trained[0]) if 'loss' in line]
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-3)


def test_work_dir_is_what_mmpretrain_users_know(trained):
    work_dir, _ = trained
    assert (work_dir / 'epoch_1.pth').is_file()
    assert (work_dir / 'last_checkpoint').is_file()
    assert list(work_dir.glob('best_id_accuracy_epoch_*.pth'))


def test_log_is_readable(trained):
    work_dir, console = trained
    (log,) = work_dir.glob('*/*.log')
    for text in (console, log.read_text()):
        assert 'paramwise_options' not in text and 'is skipped since' not in text
        assert 'Name of parameter - Initialization information' not in text
        assert re.search(r"freeze='embed'\n +trained +28 layers +301,314 parameters", text)
        assert re.search(r'Epoch\(train\) .* lr: \S+ +eta: \S+ .*loss: \S+ +memory: \d+', text)
        assert re.search(
            r'Epoch\(val\) .*id/accuracy: .*ood/accuracy: .*ood/worst_group: .*group/digit-0-4_grass', text
        )


def test_evaluating_the_checkpoint_gives_the_metrics_of_training(trained, inside, run_tool):
    work_dir, _ = trained
    code, err = run_tool(
        'test', CONFIG, work_dir / 'epoch_1.pth', '--work-dir', 'eval', '--out', 'm.json', '--out-item', 'metrics'
    )
    assert code == 0, err
    found = json.loads((inside / 'm.json').read_text())
    logged = next(line for line in scalars(work_dir) if 'id/accuracy' in line)
    keys = [key for key in logged if '/' in key]
    assert len(keys) == 9
    assert {key: found[key] for key in keys} == pytest.approx({key: logged[key] for key in keys})


def test_frozen_bytes_are_the_pretrained_ones(trained):
    from safetensors.torch import load_file

    before = load_file(ROOT / 'ftsgd_plugin/models/weights/vit-tiny.safetensors')
    after = torch.load(trained[0] / 'epoch_1.pth', weights_only=True)['state_dict']
    same = {name for name, value in before.items() if torch.equal(after[f'backbone.{name}'], value)}
    assert same == {'patch_embed.projection.weight', 'patch_embed.projection.bias'}


def test_two_processes_give_the_weights_of_one(trained, project):
    """`tools/dist_train.sh CONFIG 2` on the CPU, half the batch per process, against one process."""
    work_dir, _ = trained
    result = run_process(
        'bash',
        ROOT / 'tools/dist_train.sh',
        CONFIG,
        '2',
        '--work-dir',
        'two',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=16',
        cwd=project,
        PORT=free_port(),
    )
    assert result.returncode == 0, result.stderr
    one = torch.load(work_dir / 'epoch_1.pth', weights_only=True)['state_dict']
    two = torch.load(project / 'two/epoch_1.pth', weights_only=True)['state_dict']
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    expected = next(line for line in scalars(work_dir) if 'id/accuracy' in line)
    found = next(line for line in scalars(project / 'two') if 'id/accuracy' in line)
    for key in (key for key in expected if '/' in key):
        assert found[key] == pytest.approx(expected[key], abs=0.01), key


@pytest.mark.parametrize(
    'option, message',
    [
        ('train_dataloader.dataset.data_root=nowhere', 'nowhere/metadata.csv: not found'),  # once the ranks have met
        ('load_from=absent.pth', 'absent.pth: no such checkpoint'),  # before
    ],
)
def test_bad_input_of_two_processes_is_one_line(project, option, message):
    result = run_process(
        'bash', ROOT / 'tools/dist_train.sh', CONFIG, '2', '--work-dir', 'two_bad', '--cfg-options', option,
        cwd=project, PORT=free_port(),
    )  # fmt: skip
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith('error: ')] == [lines[-1]]
    assert message in lines[-1] and 'Traceback' not in result.stderr


def test_picture_bad_on_one_of_two_processes_is_one_line(project, digits_root):
    """The other rank waits in a collective and loses its peer; that is no news to the user."""
    rows = (digits_root / 'metadata.csv').read_text().splitlines()
    folder = project / 'second_missing'
    folder.mkdir()
    training = [row for row in rows[1:] if row.split(',')[1].startswith('train/')][:64]
    (folder / 'metadata.csv').write_text('\n'.join([rows[0], *training]))
    for row in [*training[:1], *training[2:]]:  # rank 1's first picture of the unshuffled split is not there
        picture = folder / row.split(',')[1]
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.symlink_to(digits_root / row.split(',')[1])
    result = run_process(
        'bash', ROOT / 'tools/dist_train.sh', CONFIG, '2', '--work-dir', 'one_bad', '--cfg-options',
        f'train_dataloader.dataset.data_root={folder}', 'train_dataloader.sampler.shuffle=False',
        cwd=project, PORT=free_port(),
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and training[1].split(',')[1] in lines[0] and 'image not found' in lines[0]
    assert 'Traceback' not in result.stderr


def test_two_processes_go_on_within_an_epoch_that_one_has_begun(project):
    """SGD in backward by the launcher, under a schedule of iterations: allowed, as the global batch is the same."""
    parts = ('models/vit-tiny', 'methods/sgd-in-backward', 'datasets/digits', 'runtime')
    config = project / 'in_backward.py'
    config.write_text(
        f'_base_ = {[str(ROOT / f"configs/_base_/{part}.py") for part in parts]!r}\n'
        'model = dict(head=dict(num_classes=2))\n'
        'train_cfg = dict(max_epochs=2)\n'
        'train_dataloader = dict(dataset=dict(indices=192))\n'
        'optim_wrapper = dict(optimizer=dict(lr=1e-4))\n'
        "param_scheduler = dict(_delete_=True, type='GradualUnfreezingLR', by_epoch=True, convert_to_iter_based=True)\n"
        "custom_hooks = [dict(type='SafeCheckpointHook', by_epoch=False, interval=4)]\n"
        'val_cfg = val_dataloader = val_evaluator = None\n'
        'default_hooks = dict(checkpoint=dict(save_best=None))\n'
    )
    train = [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', 'in_backward_one']
    assert run_process(*train, cwd=project).returncode == 0
    result = run_process(
        'bash', ROOT / 'tools/dist_train.sh', config, '2', '--work-dir', 'in_backward_two', '--resume',
        'in_backward_one/iter_4.pth', '--cfg-options', 'train_dataloader.batch_size=16', cwd=project, PORT=free_port(),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    begun, one, two = (
        torch.load(project / f'in_backward_{name}.pth', weights_only=True)
        for name in ('one/iter_4', 'one/epoch_2', 'two/epoch_2')
    )
    assert one['meta']['iter'] == two['meta']['iter'] == 12 and not two['optimizer']['state']
    for name, value in one['state_dict'].items():
        torch.testing.assert_close(two['state_dict'][name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.equal(one['state_dict']['head.fc.weight'], begun['state_dict']['head.fc.weight'])


class StopAfterFirstEpoch(Hook):
    """Stands for a user's Ctrl-C."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize('method', ['freeze-embed', 'adamw'])
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


def test_auto_scale_lr_without_base_batch_size(inside, run_tool):
    code, err = run_tool('train', CONFIG, '--auto-scale-lr')
    assert (code, err.count('\n')) == (2, 1) and 'auto_scale_lr=dict(base_batch_size=...)' in err


def test_freeze_can_be_set_on_the_command_line(inside, tmp_path, run_tool):
    code, err = run_tool(
        'train', CONFIG, '--work-dir', tmp_path, '--cfg-options', 'optim_wrapper.paramwise_cfg.freeze=nothing'
    )
    assert code == 2 and err.splitlines()[-1].startswith("error: freeze='nothing' is none of 'embed', 'stem', 'none'")


def broken_config(project: Path, name: str, text: str) -> Path:
    path = project / name
    path.write_text(f'_base_ = {str(CONFIG)!r}\n{text}\n')
    return path


@pytest.mark.parametrize(
    'text, message',
    [
        (
            "train_dataloader = dict(dataset=dict(data_root='nowhere'))",
            'nowhere/metadata.csv: not found; set data_root',
        ),
        ("train_dataloader = dict(dataset=dict(split='dev'))", "split='dev' is none of train, val, test"),
        ("optim_wrapper = dict(paramwise_cfg=dict(freeze=['blok*']))", "'blok*' matches no layer"),
        ("optim_wrapper = dict(paramwise_cfg=dict(freeze=['*']))", 'leaves nothing to train'),
        ("val_evaluator = dict(id='valid')", "val_evaluator.id: split 'valid' is not in val_dataloader (val, test)"),
        ("load_from = 'absent.pth'", 'absent.pth: no such checkpoint'),
        (
            "model = dict(backbone=dict(type='VisionTransfomer'))",
            "type='VisionTransfomer' is not in the mmpretrain::model",
        ),
        ("train_dataloader = dict(dataset=dict(type='Waterbird'))", "type='Waterbird' is not in the"),
        ('optim_wrapper = dict(optimizer=dict(lr=-1.0))', 'optim_wrapper.optimizer: Invalid learning rate: -1.0'),
        ('model = dict(', 'not a readable config'),
        (
            'model = dict(backbone=dict(arch=dict(num_layers=7)))',
            'backbone.init_cfg: ftsgd://vit-tiny does not fit VisionTransformer: layers.6.ln1.weight is missing',
        ),
        ('model = dict(backbone=dict(arch=dict(num_layers=5)))', 'layers.5.attn.proj.bias belongs to another model'),
        ('model = dict(backbone=dict(arch=dict(embed_dims=32)))', 'cls_token is (1, 1, 64) instead of (1, 1, 32)'),
        ("model = dict(backbone=dict(init_cfg=dict(checkpoint='no.pth')))", 'no.pth: no such checkpoint'),
        ("optim_wrapper = dict(type='AmpOptimWrapper')", 'AmpOptimWrapper (--amp) needs a GPU'),
        ('optim_wrapper = dict(optimizer=dict(betas=(0.9, 0.9)))', "got an unexpected keyword argument 'betas'"),
        ('optim_wrapper = dict(optimizer=dict(momentum=-1))', 'optim_wrapper.optimizer: Invalid momentum value: -1'),
        ('train_dataloader = dict(dataset=dict(splitt=1))', "got an unexpected keyword argument 'splitt'"),
        ("train_dataloader = dict(dataset=dict(ann_file='val'))", 'val: Is a directory'),
        ("work_dir = '/dev/null/runs'", '/dev/null/runs: Not a directory'),
        (
            'model = dict(backbone=dict(frozen_stages=6), head=dict(init_cfg=None))\n'
            "optim_wrapper = dict(paramwise_cfg=dict(freeze=['head', 'post_norm']))",
            'leaves nothing to train',
        ),
    ],
    ids=[
        'data_root',
        'split',
        'layer',
        'all frozen',
        'evaluator',
        'load_from',
        'backbone',
        'dataset',
        'lr',
        'syntax',
        'too many blocks',
        'too few blocks',
        'width',
        'pretrained file',
        'amp',
        'foreign option',
        'momentum',
        'misspelt key',
        'folder for file',
        'work_dir',
        'self-frozen',
    ],
)
def test_bad_config_gets_one_line_and_code_2(inside, tmp_path, run_tool, text, message):
    work_dir = [] if 'work_dir' in text else ['--work-dir', tmp_path]
    (inside / 'data/digits/val').mkdir(exist_ok=True)
    code, err = run_tool(
        'train', broken_config(inside, 'broken.py', text), *work_dir, '--cfg-options', 'train_cfg.max_epochs=1',
        'train_dataloader.dataset.indices=32',
    )  # fmt: skip
    lines = [line for line in err.splitlines() if line.startswith('error: ')]
    assert code == 2 and len(lines) == 1 and message in lines[0]
    assert 'Traceback' not in err
    assert not list(tmp_path.glob('*.pth'))


def test_missing_config_and_bad_option(inside, run_tool):
    assert run_tool('train', 'no.py') == (
        2,
        'error: no.py: no such config; the configs of this project are in configs/.\n',
    )
    code, err = run_tool('train', CONFIG, '--cfg-options', 'val_dataloader.dataset.datasets.7.split=x')
    assert code == 2 and err.startswith('error: --cfg-options: does not fit')


def test_unreadable_picture_in_a_worker_process_is_one_line(inside, digits_root, run_tool):
    rows = (digits_root / 'metadata.csv').read_text().splitlines()
    folder = inside / 'broken_digits'
    folder.mkdir()
    (folder / 'metadata.csv').write_text('\n'.join(rows[:40]))
    code, err = run_tool(
        'train', CONFIG, '--work-dir', 'unreadable', '--cfg-options', f'train_dataloader.dataset.data_root={folder}',
        'train_dataloader.num_workers=1', 'train_dataloader.persistent_workers=False',
    )  # fmt: skip
    assert code == 2
    assert re.fullmatch(r'error: .*broken_digits/train/\S+\.png: image not found; restore .*', err.splitlines()[-1])
    assert 'Traceback' not in err


def test_checkpoint_that_does_not_fit(trained, inside, run_tool):
    work_dir, _ = trained
    wider = broken_config(inside, 'wider.py', 'model = dict(head=dict(num_classes=5))')
    code, err = run_tool('test', wider, work_dir / 'epoch_1.pth', '--work-dir', 'misfit')
    assert code == 2
    assert (
        'epoch_1.pth: does not fit the model of this config: head.fc.weight is (2, 64) instead of (5, 64); '
        'head.fc.bias is (2,) instead of (5,); use the config' in err.splitlines()[-1]
    )
    code, err = run_tool('train', wider, '--work-dir', 'misfit', '--resume', work_dir / 'epoch_1.pth')
    assert code == 2 and 'epoch_1.pth: does not fit' in err.splitlines()[-1]


def test_training_may_start_from_another_head_but_not_another_backbone(trained, inside, digits_config):
    work_dir, _ = trained
    path = str(work_dir / 'epoch_1.pth')
    options = {'train_cfg.max_epochs': 1, 'launcher': 'none', 'load_from': path}
    cfg = digits_config('freeze-embed', 32, **options, **{'model.head.num_classes': 4})
    build_runner(cfg).train()
    from ftsgd_plugin.utils.errors import UserError

    cfg = digits_config('freeze-embed', 32, **options, **{'model.backbone.arch.num_layers': 7})
    cfg.model.backbone.pop('init_cfg')
    with pytest.raises(UserError, match=r'backbone\.layers\.6\S+ is missing'):
        build_runner(cfg).train()


def altered(checkpoint: Path, name: str, change) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    torch.save(change(content), checkpoint.parent / name)
    return checkpoint.parent / name


@pytest.mark.parametrize(
    'method, options, change, message',
    [
        ('adamw', [], None, 'it was written by another optimizer than AdamW (it has no amsgrad, betas, eps)'),
        ('sgd', [], None, 'groups (another freeze or other paramwise options)'),
        ('freeze-embed', ['param_scheduler=None'], None, 'has the state of 1 parameter schedulers, this config has 0'),
        ('freeze-embed', [], lambda content: content['state_dict'], 'holds weights but no training state'),
        ('freeze-embed', [], lambda content: {**content, 'meta': {}}, 'no training state (meta.epoch)'),
        ('freeze-embed', [], lambda content: [1, 2], 'holds no state dict but a list'),
        ('freeze-embed', [], lambda content: torch.zeros(3), 'holds no state dict but a Tensor'),
    ],
    ids=['optimizer', 'freeze', 'schedulers', 'bare weights', 'no meta', 'list', 'tensor'],
)
def test_checkpoint_that_cannot_be_resumed(trained, inside, run_tool, method, options, change, message):
    path = trained[0] / 'epoch_1.pth' if change is None else altered(trained[0] / 'epoch_1.pth', 'altered.pth', change)
    code, err = run_tool(
        'train', ROOT / f'configs/vit-tiny_{method}_digits.py', '--work-dir', 'misfit', '--resume', path,
        *(['--cfg-options', *options] if options else []),
    )  # fmt: skip
    lines = [line for line in err.splitlines() if line.startswith('error: ')]
    assert code == 2 and len(lines) == 1 and path.name in lines[0] and message in lines[0]
    assert 'Traceback' not in err


@pytest.mark.parametrize('content', ['gone/epoch_9.pth', ''])
def test_resuming_when_the_last_checkpoint_is_gone(trained, inside, run_tool, tmp_path, content):
    (tmp_path / 'last_checkpoint').write_text(content)
    code, err = run_tool('train', CONFIG, '--work-dir', tmp_path, '--resume')
    assert code == 2 and 'last_checkpoint: names' in err.splitlines()[-1] and '--resume PATH' in err
    (tmp_path / 'epoch_1.pth').write_bytes((trained[0] / 'epoch_1.pth').read_bytes())
    code, err = run_tool('train', CONFIG, '--work-dir', tmp_path, '--resume', '--cfg-options', 'train_cfg.max_epochs=1')
    assert code == 0, err


def test_options_that_do_not_fit_this_machine(inside, run_tool, tmp_path):
    code, err = run_tool('train', CONFIG, '--amp')
    assert code == 2 and 'needs a GPU' in err.splitlines()[-1]
    code, err = run_tool('train', CONFIG, '--cfg-options', 'foo')
    assert code == 2 and "'foo' is not KEY=VALUE" in err.splitlines()[-1]
    for out, message in (('m.txt', 'metrics are written as .json'), ('nowhere/m.json', 'there is no such folder')):
        code, err = run_tool('test', CONFIG, 'x.pth', '--out', out, '--out-item', 'metrics')
        assert code == 2 and message in err.splitlines()[-1]


def test_workers_are_fitted_after_the_options_are_merged():
    """Persistent workers where there are none are refused by torch."""
    options = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    cfg = load_config(str(CONFIG), {}, cfg_options=options, persistent_workers=False)
    assert cfg.train_dataloader.persistent_workers is False
    assert load_config(str(CONFIG), {}, cfg_options=options).train_dataloader.persistent_workers is True
    options['train_dataloader.num_workers'] = 0
    assert load_config(str(CONFIG), {}, cfg_options=options).train_dataloader.persistent_workers is False


@pytest.mark.parametrize('argv', [[], ['config.py']])
@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_launchers_print_their_usage(script, argv, tmp_path):
    result = run_process('bash', ROOT / 'tools' / script, *argv, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith(f'usage: bash tools/{script} ')


def test_slurm_train_calls_srun(tmp_path):
    """No cluster here: a stand-in for srun prints what it was asked for."""
    (tmp_path / 'srun').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    result = run_process(
        'bash', ROOT / 'tools/slurm_train.sh', 'gpu', 'job', 'c.py', 'runs', '--resume', '--cfg-options', 'a=1',
        cwd=tmp_path, PATH=f'{tmp_path}:{os.environ["PATH"]}', GPUS='4', SRUN_ARGS='--time=1:00 --exclusive',
    )  # fmt: skip
    words = result.stdout.split('\n')
    assert words[:2] == ['-p', 'gpu']
    for word in ('--job-name=job', '--ntasks=4', '--gres=gpu:4', '--ntasks-per-node=4', '--time=1:00', '--exclusive'):
        assert word in words
    assert words[words.index('-u') + 1 :][:8] == [
        f'{ROOT}/tools/train.py', 'c.py', '--work-dir=runs', '--launcher=slurm', '--resume', '--cfg-options', 'a=1', '',
    ]  # fmt: skip


def test_misfit_check_is_not_vacuous(trained):
    weights = torch.load(trained[0] / 'epoch_1.pth', weights_only=True)['state_dict']
    assert len(misfits(torch.nn.Linear(1, 1), weights)) == len(weights) + 2
