"""Bad input to tools/train.py and tools/test.py: one line on stderr, exit code 2, nothing written."""

import re
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.demo_run import CONFIG, write_child

from ftsgd_plugin.checkpoint.compatibility import misfits


def test_auto_scale_lr_without_base_batch_size(inside, run_tool):
    code, err = run_tool('train', CONFIG, '--auto-scale-lr')
    assert (code, err.count('\n')) == (2, 1) and 'auto_scale_lr=dict(base_batch_size=...)' in err


def test_freeze_can_be_set_on_the_command_line(inside, tmp_path, run_tool):
    code, err = run_tool(
        'train', CONFIG, '--work-dir', tmp_path, '--cfg-options', 'optim_wrapper.paramwise_cfg.freeze=nothing'
    )
    assert code == 2 and err.splitlines()[-1].startswith("error: freeze='nothing' is none of 'embed', 'stem', 'none'")


@pytest.mark.parametrize(
    'text, message',
    [
        (
            "train_dataloader = dict(dataset=dict(data_root='nowhere'))",
            'nowhere/metadata.csv: not found; set data_root',
        ),
        ("train_dataloader = dict(dataset=dict(split='dev'))", "split='dev' is not one of train, val, test"),
        ("optim_wrapper = dict(paramwise_cfg=dict(freeze=['blok*']))", "'blok*' matches no layer"),
        ("optim_wrapper = dict(paramwise_cfg=dict(freeze=['*']))", 'leaves nothing to train'),
        ("val_evaluator = dict(id='valid')", "val_evaluator.id: split 'valid' is not in val_dataloader (val, test)"),
        ("load_from = 'absent.pth'", 'absent.pth: no such checkpoint'),
        (
            "model = dict(backbone=dict(type='VisionTransfomer'))",
            "type='VisionTransfomer' is not in the mmpretrain::model",
        ),
        ("train_dataloader = dict(dataset=dict(type='Waterbird'))", "type='Waterbird' is not in the"),
        ('optim_wrapper = dict(optimizer=dict(lr=-1.0))', 'optim_wrapper.optimizer.lr=-1.0 is negative'),
        ('model = dict(', 'not a readable config'),
        (
            'model = dict(backbone=dict(arch=dict(num_layers=7)))',
            'backbone.init_cfg: ftsgd://vit-tiny does not fit VisionTransformer: layers.6.ln1.weight is missing',
        ),
        ('model = dict(backbone=dict(arch=dict(num_layers=5)))', 'layers.5.attn.proj.bias belongs to another model'),
        (
            'model = dict(backbone=dict(arch=dict(embed_dims=32)), head=dict(in_channels=32))',
            'cls_token is (1, 1, 64) instead of (1, 1, 32)',
        ),
        ("model = dict(backbone=dict(init_cfg=dict(checkpoint='no.pth')))", 'no.pth: no such checkpoint'),
        ("optim_wrapper = dict(type='AmpOptimWrapper')", 'AmpOptimWrapper (--amp) needs a GPU'),
        ('optim_wrapper = dict(optimizer=dict(betas=(0.9, 0.9)))', "got an unexpected keyword argument 'betas'"),
        ('optim_wrapper = dict(optimizer=dict(momentum=-1))', 'optim_wrapper.optimizer.momentum=-1 is not in [0, 1)'),
        ('train_dataloader = dict(dataset=dict(splitt=1))', "got an unexpected keyword argument 'splitt'"),
        ("train_dataloader = dict(dataset=dict(ann_file='val'))", 'val: cannot be read (Is a directory)'),
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
        'directory for file',
        'work_dir',
        'self-frozen',
    ],
)
def test_bad_config_gets_one_line_and_code_2(inside, tmp_path, run_tool, text, message):
    work_dir = [] if 'work_dir' in text else ['--work-dir', tmp_path]
    (inside / 'data/digits/val').mkdir(exist_ok=True)
    code, err = run_tool(
        'train', write_child(inside, 'broken.py', text), *work_dir, '--cfg-options', 'train_cfg.max_epochs=1',
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


def test_missing_image_in_a_worker_process_is_one_line(inside, digits_root, run_tool):
    rows = (digits_root / 'metadata.csv').read_text().splitlines()
    root = inside / 'broken_digits'
    root.mkdir()
    (root / 'metadata.csv').write_text('\n'.join(rows[:40]))
    code, err = run_tool(
        'train', CONFIG, '--work-dir', 'unreadable', '--cfg-options', f'train_dataloader.dataset.data_root={root}',
        'train_dataloader.num_workers=1', 'train_dataloader.persistent_workers=False',
    )  # fmt: skip
    assert code == 2
    assert re.fullmatch(r'error: .*broken_digits/train/\S+\.png: image not found; restore .*', err.splitlines()[-1])
    assert 'Traceback' not in err


def test_checkpoint_that_does_not_fit(trained, inside, run_tool):
    work_dir = trained
    wider = write_child(inside, 'wider.py', 'model = dict(head=dict(num_classes=5))')
    code, err = run_tool('test', wider, work_dir / 'epoch_1.pth', '--work-dir', 'misfit')
    assert code == 2
    assert (
        'epoch_1.pth: does not fit the model of this config: head.fc.weight is (2, 64) instead of (5, 64); '
        'head.fc.bias is (2,) instead of (5,); use the config' in err.splitlines()[-1]
    )
    code, err = run_tool('train', wider, '--work-dir', 'misfit', '--resume', work_dir / 'epoch_1.pth')
    assert code == 2 and 'epoch_1.pth: does not fit' in err.splitlines()[-1]


def altered(checkpoint: Path, name: str, change) -> Path:
    content = torch.load(checkpoint, weights_only=True)
    torch.save(change(content), checkpoint.parent / name)
    return checkpoint.parent / name


@pytest.mark.parametrize(
    'method, options, change, message',
    [
        ('adamw', [], None, 'it was written by another optimizer than AdamW (SGD)'),
        ('sgd', [], None, 'groups (another freeze or other paramwise options)'),
        ('freeze-embed', ['param_scheduler=None'], None, 'has the state of 1 parameter schedulers, this config has 0'),
        ('freeze-embed', [], lambda content: content['state_dict'], 'holds weights but no training state'),
        ('freeze-embed', [], lambda content: {**content, 'meta': {}}, 'no training state (meta.epoch)'),
        ('freeze-embed', [], lambda content: [1, 2], 'holds a list instead of a state dict'),
        ('freeze-embed', [], lambda content: torch.zeros(3), 'holds a Tensor instead of a state dict'),
    ],
    ids=['optimizer', 'freeze', 'schedulers', 'bare weights', 'no meta', 'list', 'tensor'],
)
def test_checkpoint_that_cannot_be_resumed(trained, inside, run_tool, method, options, change, message):
    path = trained / 'epoch_1.pth' if change is None else altered(trained / 'epoch_1.pth', 'altered.pth', change)
    code, err = run_tool(
        'train', ROOT / f'configs/vit-tiny_{method}_digits.py', '--work-dir', 'misfit', '--resume', path,
        *(['--cfg-options', *options] if options else []),
    )  # fmt: skip
    lines = [line for line in err.splitlines() if line.startswith('error: ')]
    assert code == 2 and len(lines) == 1 and path.name in lines[0] and message in lines[0]
    assert 'Traceback' not in err


def test_misfit_check_is_not_vacuous(trained):
    weights = torch.load(trained / 'epoch_1.pth', weights_only=True)['state_dict']
    assert len(misfits(torch.nn.Linear(1, 1), weights)) == len(weights) + 2


@pytest.mark.parametrize('content', ['gone/epoch_9.pth', ''])
def test_resuming_when_the_last_checkpoint_is_gone(trained, inside, run_tool, tmp_path, content):
    (tmp_path / 'last_checkpoint').write_text(content)
    code, err = run_tool('train', CONFIG, '--work-dir', tmp_path, '--resume')
    assert code == 2 and 'last_checkpoint: names' in err.splitlines()[-1] and '--resume PATH' in err
    (tmp_path / 'epoch_1.pth').write_bytes((trained / 'epoch_1.pth').read_bytes())
    code, err = run_tool('train', CONFIG, '--work-dir', tmp_path, '--resume', '--cfg-options', 'train_cfg.max_epochs=1')
    assert code == 0, err


def test_options_that_do_not_fit_this_machine(inside, run_tool, tmp_path):
    code, err = run_tool('train', CONFIG, '--amp')
    assert code == 2 and 'needs a GPU' in err.splitlines()[-1]
    code, err = run_tool('train', CONFIG, '--cfg-options', 'foo')
    assert code == 2 and "'foo' is not KEY=VALUE" in err.splitlines()[-1]
    for out, message in (('m.txt', 'metrics are written as .json'), ('nowhere/m.json', 'its directory does not exist')):
        code, err = run_tool('test', CONFIG, 'x.pth', '--out', out, '--out-item', 'metrics')
        assert code == 2 and message in err.splitlines()[-1]
