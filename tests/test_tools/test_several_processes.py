"""Training in 2 and 4 processes on the CPU: the numbers of one process, and one line for bad input."""

import pytest
import torch
from helpers import ROOT, free_port, run_process
from helpers.demo_run import CONFIG, scalars, write_child
from helpers.small_runs import without_yapf

pytestmark = pytest.mark.multiprocess


SMALL = (  # neither 2 nor 4 ranks divide the images, and the last batches are smaller than the others
    '--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=185',
    'val_dataloader.dataset.datasets.0.indices=98', 'val_dataloader.dataset.datasets.1.indices=99',
)  # fmt: skip
SHARDED = 'model_wrapper_cfg.type=ShardedDataParallel'
SLOW = pytest.mark.slow


@pytest.fixture(scope='module')
def one_of(project, run_forked):
    """The work dir of one process that trains on the images of so many ranks: ``one_of(ranks)``."""
    directories = {}

    def of(ranks: int):
        if ranks not in directories:
            config = write_child(
                project,
                f'as_{ranks}.py',
                "custom_imports = dict(imports=['ftsgd_plugin', 'helpers.padded_sampler'])\n"
                f"train_dataloader = dict(sampler=dict(type='PaddedSampler', ranks={ranks}))",
            )
            result = run_forked('tools/train.py', config, '--work-dir', f'one_{ranks}', *SMALL, cwd=project)
            assert result.returncode == 0, result.stderr
            directories[ranks] = project / f'one_{ranks}'
        return directories[ranks]

    return of


@pytest.mark.parametrize(
    'processes, launcher, options',
    [
        pytest.param(2, False, [], id='2 ranks'),
        pytest.param(4, False, [], id='4 ranks', marks=SLOW),
        pytest.param(4, False, [SHARDED], id='4 ranks, sharded', marks=SLOW),
        # cold interpreters; test_launchers.py has the script's own logic
        *(pytest.param(n, True, [], id=f'dist_train.sh {n}', marks=SLOW) for n in (1, 2, 4)),
    ],
)
def test_several_processes_give_the_weights_of_one(one_of, project, run_ranks, tmp_path, processes, launcher, options):
    """On the CPU with a share of the batch per rank, against one process; the launcher starts cold."""
    one, work_dir = one_of(processes), f'{processes}_{launcher}_{len(options)}'
    words = ['--work-dir', work_dir, *SMALL, f'train_dataloader.batch_size={32 // processes}', *options]
    if launcher:
        result = run_process(
            'bash', ROOT / 'tools/dist_train.sh', CONFIG, processes, *words, cwd=project, PORT=free_port(),
            PYTHONPATH=without_yapf(tmp_path),
        )  # fmt: skip
    else:
        result = run_ranks(processes, 'tools/train.py', CONFIG, *words, cwd=project)
    assert result.returncode == 0, result.stderr
    several = project / work_dir
    expected, found = (torch.load(run / 'epoch_1.pth', weights_only=True)['state_dict'] for run in (one, several))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    expected, found = (next(line for line in scalars(run) if 'id/accuracy' in line) for run in (one, several))
    keys = [key for key in expected if '/' in key]
    assert len(keys) > 4
    for key in keys:
        assert found[key] == pytest.approx(expected[key], abs=0.02), key


@pytest.mark.parametrize(
    'option, message',
    [
        ('train_dataloader.dataset.data_root=nowhere', 'nowhere/metadata.csv: not found'),  # once the ranks have met
        ('load_from=absent.pth', 'absent.pth: no such checkpoint'),  # before
    ],
)
@pytest.mark.parametrize('count', [2, pytest.param(4, marks=SLOW)])
def test_bad_input_of_several_processes_is_one_line(project, run_ranks, option, message, count):
    result = run_ranks(count, 'tools/train.py', CONFIG, '--work-dir', 'bad', '--cfg-options', option, cwd=project)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith('error: ')] == [lines[-1]]
    assert message in lines[-1] and 'Traceback' not in result.stderr


@pytest.mark.parametrize(
    'count, rank, options',
    [
        pytest.param(2, 1, [], id='1 of 2'),
        *(pytest.param(4, rank, [], id=f'{rank} of 4', marks=SLOW) for rank in (0, 2)),
        *(pytest.param(n, n - 1, [SHARDED], id=f'{n - 1} of {n}, sharded', marks=SLOW) for n in (2, 4)),
    ],
)
def test_missing_image_on_one_of_several_processes_is_one_line(
    project, run_ranks, digits_root, count, rank, options, tmp_path
):
    """The other ranks wait in a collective and lose their peer; the user gets the first error only."""
    rows = (digits_root / 'metadata.csv').read_text().splitlines()
    training = [row for row in rows[1:] if row.split(',')[1].startswith('train/')][:64]
    (tmp_path / 'metadata.csv').write_text('\n'.join([rows[0], *training]))
    missing = training[rank].split(',')[1]  # the first image of this rank in the unshuffled split
    for row in training:
        if (name := row.split(',')[1]) != missing:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).symlink_to(digits_root / name)
    result = run_ranks(
        count, 'tools/train.py', CONFIG, '--work-dir', 'one_bad', '--cfg-options',
        f'train_dataloader.dataset.data_root={tmp_path}', 'train_dataloader.sampler.shuffle=False', *options,
        cwd=project,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and missing in lines[0] and 'image not found' in lines[0]
    assert 'Traceback' not in result.stderr


@pytest.mark.slow
def test_two_processes_resume_within_an_epoch_that_one_has_begun(project, run_forked, run_ranks):
    """SGD in backward under a schedule of iterations: allowed, as the global batch is the same."""
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
    result = run_forked('tools/train.py', config, '--work-dir', 'in_backward_one', cwd=project)
    assert result.returncode == 0, result.stderr
    result = run_ranks(
        2, 'tools/train.py', config, '--work-dir', 'in_backward_two', '--resume', 'in_backward_one/iter_4.pth',
        '--cfg-options', 'train_dataloader.batch_size=16', cwd=project,
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
