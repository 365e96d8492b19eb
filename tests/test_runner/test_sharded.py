"""``tools/train.py`` with ``ShardedDataParallel``: checkpoints, logs and records of one process, resumed elsewhere."""

import csv
import json
import shutil

import pytest
import torch
from helpers import ROOT
from helpers.demo_run import CONFIG, scalars
from helpers.ranks import run_two_ranks
from helpers.sharded_trainings import DIGITS, PARTS, train, train_sharded
from mmengine.config import Config
from safetensors.torch import load_file

from ftsgd_plugin.checkpoint.io import check_readable, checkpoint_to_resume, read_content
from ftsgd_plugin.checkpoint.parts import directories_of
from ftsgd_plugin.profiling.sharded import plan_sharded
from ftsgd_plugin.utils.errors import UserError

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


@pytest.fixture(scope='module')
def two(tmp_path_factory, digits_root):
    directory = tmp_path_factory.mktemp('sharded')
    (directory / DIGITS).write_text(str(digits_root))
    run_two_ranks(train_sharded, directory)
    return directory


@pytest.fixture(scope='module')
def one(tmp_path_factory, digits_root):
    directory = tmp_path_factory.mktemp('whole')
    train(digits_root, directory / 'run', None)
    return directory


def assert_same_checkpoints(found, expected, exact: bool = False, **tolerance):
    assert found['state_dict'].keys() == expected['state_dict'].keys()
    for name, value in expected['state_dict'].items():
        assert type(found['state_dict'][name]) is torch.Tensor
        torch.testing.assert_close(found['state_dict'][name], value, msg=name, **tolerance)
    state, wanted = found['optimizer']['state'], expected['optimizer']['state']
    assert state.keys() == wanted.keys()
    for index, values in wanted.items():
        for key, value in values.items():
            loose = dict(rtol=0, atol=0) if exact else dict(rtol=1e-2, atol=1e-4)
            torch.testing.assert_close(state[index][key], value, msg=f'{index} {key}', **loose)
    assert found['param_schedulers'] == expected['param_schedulers']


def test_two_ranks_write_the_checkpoint_of_one_process(one, two):
    """Of whole tensors; the first step of AdamW makes rounding noise visible, so the tolerance is a share of it."""
    for epoch in (1, 2):
        found, expected = (
            torch.load(directory / f'run/epoch_{epoch}.pth', weights_only=True) for directory in (two, one)
        )
        assert_same_checkpoints(found, expected, rtol=1e-3, atol=2e-5)
        assert found['meta']['iter'] == expected['meta']['iter'] == 2 * epoch
    frozen = [name for name in found['state_dict'] if 'patch_embed' in name]
    start = torch.load(one / 'run/epoch_1.pth', weights_only=True)['state_dict']
    assert frozen and all(torch.equal(found['state_dict'][name], start[name]) for name in frozen)


def test_ranks_hold_parts_and_the_log_is_that_of_one_process(one, two):
    first, second = (torch.load(two / f'{rank}.pt', weights_only=True) for rank in range(2))
    whole = torch.load(one / 'run/epoch_1.pth', weights_only=True)['state_dict']
    for name, shape in first.items():
        assert shape[0] + second[name][0] == whole[name].shape[0] and shape[1:] == second[name][1:]
    for found, expected in zip(scalars(two / 'run'), scalars(one / 'run'), strict=True):  # the losses are rank 0's
        for key in set(expected) & {'grad_norm', 'grad/middle', 'id/accuracy'}:
            assert found[key] == pytest.approx(expected[key], rel=2e-3), key
    rows, expected_rows = (list(csv.DictReader(next(d.glob('run/*/layer_grad_norms.csv')).open())) for d in (two, one))
    for row, expected in zip(rows, expected_rows, strict=True):
        assert row['layer'] == expected['layer']
        assert float(row['norm']) == pytest.approx(float(expected['norm']), rel=2e-2, abs=1e-6)
    found, expected = (json.loads(next(d.glob('run/*/resources.json')).read_text())['phases'][0] for d in (two, one))
    for what in ('weights', 'gradients', 'state'):
        assert found[what] == pytest.approx(expected[what] / 2, rel=0.05), what
    assert found['trained_parameters'] == expected['trained_parameters']
    cfg = Config.fromfile(ROOT / 'configs/vit-tiny_adamw-freeze-embed_digits.py')
    (plan,) = plan_sharded(cfg, 2, ['adamw-freeze-embed'], batch_size=32, device='cpu')
    for what in ('weights', 'gradients', 'state'):
        assert found[what] == pytest.approx(getattr(plan.phases[0], what), rel=0.05), what


@pytest.mark.parametrize('kind', PARTS)
def test_checkpoints_in_parts_have_the_content_of_whole_ones(two, kind, tmp_path):
    """Also the one before the last, in ``previous``; a file alone is small, and every rank has written its parts."""
    for name in ('epoch_2.pth', 'previous/epoch_1.pth'):
        file = two / kind / name
        assert_same_checkpoints(
            read_content(str(file)), read_content(str(two / 'run' / file.name)), rtol=0, atol=0, exact=True
        )
        (directory,) = directories_of(file)
        assert len(list(directory.glob('shard-*.safetensors'))) == 2
        assert file.stat().st_size < 0.2 * (two / 'run' / file.name).stat().st_size
    left = [path.name for path in (two / kind).iterdir() if path.name.startswith('.') or path.suffix == '.parts']
    assert len(left) == 2  # the last one and the best one
    assert checkpoint_to_resume(str(two / kind)) == str(two / kind / 'epoch_2.pth')


def test_a_damaged_or_missing_part_is_found(two, tmp_path):
    run = shutil.copytree(two / 'parts', tmp_path / 'run')
    (run / 'last_checkpoint').write_text(str(run / 'epoch_2.pth'))
    (directory,) = directories_of(run / 'epoch_2.pth')
    part = next(directory.glob('*.safetensors'))
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(UserError, match=r'the checksum of its part .* is not that of its content'):
        read_content(str(run / 'epoch_2.pth'))
    assert checkpoint_to_resume(str(run)) == str(run / 'previous/epoch_1.pth')
    shutil.rmtree(directory)
    with pytest.raises(UserError, match=r'the directory epoch_2\.\d+\.\d+\.parts with its parts is missing'):
        check_readable(str(run / 'epoch_2.pth'))


def test_background_writing_takes_copies_first(two):
    assert all(torch.load(two / f'copied_{rank}.pt', weights_only=True) for rank in range(2))


SMALL = (
    '--cfg-options', 'train_cfg.max_epochs=3', 'train_dataloader.dataset.indices=96',
    'val_dataloader.dataset.datasets.0.indices=26', 'val_dataloader.dataset.datasets.1.indices=26',
    'default_hooks.checkpoint.max_keep_ckpts=-1',
)  # fmt: skip
SHARDED = 'model_wrapper_cfg.type=ShardedDataParallel'


@pytest.mark.parametrize('kind', ['whole', *PARTS])
def test_a_run_goes_on_with_four_ranks_and_then_one(make_project, run_forked, run_ranks, kind):
    """2 -> 4 -> 1; the last is not sharded."""
    project = make_project(f'resume_{kind}')
    sharded = (SHARDED, f'model_wrapper_cfg.checkpoints={kind}')

    def batch(ranks: int) -> str:
        return f'train_dataloader.batch_size={32 // ranks}'

    for result in (
        run_forked('tools/train.py', CONFIG, '--work-dir', 'one', *SMALL, cwd=project),
        run_ranks(2, 'tools/train.py', CONFIG, '--work-dir', 'two', *SMALL, batch(2), *sharded, cwd=project),
        run_ranks(
            4, 'tools/train.py', CONFIG, '--work-dir', 'four', '--resume', 'two/epoch_1.pth', *SMALL, batch(4),
            *sharded, cwd=project,
        ),
        run_forked('tools/train.py', CONFIG, '--work-dir', 'end', '--resume', 'four/epoch_2.pth', *SMALL, cwd=project),
    ):  # fmt: skip
        assert result.returncode == 0, result.stderr
    expected = torch.load(project / 'one/epoch_3.pth', weights_only=True)
    for name in ('two', 'four', 'end'):
        found = read_content(str(project / name / 'epoch_3.pth'))
        assert_same_checkpoints(found, expected, rtol=1e-3, atol=1e-5)
    result = run_ranks(2, 'tools/test.py', CONFIG, 'two/epoch_3.pth', '--cfg-options', SHARDED, cwd=project)
    assert result.returncode == 0, result.stderr
    result = run_forked('tools/export.py', 'two/epoch_3.pth', '--to', 'timm', '--out', 'timm', cwd=project)
    assert result.returncode == 0, result.stderr
    exported = load_file(project / 'timm/model.safetensors')
    trained = read_content(str(project / 'two/epoch_3.pth'))['state_dict']
    ((name, value),) = ((key, value) for key, value in exported.items() if key.endswith('blocks.0.attn.qkv.weight'))
    assert torch.equal(value, trained[f'backbone.{name.replace("blocks", "layers")}'])


@pytest.mark.parametrize(
    'options, message',
    [
        (['optim_wrapper.clip_grad.max_norm=1', 'optim_wrapper.clip_grad.norm_type=1'], 'clip_grad.norm_type=1: torch'),
        (['compile=True'], 'cannot be combined with compile'),
        (['val_dataloader.sampler.round_up=False'], 'val_dataloader: the ranks have 25 to 26 batches'),
        (['model_wrapper_cfg.cpu_ofload=True'], 'cpu_ofload'),
    ],
)
def test_what_does_not_work_sharded_is_one_line_at_the_start(project_of_refusals, run_ranks, options, message):
    result = run_ranks(
        2, 'tools/train.py', CONFIG, '--work-dir', 'refused', *SMALL, 'val_dataloader.batch_size=1',
        'val_dataloader.dataset.datasets.1.indices=25', SHARDED, *options, cwd=project_of_refusals,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    (line,) = {line for line in result.stderr.splitlines() if line.startswith('error: ')}
    assert message in line


@pytest.fixture(scope='module')
def project_of_refusals(make_project):
    return make_project('refusals')
