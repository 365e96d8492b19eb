"""Stopping anywhere and resuming equals not stopping, bit by bit: gradual unfreezing with dropout and augmentation."""

import functools
import itertools
import random
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from helpers.digits import load_digits_config

from ftsgd_plugin.datasets.transforms import LoadRGBImage
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import UserError

EPOCHS, PER_EPOCH, BATCH = 4, 4, 12
ITERATIONS = sorted(random.Random(0).sample([i for i in range(1, EPOCHS * PER_EPOCH) if i % PER_EPOCH], 10))
FLIP = dict(type='torchvision/RandomHorizontalFlip', p=0.5)


def make_config(digits_root: Path, work_dir: Path, workers: int = 0, **options):
    """A gradual run of 16 iterations with random flips, dropout and stochastic depth."""
    cfg = load_digits_config(digits_root, 'freeze-embed', launcher='none', work_dir=str(work_dir))
    cfg.model.backbone.update(drop_rate=0.1, drop_path_rate=0.2)
    loader = cfg.train_dataloader
    loader.update(batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)
    loader.dataset.indices = BATCH * PER_EPOCH - 5  # the last batch of an epoch is smaller
    loader.dataset.pipeline.insert(1, FLIP)
    for dataset in cfg.val_dataloader.dataset.datasets:
        dataset.indices = 24
    cfg.param_scheduler = dict(type='GradualUnfreezingLR', by_epoch=True)
    cfg.optim_wrapper.optimizer.lr = 3e-4
    cfg.train_cfg.max_epochs = EPOCHS
    cfg.default_hooks.checkpoint = dict(
        type='SafeCheckpointHook', interval=1, by_epoch=True, save_best='id/accuracy', rule='greater'
    )
    every_iteration = dict(type='SafeCheckpointHook', interval=1, by_epoch=False, save_last=False)
    cfg.custom_hooks = [every_iteration] if work_dir.name == 'straight' else []
    cfg.merge_from_dict(options)
    return cfg


def make_iteration_config(digits_root: Path, work_dir: Path, sampler: str, **options):
    """The same run for the iteration loop, 11 iterations long, with a checkpoint after each."""
    cfg = make_config(digits_root, work_dir)
    cfg.train_cfg = dict(type='ResumableIterTrainLoop', max_iters=11, val_interval=4)
    cfg.param_scheduler = dict(type='GradualUnfreezingLR', by_epoch=False)
    cfg.custom_hooks = []
    common = {'train_dataloader.sampler.type': sampler, 'default_hooks.checkpoint.by_epoch': False}
    cfg.merge_from_dict({**common, **options})
    return cfg


@pytest.fixture
def config(digits_root, tmp_path):
    """Make the config of a run in a directory of this test."""

    def make(name: str, workers: int = 0, **options):
        return make_config(digits_root, tmp_path / name, workers, **options)

    return make


class Straight(NamedTuple):
    """An uninterrupted run: its work dir, with a checkpoint after every iteration, and its outcome."""

    work_dir: Path
    outcome: dict


@pytest.fixture(scope='module')
def straight(digits_root, tmp_path_factory) -> Straight:
    """The uninterrupted run of ``config``."""
    work_dir = tmp_path_factory.mktemp('resume') / 'straight'
    return train_straight(make_config(digits_root, work_dir))


@pytest.fixture(scope='module')
def accumulating(digits_root, tmp_path_factory) -> Straight:
    """The uninterrupted run with windows of 3 iterations in epochs of 4."""
    work_dir = tmp_path_factory.mktemp('accumulating') / 'straight'
    return train_straight(make_config(digits_root, work_dir, **ACCUMULATION))


@pytest.fixture(scope='module')
def by_iterations(digits_root, tmp_path_factory):
    """The uninterrupted run of the iteration loop with a sampler, trained once per sampler."""

    @functools.cache
    def train(sampler: str) -> Straight:
        work_dir = tmp_path_factory.mktemp(sampler) / 'straight'
        return train_straight(make_iteration_config(digits_root, work_dir, sampler))

    return train


ACCUMULATION = {'optim_wrapper.accumulative_counts': 3}


def train_straight(cfg) -> Straight:
    runner = build_runner(cfg)
    runner.train()
    return Straight(Path(cfg.work_dir), outcome(runner))


def outcome(runner) -> dict:
    """All that must be equal: weights, optimizer, schedule, and every logged loss and metric."""
    workers = runner.train_dataloader._iterator
    if workers is not None:  # left to the garbage collector, each waits for its time-out of 5 s
        workers._shutdown_workers()
    hub = runner.message_hub
    logged = {
        key: buffer.data[0].tolist()
        for key, buffer in hub.log_scalars.items()
        if not key.endswith('time') and 'memory' not in key
    }
    return {
        'weights': {key: value.clone() for key, value in runner.model.state_dict().items()},
        'optimizer': runner.optim_wrapper.state_dict(),
        'schedule': [scheduler.state_dict() for scheduler in runner.param_schedulers],
        'logged': logged,
        'best': hub.get_info('best_score') if 'best_score' in hub.runtime_info else None,
        'position': (runner.epoch, runner.iter),
    }


def assert_equal(found, expected, where: str = '') -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_equal(found[key], expected[key], f'{where}/{key}')
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected)):
            assert_equal(one, other, f'{where}/{i}')
    else:
        assert found == expected, where


def assert_resuming_equals(straight: Straight, cfg) -> None:
    """Train by a config that resumes, and compare with the uninterrupted run."""
    resumed = build_runner(cfg)
    resumed.train()
    assert_equal(outcome(resumed), straight.outcome)


def test_the_uninterrupted_run_is_complete(straight):
    assert len(straight.outcome['logged']['train/loss']) == EPOCHS * PER_EPOCH
    assert len(straight.outcome['logged']['val/id/accuracy']) == EPOCHS


def test_workers_change_nothing(straight, config):
    assert_resuming_equals(straight, config('by_workers', workers=2))


def with_slow(every, fast) -> list:
    """Parameters of which all but the fast ones are marked slow."""
    return [pytest.param(*values, marks=() if values in fast else pytest.mark.slow) for values in every]


FILES = [f'epoch_{epoch}.pth' for epoch in range(1, EPOCHS)] + [f'iter_{i}.pth' for i in ITERATIONS]
FAST_FILE = f'iter_{ITERATIONS[len(ITERATIONS) // 2]}.pth'


@pytest.mark.parametrize(
    'file, workers',
    with_slow(itertools.product(FILES, (0, 2)), list(itertools.product(('epoch_2.pth', FAST_FILE), (0, 2)))),
)
def test_resuming_equals_not_stopping(straight, config, file, workers):
    """At the end of an epoch and within one, with and without workers; slow: at every epoch and at ten iterations."""
    path = str(straight.work_dir / file)
    assert_resuming_equals(straight, config('resumed', workers, resume=True, load_from=path))


def test_the_run_is_random_enough_to_notice(config):
    """Another seed gives other losses from the first step on, so that equality above means something."""
    options = {'train_cfg.max_epochs': 1}
    runs = [build_runner(config(f'seed{seed}', **{'randomness.seed': seed}, **options)) for seed in (0, 1)]
    for runner in runs:
        runner.train()
    first, second = (outcome(runner) for runner in runs)
    assert all(a != b for a, b in zip(first['logged']['train/loss'], second['logged']['train/loss']))
    assert first['weights']['backbone.cls_token'].ne(second['weights']['backbone.cls_token']).any()


SAMPLERS = ('DefaultSampler', 'InfiniteSampler')


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_iteration_loop_validates_by_its_interval_and_at_the_end(by_iterations, sampler):
    outcome = by_iterations(sampler).outcome
    assert outcome['position'][1] == 11 and len(outcome['logged']['val/id/accuracy']) == 3  # after 4, 8 and 11


@pytest.mark.parametrize(
    'sampler, iteration',
    with_slow(
        itertools.product(SAMPLERS, (1, 6, 8)), [('DefaultSampler', 6), ('DefaultSampler', 8), ('InfiniteSampler', 6)]
    ),
)
def test_iteration_loop_resumes_anywhere(by_iterations, digits_root, tmp_path, sampler, iteration):
    straight = by_iterations(sampler)
    options = dict(resume=True, load_from=str(straight.work_dir / f'iter_{iteration}.pth'))
    assert_resuming_equals(straight, make_iteration_config(digits_root, tmp_path / 'resumed', sampler, **options))


@pytest.mark.parametrize('loop', ['epoch', 'iter'])
def test_resuming_at_iteration_10000_decodes_no_earlier_image(straight, config, tmp_path, loop):
    checkpoint = torch.load(straight.work_dir / 'iter_1.pth', weights_only=True)
    epoch, done = divmod(10_000, PER_EPOCH)
    checkpoint['meta'].update(iter=10_000 + 1, epoch=epoch)
    assert done == 0
    checkpoint['param_schedulers'] = []
    torch.save(checkpoint, tmp_path / 'late.pth')
    cfg = config('late', resume=True, load_from=str(tmp_path / 'late.pth'))
    cfg.param_scheduler, cfg.val_cfg, cfg.val_dataloader, cfg.val_evaluator = [], None, None, None
    cfg.default_hooks.checkpoint = None
    cfg.train_cfg.max_epochs = epoch + 1
    if loop == 'iter':
        checkpoint['message_hub']['runtime_info']['ftsgd_geometry']['epoch_length'] = None
        torch.save(checkpoint, tmp_path / 'late.pth')
        cfg.train_cfg = dict(type='ResumableIterTrainLoop', max_iters=10_004)
    with mock.patch.object(LoadRGBImage, 'transform', autospec=True, side_effect=LoadRGBImage.transform) as decode:
        build_runner(cfg).train()
    assert decode.call_count == BATCH * 2 + BATCH - 5


def resume_with_batch(config, path: Path, batch: int, **options):
    cfg = config('changed', resume=True, load_from=str(path), **options)
    cfg.train_dataloader.batch_size = batch
    return build_runner(cfg)


def test_another_global_batch_is_exact_by_epochs_and_refused_by_iterations(straight, config, tmp_path):
    """As with another number of processes."""
    resumed = resume_with_batch(config, straight.work_dir / 'epoch_2.pth', 6)
    resumed.train()
    length = len(resumed.train_dataloader)
    assert (resumed.epoch, resumed.iter) == (EPOCHS, EPOCHS * length) and length == 8
    assert resumed.optim_wrapper.get_lr()['lr'][0] == pytest.approx(3e-4, rel=1e-12)
    assert resumed.param_schedulers[0].open_blocks == 6
    message = (
        r'the checkpoint was written with 12 samples per iteration, this run has 6; set '
        r'train_dataloader\.batch_size so that batch_size x processes is the same'
    )
    with pytest.raises(UserError, match=message + ', or resume from a checkpoint at the end of an epoch'):
        resume_with_batch(config, straight.work_dir / 'iter_6.pth', 6).train()

    by_iteration = {'param_scheduler.convert_to_iter_based': True}
    build_runner(config('converted', **by_iteration, **{'train_cfg.max_epochs': 1})).train()
    with pytest.raises(UserError, match=message + ', as GradualUnfreezingLR counts iterations'):
        resume_with_batch(config, tmp_path / 'converted/epoch_1.pth', 6, **by_iteration).train()


def test_missed_validation_is_made_up_for(straight, config, tmp_path):
    """Killed between saving and validating: the resumed run validates that epoch first."""
    stopped = build_runner(config('stopped'))
    with (
        mock.patch.object(type(stopped.val_loop), 'run', side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        stopped.train()
    assert (tmp_path / 'stopped/epoch_1.pth').is_file()
    assert_resuming_equals(straight, config('stopped', resume=True))


def test_checkpoint_of_another_loop_at_a_position_that_does_not_exist_is_refused(config, tmp_path):
    """MMEngine's own loop leaves no batch size in its checkpoints."""
    cfg = config('straight', **{'train_dataloader.batch_size': 3})
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
    build_runner(cfg).train()
    options = {'resume': True, 'load_from': str(tmp_path / 'straight/epoch_1.pth'), 'train_cfg.max_epochs': 1}
    resumed = build_runner(config('other', **options))
    with pytest.raises(UserError, match='resume: iteration 15 is not in epoch 2 of this run, which has 4 iterations'):
        resumed.train()


def test_an_epochs_last_iteration_is_validated_once(config, tmp_path):
    """A checkpoint by iterations that coincides with the end of an epoch, written again after its validation."""
    by_iteration = {'default_hooks.checkpoint.by_epoch': False, 'train_cfg.max_epochs': 2}
    straight = build_runner(config('straight', **by_iteration))
    straight.train()
    path = str(tmp_path / f'straight/iter_{PER_EPOCH}.pth')
    resumed = build_runner(config('other', resume=True, load_from=path, **by_iteration))
    resumed.train()
    assert_equal(outcome(resumed), outcome(straight))


def test_seeds_that_differ_by_rank_are_refused(config):
    with pytest.raises(UserError, match=r'randomness\.diff_rank_seed: with this loop'):
        build_runner(config('straight', **{'randomness.diff_rank_seed': True})).train()


def test_a_random_seed_is_restored(config, tmp_path):
    """Without a seed in the config the first run draws one; the resumed run must continue with it, not draw another."""
    options = {'randomness.seed': None, 'train_cfg.max_epochs': 2}
    straight = build_runner(config('straight', **options))
    straight.train()
    path = str(tmp_path / 'straight/iter_6.pth')
    resumed = build_runner(config('other', resume=True, load_from=path, **options))
    resumed.train()
    assert_equal(outcome(resumed), outcome(straight))


def test_checkpoints_are_taken_at_update_boundaries(accumulating):
    """An epoch's checkpoint waits for the update that straddles its end."""
    for epoch in range(1, EPOCHS):
        meta = torch.load(accumulating.work_dir / f'epoch_{epoch}.pth', weights_only=True)['meta']
        assert meta['iter'] == -(-epoch * PER_EPOCH // 3) * 3 and meta['epoch'] == epoch


@pytest.mark.parametrize('epoch', [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_resuming_at_an_update_boundary_equals_not_stopping(accumulating, config, epoch):
    """Within an epoch (1 and 2) and at its end (3)."""
    path = str(accumulating.work_dir / f'epoch_{epoch}.pth')
    assert_resuming_equals(accumulating, config('resumed', resume=True, load_from=path, **ACCUMULATION))
