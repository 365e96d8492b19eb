"""WiSE-FT on a short run of the demo: the ends are the run and its pretrained backbone."""

import csv
import json

import pytest
import torch
from helpers import ROOT
from helpers.authors import record
from helpers.digits import load_digits_config
from safetensors.torch import load_file

from ftsgd_plugin.records import write_record
from ftsgd_plugin.results.wise_ft import end_points, evaluate_between, evaluation_runner, find_run, interpolate
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import UserError


@pytest.fixture(scope='module')
def run(digits_root, tmp_path_factory):
    """Two epochs of SGD (freeze-embed) on 64 images of each split, and the metrics of the best one."""
    directory = tmp_path_factory.mktemp('run')
    cfg = load_digits_config(digits_root, 'freeze-embed', 64, work_dir=str(directory))
    cfg.train_cfg.max_epochs, cfg.launcher, cfg.randomness.seed = 2, 'none', 1
    runner = build_runner(cfg)
    runner.train()
    (best,) = directory.glob('best_id_accuracy_epoch_*.pth')
    epoch = int(best.stem.rsplit('_', 1)[1]) - 1
    scalars = runner.message_hub.log_scalars
    metrics = {
        key.removeprefix('val/'): float(buffer.data[0][epoch])
        for key, buffer in scalars.items()
        if key.startswith('val/') and not key.endswith('time')
    }
    return directory, metrics


def test_program_reproduces_the_run_at_alpha_1_and_selects_by_id(run, tmp_path, run_tool):
    directory, metrics = run
    write_record(record(epochs=[metrics], selected_epoch=0), directory)
    code, err = run_tool('wise_ft', directory, '--out', tmp_path, '--alphas', '0', '0.5', '1')
    assert code == 0, err
    assert 'alpha 1 reproduces the metrics of the run record.' in run_tool.stdout
    result = json.loads((tmp_path / 'wise_ft.json').read_text())
    points = result['points']
    assert [point['alpha'] for point in points] == [0, 0.5, 1]
    assert {key: points[-1][key] for key in metrics} == pytest.approx(metrics)
    assert result['selected'] == max(points, key=lambda point: (point['id/accuracy'], -point['alpha']))
    assert result['selected_by'] == 'id/accuracy'
    with open(tmp_path / 'wise_ft.csv', newline='') as file:
        assert [float(row['id/accuracy']) for row in csv.DictReader(file)] == [p['id/accuracy'] for p in points]
    assert (tmp_path / 'wise_ft.png').is_file()
    assert not list(tmp_path.rglob('*.pth')) and not list(tmp_path.glob('.*'))


def test_alpha_0_is_the_pretrained_backbone_with_the_runs_head_and_alpha_1_the_run(run, tmp_path):
    cfg, checkpoint = find_run(run[0])
    assert checkpoint.name.startswith('best_id_accuracy')
    runner = evaluation_runner(cfg, tmp_path)
    pretrained, tuned = end_points(runner, cfg, checkpoint)
    saved = torch.load(checkpoint, weights_only=True)['state_dict']
    original = load_file(ROOT / 'ftsgd_plugin/models/weights/vit-tiny.safetensors')
    assert original.keys() == {name.removeprefix('backbone.') for name in saved if name.startswith('backbone.')}
    for name, value in saved.items():
        assert torch.equal(tuned[name], value)
        start = original[name.removeprefix('backbone.')] if name.startswith('backbone.') else value
        assert torch.equal(pretrained[name], start), name
    moved = [name for name in saved if not torch.equal(pretrained[name], tuned[name])]
    assert moved and not any('patch_embed' in name or 'head' in name for name in moved)
    middle = interpolate(pretrained, tuned, 0.25)
    name = moved[0]
    torch.testing.assert_close(middle[name], 0.75 * pretrained[name] + 0.25 * tuned[name])
    frozen = 'backbone.patch_embed.projection.weight'
    assert torch.equal(middle[frozen], saved[frozen])

    ((_, metrics),) = evaluate_between(runner, pretrained, tuned, [0])
    twin = build_runner(evaluation_runner(cfg, tmp_path).cfg)  # filled by name
    twin.model.backbone.load_state_dict(original)
    twin.model.head.load_state_dict({k.removeprefix('head.'): v for k, v in saved.items() if k.startswith('head.')})
    assert metrics == pytest.approx(twin.val_loop.run())


def test_integer_tensors_are_the_fine_tuned_ones():
    ends = ({'n': torch.tensor(1)}, {'n': torch.tensor(5)})
    assert interpolate(*ends, 0.5)['n'] == 5


def test_checkpoint_by_best_then_by_last_epoch(tmp_path):
    (tmp_path / 'config.py').write_text('a = 1\n')
    for name in ('epoch_9.pth', 'epoch_10.pth', 'other.pth'):
        (tmp_path / name).touch()
    assert find_run(tmp_path)[1].name == 'epoch_10.pth'
    (tmp_path / 'best_id_accuracy_epoch_2.pth').touch()
    assert find_run(tmp_path)[1].name == 'best_id_accuracy_epoch_2.pth'
    assert find_run(tmp_path, tmp_path / 'epoch_9.pth')[1].name == 'epoch_9.pth'


def test_backbone_that_starts_from_random_weights_is_refused(run, tmp_path):
    cfg, checkpoint = find_run(run[0])
    cfg.model.backbone.init_cfg = None
    with pytest.raises(UserError, match='the backbone starts from random weights'):
        end_points(evaluation_runner(cfg, tmp_path), cfg, checkpoint)


def ends(run, tmp_path, checkpoint=None, **changes):
    """The weights at alpha 0 and 1 of a run whose config has these entries."""
    cfg, best = find_run(run[0])
    cfg.merge_from_dict(changes)
    return end_points(evaluation_runner(cfg, tmp_path), cfg, checkpoint or best)


def test_after_a_probe_alpha_0_has_the_probes_head(run, tmp_path):
    """Training started from a whole classifier: by ``load_from``, or by the model's own ``init_cfg``."""
    saved = torch.load(find_run(run[0])[1], weights_only=True)['state_dict']
    probe = {name: value + 1 for name, value in saved.items()}
    torch.save({'state_dict': probe}, tmp_path / 'probe.pth')
    by_init = {'model.init_cfg': dict(type='Pretrained', checkpoint=str(tmp_path / 'probe.pth'))}
    for changes in ({'load_from': str(tmp_path / 'probe.pth')}, {**by_init, 'model.backbone.init_cfg': None}):
        pretrained, tuned = ends(run, tmp_path, **changes)
        for name, value in saved.items():
            assert torch.equal(pretrained[name], probe[name]) and torch.equal(tuned[name], value), name


def test_head_of_another_size_is_no_start_for_the_runs_head(run, tmp_path):
    saved = torch.load(find_run(run[0])[1], weights_only=True)['state_dict']
    start = {**saved, 'head.fc.weight': torch.zeros(7, 64), 'head.fc.bias': torch.zeros(7)}
    torch.save({'state_dict': start}, tmp_path / 'start.pth')
    pretrained, _ = ends(run, tmp_path, load_from=str(tmp_path / 'start.pth'))
    for name, value in saved.items():
        assert torch.equal(pretrained[name], value), name


def test_a_resumed_run_starts_from_what_it_was_started_from(run, tmp_path):
    """Its config names its own checkpoint; the start is in the checkpoint."""
    best = find_run(run[0])[1]
    content = torch.load(best, weights_only=True)
    assert content['message_hub']['runtime_info']['ftsgd_started_from'] == ''
    probe = {name: value + 1 for name, value in content['state_dict'].items()}
    torch.save({'state_dict': probe}, tmp_path / 'probe.pth')
    content['message_hub']['runtime_info']['ftsgd_started_from'] = str(tmp_path / 'probe.pth')
    torch.save(content, tmp_path / 'best.pth')
    pretrained, _ = ends(run, tmp_path, tmp_path / 'best.pth', load_from=str(best), resume=True)
    assert all(torch.equal(pretrained[name], value) for name, value in probe.items())


@pytest.mark.parametrize('dtype', [torch.float16, pytest.param(torch.float64, marks=pytest.mark.slow)])
def test_checkpoints_of_another_precision_are_averaged_in_float32(run, tmp_path, dtype):
    """On either side."""
    saved = torch.load(find_run(run[0])[1], weights_only=True)['state_dict']
    for name, offset in (('start', 1), ('tuned', 0)):
        torch.save({'state_dict': {k: (v + offset).to(dtype) for k, v in saved.items()}}, tmp_path / f'{name}.pth')
    for changes in (
        {'load_from': str(tmp_path / 'start.pth')},
        {'load_from': str(tmp_path / 'start.pth'), 'checkpoint': tmp_path / 'tuned.pth'},
    ):
        pretrained, tuned = ends(run, tmp_path, **changes)
        for alpha in (0, 0.3, 1):
            for name, value in interpolate(pretrained, tuned, alpha).items():
                assert value.dtype == torch.float32, name
                expected = torch.lerp(pretrained[name], tuned[name], alpha)
                torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
                torch.testing.assert_close(tuned[name], saved[name], atol=2e-2, rtol=2e-2)


def test_weights_that_training_loaded_are_the_pretrained_ones(run, tmp_path):
    cfg, checkpoint = find_run(run[0])
    cfg.model.backbone.init_cfg = None
    cfg.load_from = str(tmp_path / 'start.pth')
    saved = torch.load(checkpoint, weights_only=True)['state_dict']
    start = {name: value + 1 for name, value in saved.items() if not name.startswith('head.')}
    torch.save({'state_dict': start}, cfg.load_from)
    pretrained, _ = end_points(evaluation_runner(cfg, tmp_path), cfg, checkpoint)
    for name, value in pretrained.items():
        assert torch.equal(value, saved[name] if name.startswith('head.') else start[name]), name


def test_bad_input_gets_one_line(run, tmp_path, run_tool):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'config').mkdir()
    (tmp_path / 'config/config.py').write_text('a = 1\n')
    other = tmp_path / 'other.pth'
    torch.save({'state_dict': {'head.fc.weight': torch.zeros(3, 3)}}, other)
    for argv, said in (
        ([tmp_path / 'absent'], 'no such directory'),
        ([tmp_path / 'empty'], 'no config'),
        ([tmp_path / 'config'], 'no best_id_accuracy_*.pth or epoch_*.pth'),
        ([tmp_path / 'config', '--checkpoint', other], 'no val_dataloader'),
        ([run[0], '--checkpoint', other, '--out', tmp_path / 'out'], 'does not fit the config of the run'),
        ([run[0], '--checkpoint', tmp_path / 'absent.pth', '--out', tmp_path / 'out'], 'no such checkpoint'),
    ):
        code, err = run_tool('wise_ft', *argv)
        assert code == 2 and said in err.splitlines()[-1], (argv, err)
        assert 'Traceback' not in err
    code, err = run_tool('wise_ft', run[0], '--alphas', '1.5')
    assert code == 2 and "'1.5' is not in 0 to 1" in err
