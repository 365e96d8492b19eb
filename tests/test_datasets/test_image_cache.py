"""The image cache: the same samples bit for bit, refused in one line."""

import copy as copying
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.cached_images import (
    FLIP,
    INPUTS,
    JITTER,
    LOAD,
    PACK,
    RESIZE,
    assert_same_samples,
    draw,
    logged,
    own,
    pair,
    uses_cache,
)
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmpretrain.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from ftsgd_plugin.datasets import GroupedImages, image_cache_build
from ftsgd_plugin.datasets.image_cache import plan_cache
from ftsgd_plugin.runner.image_cache import hand_on_image_cache
from ftsgd_plugin.runner.sampling import make_reproducible
from ftsgd_plugin.utils.errors import UserError

ROOTS = dict(
    waterbirds='waterbirds_root',
    domainnet='domainnet_root',
    fmow='fmow_root',
    camelyon='camelyon_root',
    living17='imagenet_root',
    digits='digits_root',
)


@pytest.mark.parametrize('name', ROOTS)
def test_every_split_has_the_same_pixels_and_draws(request, name, tmp_path, log):
    """With the pipelines of the configs, augmentation included; ``meta_keys`` of a training as PackInputs has them."""
    cfg = Config.fromfile(ROOT / f'configs/_base_/datasets/{name}.py')
    train, evaluated = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset.datasets[0]
    kind = DATASETS.get(f'mmpretrain.{train.type}')
    for split in kind.SPLITS:
        for form in (train, evaluated):
            root = str(request.getfixturevalue(ROOTS[name]))
            plain, cached = pair({**form, 'data_root': root, 'split': split, 'indices': 3}, tmp_path)
            assert_same_samples(plain, cached)
            whole_image = name == 'living17' and form is train  # what is random there needs it
            assert uses_cache(cached) is not whole_image
    assert 'images x' in logged(log) and 'B in ' in logged(log) and 'are free' in logged(log)


@pytest.mark.parametrize('steps', [
    [LOAD, RESIZE, JITTER, FLIP, PACK, INPUTS],
    [LOAD, RESIZE, dict(FLIP, type='mmpretrain.torchvision/RandomVerticalFlip'), PACK, INPUTS],
    [LOAD, RESIZE, dict(type='mmpretrain.torchvision/RandomCrop', size=8, padding=2), PACK, INPUTS],
    [LOAD, RESIZE, dict(type='mmpretrain.torchvision/RandomCrop', size=(8, 9)), FLIP, PACK, INPUTS],
    [LOAD, RESIZE, dict(type='mmpretrain.torchvision/Pad', padding=3), INPUTS],
    [dict(LOAD, draft=16), RESIZE, PACK, INPUTS],
], ids=['jitter', 'vertical', 'padded crop', 'crop and flip', 'image', 'draft'])  # fmt: skip
def test_other_pipelines_too(own_root, tmp_path, steps):
    own = dict(type='GroupedImages', data_root=str(own_root), tree='domain/class', draw=dict(val=0.2))
    plain, cached = pair({**own, 'split': 'train', 'pipeline': steps}, tmp_path)
    assert uses_cache(cached)
    assert_same_samples(plain, cached)
    assert plan_cache(steps).packed is (steps[2] is not JITTER and 'padding' not in steps[2])


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_of_a_training_are_the_same_with_and_without_workers(own_root, tmp_path, workers):
    found = []
    for place in (False, tmp_path):
        dataset = own(own_root, place)
        order = DefaultSampler(dataset, shuffle=True, seed=0)
        loader = DataLoader(dataset, 8, num_workers=workers, collate_fn=list, sampler=order)
        sampler = make_reproducible(loader, 1)
        batches = []
        for epoch in range(2):
            sampler.go_to(3, epoch, 0)
            batches += [torch.stack([one['inputs'] for one in batch]) for batch in loader]
        found.append(torch.cat(batches))
    assert torch.equal(*found)
    assert not torch.equal(found[0][:32].sort(0)[0], found[0][32:].sort(0)[0])  # the epochs were augmented differently


def test_a_run_has_the_same_losses_and_hash(digits_config, tmp_path):
    from ftsgd_plugin.records import config_hash
    from ftsgd_plugin.runner.build import build_runner

    weights, hashes = [], []
    for place in (False, str(tmp_path / 'cache')):
        options = {'image_cache': place, 'train_cfg.max_epochs': 1, 'launcher': 'none'}
        cfg = digits_config('freeze-embed', 48, **options, work_dir=str(tmp_path / f'run{bool(place)}'))
        hashes.append(config_hash(cfg))
        runner = build_runner(cfg)
        runner.train()
        weights.append(runner.model.state_dict())
        hashes.append(config_hash(runner.cfg))
        assert uses_cache(runner.train_dataloader.dataset) is bool(place)
        assert uses_cache(runner.val_dataloader.dataset.datasets[1]) is bool(place)
    assert len(set(hashes)) == 1
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_bad_images_are_named_or_skipped_as_without(own_root, tmp_path):
    root = Path(shutil.copytree(own_root, tmp_path / 'own'))
    paths = [own(root).get_data_info(i)['img_path'] for i in (0, 5)]
    Path(paths[0]).write_bytes(b'no image')
    Path(paths[1]).write_bytes(Path(paths[1]).read_bytes()[:200])
    messages = []
    for place in (False, tmp_path / 'cache'):
        with pytest.raises(UserError) as error:
            own(root, place)[5]
        messages.append(str(error.value))
    assert messages[0] == messages[1] and paths[1] in messages[0]
    found = []
    for place in (False, tmp_path / 'cache'):
        np.random.seed(0)
        dataset = own(root, place, on_bad_image='skip')
        found.append([draw(dataset, i) for i in range(8)])
        assert dataset.bad_images == paths
    for one, other in zip(*found):
        assert torch.equal(one['inputs'], other['inputs'])
        assert one['data_samples'].img_path == other['data_samples'].img_path


def test_images_of_several_shapes_are_refused_in_one_line_and_read_from_their_files(
    waterbirds_root, tmp_path, log, monkeypatch
):
    steps = [LOAD, dict(RESIZE, size=16), PACK, INPUTS]
    settings = dict(type='Waterbirds', data_root=str(waterbirds_root), split='val', pipeline=steps)
    plain, cached = pair(settings, tmp_path)
    assert_same_samples(plain, cached)
    (message,) = [record.getMessage() for record in log.records if 'read without it' in record.getMessage()]
    assert message.startswith('image cache: Waterbirds val is read without it: after its first steps /')
    assert 'CenterCrop' in message and '\n' not in message
    assert not list(tmp_path.glob('**/*.npy'))
    monkeypatch.setattr(image_cache_build, '_build', None)  # found once, it is not looked for again
    assert not uses_cache(pair(settings, tmp_path)[1])
    assert logged(log).count('is read without it') == 2


def test_a_pipeline_with_nothing_to_keep_is_said(own_root, tmp_path, log):
    for steps in ([dict(type='mmpretrain.LoadImageFromFile'), INPUTS], [LOAD, JITTER, PACK, INPUTS]):
        assert not uses_cache(own(own_root, tmp_path, pipeline=steps))
    assert logged(log).count('is read from its files') == 2 and not list(tmp_path.iterdir())


def test_copies_and_subsets_share_the_map(own_root, tmp_path):
    plain, cached = own(own_root), own(own_root, tmp_path)
    assert len(pickle.dumps(cached)) < len(pickle.dumps(plain)) + 4000  # 32 x 10 x 12 x 3 bytes are 11,520
    assert_same_samples(plain, pickle.loads(pickle.dumps(cached)))
    assert_same_samples(plain, copying.deepcopy(cached))
    order = [7, 3, 30]
    assert_same_samples(plain.get_subset(order), cached.get_subset(order))  # rows have other numbers in it
    sample = cached[0]['inputs'].clone()
    cached[0]['inputs'].zero_()
    assert torch.equal(draw(cached, 0)['inputs'], draw(plain, 0)['inputs']) and sample.any()


def test_it_is_faster_than_decoding(tmp_path):
    """Loosely, for a busy machine; ``benchmarks/data.py --only cache`` measures."""
    for name in 'ab':
        (tmp_path / 'own/train' / name).mkdir(parents=True)
        for i in range(2):
            Image.effect_noise((400, 300), 60).convert('RGB').save(tmp_path / f'own/train/{name}/{i}.jpg')
    steps = [LOAD, dict(RESIZE, size=(224, 224)), FLIP, PACK, INPUTS]
    seconds = []
    for place in (False, str(tmp_path / 'cache')):
        dataset = GroupedImages(str(tmp_path / 'own'), 'train', tree='split/class', pipeline=steps, image_cache=place)
        rounds = []
        for _ in range(4):
            start = time.process_time()
            for i in range(4):
                dataset[i]
            rounds.append(time.process_time() - start)
        seconds.append(min(rounds))
    assert seconds[1] * 3 < seconds[0]


@pytest.mark.parametrize('value', [3, ['a'], 1.5])
def test_other_values_are_one_line(own_root, value):
    with pytest.raises(UserError, match=r'image_cache=.* is neither True nor a directory'):
        GroupedImages(str(own_root), 'train', tree='domain/class', image_cache=value)
    with pytest.raises(UserError, match=r'image_cache=.* is neither True nor a directory'):
        hand_on_image_cache(dict(image_cache=value))


def test_one_key_serves_every_data_set_that_can(tmp_path, monkeypatch):
    cfg = Config.fromfile(ROOT / 'configs/vit-tiny_sgd_digits.py')
    assert hand_on_image_cache(cfg) == [] and 'image_cache' not in cfg.train_dataloader.dataset
    cfg.image_cache = True
    cfg.train_dataloader.dataset.image_cache = False  # its own wins
    cfg.val_dataloader.dataset.datasets[0] = dict(type='CustomDataset', data_root='x', pipeline=[])
    (warning,) = hand_on_image_cache(cfg)
    assert warning == 'image cache: val_dataloader: CustomDataset has none; its images are read from their files'
    assert cfg.train_dataloader.dataset.image_cache is False
    assert cfg.val_dataloader.dataset.datasets[1].image_cache is True
    assert 'image_cache' not in cfg.val_dataloader.dataset.datasets[0]
