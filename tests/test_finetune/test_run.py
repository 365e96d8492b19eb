"""The whole way from images to weights, in this process; what a second start does with what it finds."""

import json
import re
import shutil
import signal

import pytest
import torch
from helpers import ROOT
from helpers.code_blocks import blocks
from mmengine.config import Config
from mmpretrain.registry import DATASETS

from ftsgd_plugin.checkpoint.io import read_weights
from ftsgd_plugin.finetune import run as module
from ftsgd_plugin.finetune import search
from ftsgd_plugin.finetune.progress import ProgressHook
from ftsgd_plugin.inference.export import export_run
from ftsgd_plugin.inference.predict import write_predictions
from ftsgd_plugin.inference.run import load_run
from ftsgd_plugin.records import RunRecord, read_record
from ftsgd_plugin.runner.build import read_config
from ftsgd_plugin.runner.config_check import check_config, check_keys
from ftsgd_plugin.utils.errors import DivergedError, UserError
from ftsgd_plugin.utils.signals import Interrupted


def test_from_images_to_weights(whole):
    result, printed = whole
    lines, directory = printed.splitlines(), result.directory
    assert 'train          12' in printed and 'ood            20  (held out: sketch)' in printed
    assert '[1/2] lr 1e-3  ID accuracy' in printed and '[2/2] lr 1e-2  ID accuracy' in printed
    assert 'epoch 1/1  loss' in printed
    assert lines[-3].startswith('result:  ID accuracy ') and 'held out (sketch) accuracy ' in lines[-3]
    assert lines[-2] == f'weights: {result.checkpoint}' and result.checkpoint.is_file()
    assert lines[-1] == f'predict: python tools/predict.py {directory}/training IMAGES'

    record = read_record(result.run)
    assert record.status == 'finished' and record.lr == result.lr and record.method == 'freeze-embed'
    metrics = json.loads((directory / 'metrics.json').read_text())
    assert metrics == result.metrics
    assert {key: metrics[key] for key in record.selected} == record.selected  # of the weights that were saved
    assert metrics.keys() - record.selected.keys() == {'split/test'}
    page = (directory / 'report.html').read_text()
    assert 'vit-tiny on own (OOD: held out (sketch))' in page and 'a command' in page


def test_its_weights_predict_the_held_out_domain_and_leave_for_timm(whole, own_root, tmp_path):
    result, _ = whole
    run = load_run(result.run, device='cpu')
    assert run.checkpoint == result.checkpoint and not run.preprocessing.other
    done = write_predictions(run, [own_root / 'sketch'], tmp_path / 'p.csv', report=lambda line: None)
    assert (done.images, done.metrics['accuracy']) == (20, result.metrics['ood/accuracy'])
    lines = []
    export_run(run, 'timm', tmp_path / 'out', report=lines.append)
    assert lines[0].startswith('timm: 32 images give the logits of the run')
    card = (tmp_path / 'out/README.md').read_text()
    assert ', '.join(run.classes) in card and f'{100 * result.metrics["ood/accuracy"]:.2f} %' in card


def test_the_page_shows_the_same_lines(whole):
    """Apart from what belongs to the data and the machine."""
    shown = next(block.code for block in blocks(ROOT / 'docs/finetune.md') if block.code.startswith('data '))
    printed = whole[1]

    def lines(text: str) -> list[str]:
        found = [re.sub(r'\d.*| /.*|work_dirs.*|: .*', '', line).strip() for line in text.splitlines()]
        return list(dict.fromkeys(line for line in found if line))

    assert lines(shown) == lines(printed)


def test_search_sees_nothing_that_is_held_out(whole):
    result, _ = whole
    searched = {lr: read_record(result.directory / f'search/lr{lr}') for lr in ('1e-3', '1e-2')}
    best = max(searched.values(), key=lambda one: (one.selected['id/accuracy'], -one.lr))
    assert result.lr == best.lr
    for one in searched.values():
        assert {key for key in one.epochs[0] if key.startswith('split/')} == {'split/val'}
    assert not list((result.directory / 'search').rglob('*.pth'))


def test_finished_it_trains_nothing_again(whole, fine_tune, monkeypatch, capsys):
    result, printed = whole
    monkeypatch.setattr(module, 'write_report', lambda *args, **options: None)
    monkeypatch.setattr(module, 'run_task', lambda task, *_: '' if task.state == 'finished' else 'was run again')
    assert fine_tune(result.directory) == result
    again = capsys.readouterr().out
    assert 'done before' in again and again.splitlines()[-3:] == printed.splitlines()[-3:]


def test_config_is_ordinary(fine_tune, tmp_path, monkeypatch):
    fine_tune(tmp_path / 'a', dry_run=True)
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    child = tmp_path / 'elsewhere/child.py'
    child.write_text(f'_base_ = {str(tmp_path / "a/config.py")!r}\ntrain_cfg = dict(max_epochs=3)\n')
    cfg = read_config(str(child))
    check_keys(cfg)
    check_config(cfg)
    assert cfg.train_cfg.max_epochs == 3 and cfg.optim_wrapper.paramwise_cfg['freeze'] == 'embed'
    assert cfg.model.head.num_classes == 2 and cfg.optim_wrapper.optimizer.lr == 1e-3
    assert DATASETS.get('GroupedImages') is not None
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == 12 and dataset[0]['inputs'].shape == (3, 32, 32)
    assert list(dataset.metainfo['classes']) == ['cat', 'dog']


def test_dry_run_stops_before_training(fine_tune, tmp_path, capsys):
    assert fine_tune(tmp_path / 'a', dry_run=True) is None
    printed = capsys.readouterr().out
    assert 'memory: 16.0 MiB' in printed and 'try 2 learning rates for 1 epoch each, ID only: about' in printed
    assert 'train 1 epoch: about' in printed and printed.splitlines()[-1].startswith('dry run')
    assert sorted(path.name for path in (tmp_path / 'a').iterdir()) == ['config.py', 'finetune.json', 'finetune.lock']


def test_interrupted_it_goes_on_to_the_same_weights(whole, fine_tune, tmp_path, monkeypatch):
    """In the training; tests/test_tools/test_finetune.py interrupts the search too."""
    whole, _ = whole
    shutil.copytree(whole.directory, tmp_path / 'parts')
    shutil.rmtree(tmp_path / 'parts/training')
    state = json.loads((tmp_path / 'parts/finetune.json').read_text())
    del state['steps']['evaluation']
    (tmp_path / 'parts/finetune.json').write_text(json.dumps(state))
    monkeypatch.setattr(module, 'write_report', lambda *args, **options: None)
    after_train_iter, steps = ProgressHook.after_train_iter, []

    def stop_once(self, runner, batch_idx, data_batch=None, outputs=None):
        after_train_iter(self, runner, batch_idx, data_batch, outputs)
        steps.append(runner.iter)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ProgressHook, 'after_train_iter', stop_once)
    with pytest.raises(Interrupted) as stop:
        fine_tune(tmp_path / 'parts')
    assert stop.value.code == 128 + signal.SIGTERM
    assert stop.value.message.endswith(
        'interrupted by SIGTERM; nothing is lost: start the same command again to continue'
    )
    parts = fine_tune(tmp_path / 'parts')
    assert steps == [0, 1, 2]  # no step was taken twice
    assert (parts.lr, parts.metrics) == (whole.lr, whole.metrics)
    expected = read_weights(str(whole.checkpoint))
    found = read_weights(str(parts.checkpoint))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_an_edited_config_is_not_overwritten(fine_tune, tmp_path):
    fine_tune(tmp_path / 'a', dry_run=True)
    config = tmp_path / 'a/config.py'
    text = config.read_text() + '\ntrain_cfg = dict(max_epochs=3)\n'
    config.write_text(text)
    with pytest.raises(
        UserError, match='has been edited since this command wrote it; train it with `python tools/train'
    ):
        fine_tune(tmp_path / 'a')
    assert config.read_text() == text


def test_changed_data_is_refused_once_something_was_trained(fine_tune, own_root, tmp_path, capsys):
    root = shutil.copytree(own_root, tmp_path / 'own')
    fine_tune(tmp_path / 'a', dry_run=True, data=root)
    (root / 'photo/cat/0.png').unlink()
    fine_tune(tmp_path / 'a', dry_run=True, data=root)
    assert '39 images' in capsys.readouterr().out
    (tmp_path / 'a/training').mkdir()
    (root / 'photo/cat/1.png').unlink()
    with pytest.raises(UserError, match=r'has changed since .* was begun'):
        fine_tune(tmp_path / 'a', data=root)


def test_unreadable_images_are_listed_and_left_out(fine_tune, own_root, tmp_path, capsys):
    root = shutil.copytree(own_root, tmp_path / 'own')
    for name in ('photo/cat/0.png', 'sketch/dog/3.png'):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])
    (root / '.cache/cat').mkdir(parents=True)
    shutil.copy(root / 'photo/cat/1.png', root / '.cache/cat/1.png')
    fine_tune(tmp_path / 'a', data=root, dry_run=True)
    printed = capsys.readouterr().out
    assert 'left out, as they cannot be read: 2 images' in printed and 'photo/cat/0.png: not a complete' in printed
    cfg = Config.fromfile(tmp_path / 'a/config.py')
    assert cfg.train_dataloader.dataset.exclude == ['photo/cat/0.png', 'sketch/dog/3.png']
    datasets = [cfg.train_dataloader.dataset, *cfg.test_dataloader.dataset.datasets]
    assert sum(len(DATASETS.build({**one, 'pipeline': []})) for one in datasets) == 38


def test_splits_are_no_classes_and_a_class_keeps_its_label(fine_tune, own_root, tmp_path, capsys):
    """Directories of splits, a class that a split lacks, a hidden directory, and a path one level too high."""
    root = tmp_path / 'download/animals'
    for k, (split, label) in enumerate([(s, c) for s in ('training', 'valid') for c in ('dog', 'cat', 'ant')]):
        if (split, label) != ('valid', 'ant'):
            (root / split / label).mkdir(parents=True)
            for i in range(4):
                shutil.copy(own_root / f'photo/{"cat" if k % 2 else "dog"}/{i}.png', root / split / label / f'{i}.png')
    (root / '.ipynb_checkpoints/cat').mkdir(parents=True)
    shutil.copy(own_root / 'photo/cat/0.png', root / '.ipynb_checkpoints/cat/0.png')
    fine_tune(tmp_path / 'a', data=tmp_path / 'download', dry_run=True, hold_out=(), split_fractions=None)
    printed = capsys.readouterr().out
    assert '20 images of 3 classes' in printed and 'val has no image of 1 classes: ant' in printed
    assert str(root) in printed
    cfg = read_config(str(tmp_path / 'a/config.py'))
    datasets = [cfg.train_dataloader.dataset, *cfg.val_dataloader.dataset.datasets]
    built = [DATASETS.build({**one, 'pipeline': []}) for one in datasets]
    assert {tuple(dataset.metainfo['classes']) for dataset in built} == {('ant', 'cat', 'dog')}
    assert [len(dataset) for dataset in built] == [12, 8] and set(built[1].get_gt_labels()) == {1, 2}


def test_several_processes_are_refused(fine_tune, tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(UserError, match='is one process; start it alone'):
        fine_tune(tmp_path / 'a')


def test_another_metric_selects(fine_tune, tmp_path):
    fine_tune(tmp_path / 'a', metric='id/macro_f1', dry_run=True)
    cfg = read_config(str(tmp_path / 'a/config.py'))
    check_config(cfg)
    assert tuple(cfg.val_evaluator['items']) == ('macro_f1',)
    assert (cfg.default_hooks.checkpoint.save_best, cfg.default_hooks.checkpoint.rule) == ('id/macro_f1', 'greater')


def test_all_rates_diverge_is_one_line(fine_tune, monkeypatch, tmp_path):
    diverged = RunRecord('vit-tiny', 'freeze-embed', 'own', 1e-3, 0, '', 'diverged', [])
    monkeypatch.setattr(search, 'run_task', lambda *args, **options: '')
    monkeypatch.setattr(search, 'read_record', lambda directory: diverged)
    with pytest.raises(DivergedError, match=r'diverges at every learning rate \(1e-3, 1e-2\); give a lower --lr'):
        fine_tune(tmp_path / 'a')


def test_a_metric_without_a_value_is_one_line(fine_tune, monkeypatch, tmp_path):
    undefined = RunRecord('vit-tiny', 'freeze-embed', 'own', 1e-3, 0, '', 'finished', [{'id/accuracy': 1.0}])
    monkeypatch.setattr(search, 'run_task', lambda *args, **options: '')
    monkeypatch.setattr(search, 'read_record', lambda directory: undefined)
    with pytest.raises(UserError, match='--metric id/auroc: is not defined on the validation images'):
        fine_tune(tmp_path / 'a', metric='id/auroc')


@pytest.mark.parametrize(
    'options, said',
    [
        ({'model': 'vit-tinny'}, "did you mean 'vit-tiny'"),
        ({'hold_out': ('skech',)}, "did you mean 'sketch'"),
        ({'split_fractions': (0.5, 0.2)}, '--split-fractions 0.5 0.2: give two or three shares that add up to 1'),
        ({'time': 0.9}, '--time: one epoch of training takes about'),
        (
            {'split_fractions': (0.9, 0.0, 0.1)},
            "has no split 'val' to select by; give it a share with --split-fractions",
        ),
    ],
)
def test_bad_input_is_found_before_training(fine_tune, tmp_path, options, said):
    with pytest.raises(UserError) as error:
        fine_tune(tmp_path / 'a', dry_run=True, **options)
    assert said in str(error.value) and '\n' not in str(error.value)
    assert not (tmp_path / 'a/training').exists()
