"""Stopping anywhere and resuming equals not stopping, bit by bit: gradual unfreezing with dropout and augmentation."""

import itertools
import pickle
import random
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, DefaultSampler, RepeatDataset

from ftsgd_plugin.datasets.transforms import LoadRGBImage
from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.runner.sampling import SeededFetch, SeededIndex, make_reproducible, seed_step
from ftsgd_plugin.utils.errors import UserError

EPOCHS, PER_EPOCH, BATCH = 4, 4, 12
ITERATIONS = sorted(random.Random(0).sample([i for i in range(1, EPOCHS * PER_EPOCH) if i % PER_EPOCH], 10))
FLIP = dict(type='torchvision/RandomHorizontalFlip', p=0.5)


@pytest.fixture
def config(digits_config, tmp_path):
    """A gradual run of 16 iterations with random flips, dropout and stochastic depth."""

    def load(folder: str, workers: int = 0, **options):
        cfg = digits_config('freeze-embed', launcher='none', work_dir=str(tmp_path / folder))
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
        cfg.custom_hooks = [every_iteration] if folder == 'straight' else []
        cfg.merge_from_dict(options)
        return cfg

    return load


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


def test_resuming_at_every_epoch_and_at_ten_iterations(config, tmp_path):
    """With 0 and with 2 workers, whose numbers are the same."""
    straight = build_runner(config('straight'))
    straight.train()
    expected = outcome(straight)
    assert len(expected['logged']['train/loss']) == EPOCHS * PER_EPOCH
    assert len(expected['logged']['val/id/accuracy']) == EPOCHS
    by_workers = build_runner(config('by_workers', workers=2))
    by_workers.train()
    assert_equal(outcome(by_workers), expected)
    files = [f'epoch_{epoch}.pth' for epoch in range(1, EPOCHS)] + [f'iter_{i}.pth' for i in ITERATIONS]
    for file, workers in itertools.product(files, (0, 2)):
        path = str(tmp_path / 'straight' / file)
        resumed = build_runner(config(f'{workers}_{file}', workers, resume=True, load_from=path))
        resumed.train()
        assert_equal(outcome(resumed), expected, f'{file}, {workers} workers')


def test_the_run_is_random_enough_to_notice(config):
    """Another seed gives other losses from the first step on, so that equality above means something."""
    options = {'train_cfg.max_epochs': 1}
    runs = [build_runner(config(f'seed{seed}', **{'randomness.seed': seed}, **options)) for seed in (0, 1)]
    for runner in runs:
        runner.train()
    first, second = (outcome(runner) for runner in runs)
    assert all(a != b for a, b in zip(first['logged']['train/loss'], second['logged']['train/loss']))
    assert first['weights']['backbone.cls_token'].ne(second['weights']['backbone.cls_token']).any()


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_iteration_loop_resumes_anywhere(config, tmp_path, sampler):
    options = {
        'train_cfg': dict(type='ResumableIterTrainLoop', max_iters=11, val_interval=4),
        'train_dataloader.sampler.type': sampler,
        'param_scheduler': dict(type='GradualUnfreezingLR', by_epoch=False),
        'default_hooks.checkpoint.by_epoch': False,
    }

    def load(folder, **more):
        cfg = config(folder)
        cfg.train_cfg, cfg.param_scheduler = options['train_cfg'], options['param_scheduler']
        cfg.custom_hooks = []
        cfg.merge_from_dict({key: value for key, value in {**options, **more}.items() if '.' in key or key in more})
        return cfg

    straight = build_runner(load('straight'))
    straight.train()
    expected = outcome(straight)
    assert straight.iter == 11 and len(expected['logged']['val/id/accuracy']) == 3  # after 4, 8 and 11
    for iteration in (1, 6, 8):
        path = str(tmp_path / f'straight/iter_{iteration}.pth')
        resumed = build_runner(load(f'resumed_{iteration}', resume=True, load_from=path))
        resumed.train()
        assert_equal(outcome(resumed), expected, f'iter {iteration}')


@pytest.mark.parametrize('loop', ['epoch', 'iter'])
def test_resuming_at_iteration_10000_decodes_no_earlier_image(config, tmp_path, loop):
    first = config('straight', **{'train_cfg.max_epochs': 1})
    build_runner(first).train()
    checkpoint = torch.load(tmp_path / 'straight/iter_1.pth', weights_only=True)
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


def resume_with_batch(config, tmp_path, file: str, batch: int, **options):
    cfg = config('changed', resume=True, load_from=str(tmp_path / 'straight' / file), **options)
    cfg.train_dataloader.batch_size = batch
    return build_runner(cfg)


def test_another_global_batch_is_exact_by_epochs_and_refused_by_iterations(config, tmp_path):
    """What a changed number of processes comes down to."""
    build_runner(config('straight')).train()
    resumed = resume_with_batch(config, tmp_path, 'epoch_2.pth', 6)
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
        resume_with_batch(config, tmp_path, 'iter_6.pth', 6).train()

    cfg = config('straight', **{'param_scheduler.convert_to_iter_based': True})
    build_runner(cfg).train()
    with pytest.raises(UserError, match=message + ', as GradualUnfreezingLR counts iterations'):
        resume_with_batch(config, tmp_path, 'epoch_2.pth', 6, **{'param_scheduler.convert_to_iter_based': True}).train()


def test_validation_that_was_missed_is_made_up_for(config, tmp_path):
    """Killed between saving and validating: the resumed run validates that epoch first."""
    straight = build_runner(config('straight'))
    straight.train()
    stopped = build_runner(config('stopped'))
    with (
        mock.patch.object(type(stopped.val_loop), 'run', side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        stopped.train()
    assert (tmp_path / 'stopped/epoch_1.pth').is_file()
    resumed = build_runner(config('stopped', resume=True))
    resumed.train()
    assert_equal(outcome(resumed), outcome(straight))


def test_checkpoint_of_another_loop_at_a_position_that_does_not_exist_is_refused(config, tmp_path):
    """MMEngine's own loop leaves no batch size in its checkpoints."""
    cfg = config('straight', **{'train_dataloader.batch_size': 3})
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1)
    build_runner(cfg).train()
    resumed = build_runner(config('other', resume=True, load_from=str(tmp_path / 'straight/epoch_1.pth')))
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
    """Without a seed in the config the first run draws one; the resumed run must go on with it, not draw another."""
    options = {'randomness.seed': None, 'train_cfg.max_epochs': 2}
    straight = build_runner(config('straight', **options))
    straight.train()
    path = str(tmp_path / 'straight/iter_6.pth')
    resumed = build_runner(config('other', resume=True, load_from=path, **options))
    resumed.train()
    assert_equal(outcome(resumed), outcome(straight))


def test_checkpoints_are_taken_at_update_boundaries(config, tmp_path):
    """Windows of 3 iterations in epochs of 4: an epoch's checkpoint waits for the update that straddles its end."""
    straight = build_runner(config('straight', **{'optim_wrapper.accumulative_counts': 3}))
    straight.train()
    expected = outcome(straight)
    for epoch in range(1, EPOCHS):
        file = tmp_path / f'straight/epoch_{epoch}.pth'
        meta = torch.load(file, weights_only=True)['meta']
        assert meta['iter'] == -(-epoch * PER_EPOCH // 3) * 3 and meta['epoch'] == epoch
        resumed = build_runner(
            config(f'r{epoch}', resume=True, load_from=str(file), **{'optim_wrapper.accumulative_counts': 3})
        )
        resumed.train()
        assert_equal(outcome(resumed), expected, file.name)


class Draws:
    """A dataset whose samples are what the three generators draw."""

    metainfo = {}

    def __init__(self, size=4):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(1).item()

    def get_cat_ids(self, index):
        return [0] if index else [1]

    def full_init(self):
        pass


def test_a_sample_draws_by_seed_epoch_and_index_whatever_came_before():
    fetch = SeededFetch(Draws())
    first = fetch([SeededIndex(2, seed=3, epoch=5)])
    torch.rand(7), np.random.rand(7), random.random()
    index = pickle.loads(pickle.dumps(SeededIndex(2, seed=3, epoch=5)))  # on its way to a worker
    assert fetch([index, SeededIndex(1, 3, 5)])[0] == first[0]
    assert type(first[0][0]) is int
    others = fetch([SeededIndex(1, 3, 5), SeededIndex(2, 4, 5), SeededIndex(2, 3, 6)])
    for column in (1, 2, 3):
        assert len({first[0][column], *(sample[column] for sample in others)}) == 4


@pytest.mark.parametrize(
    'wrap',
    [
        lambda: RepeatDataset(Draws(), times=3),
        lambda: ClassBalancedDataset(Draws(), oversample_thr=0.9),
        lambda: ConcatDataset([Draws(), Draws()]),
    ],
    ids=['repeat', 'balanced', 'concat'],
)
def test_wrapper_datasets_are_seeded_by_the_outer_index(wrap):
    """Repetitions of a picture within an epoch differ, and every draw can be repeated."""
    with mock.patch('mmengine.dataset.dataset_wrapper.BaseDataset', Draws):
        dataset = wrap()
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, sampler=DefaultSampler(dataset, shuffle=True, seed=0))
    sampler = make_reproducible(loader, 1)
    assert make_reproducible(loader, 1) is sampler
    passes = []
    for epoch in (0, 0, 1):
        sampler.go_to(0, epoch, 0)
        passes.append([value for batch in loader for value in batch[3].tolist()])
    assert passes[0] == passes[1] != passes[2]
    assert len(set(passes[0])) == len(dataset) > 4


def test_sampler_without_set_epoch_is_refused():
    loader = torch.utils.data.DataLoader(list(range(8)), batch_size=2, shuffle=True)
    with pytest.raises(UserError, match=r'train_dataloader\.sampler: RandomSampler has no set_epoch'):
        make_reproducible(loader, 1)


def test_step_randomness_differs_by_seed_rank_and_iteration():
    drawn = set()
    for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        seed_step(*key)
        drawn.add((random.random(), np.random.rand(), torch.rand(1).item()))
    seed_step(0, 0, 0)
    assert len(drawn) == 4 and (random.random(), np.random.rand(), torch.rand(1).item()) in drawn
