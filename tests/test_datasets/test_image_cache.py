"""The image cache: the same samples bit for bit, built once, never read half-built, refused in one line."""

import copy as copying
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.full_disk import full_disk
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from ftsgd_plugin.datasets import GroupedImages, image_cache_build
from ftsgd_plugin.datasets.image_cache import PIXELS, CachedImage, plan_cache
from ftsgd_plugin.datasets.image_cache_build import cache_key
from ftsgd_plugin.runner.image_cache import hand_on_image_cache
from ftsgd_plugin.runner.sampling import make_reproducible
from ftsgd_plugin.utils import locks
from ftsgd_plugin.utils.errors import UserError

ROOTS = dict(
    waterbirds='waterbirds_root',
    domainnet='domainnet_root',
    fmow='fmow_root',
    camelyon='camelyon_root',
    living17='imagenet_root',
    digits='digits_root',
)
LOAD, PACK = dict(type='mmpretrain.LoadRGBImage'), dict(type='mmpretrain.PackRGB')
RESIZE = dict(type='mmpretrain.torchvision/Resize', size=(12, 10), interpolation='bicubic')
FLIP = dict(type='mmpretrain.torchvision/RandomHorizontalFlip', p=0.5)
JITTER = dict(type='mmpretrain.torchvision/ColorJitter', brightness=0.5)
INPUTS = dict(type='mmpretrain.PackInputs')
OWN = [LOAD, RESIZE, FLIP, PACK, INPUTS]


def pair(settings: dict, place: Path):
    """A data set without and with the cache."""
    settings = {'_scope_': 'mmpretrain', **settings}
    return DATASETS.build(settings), DATASETS.build({**settings, 'image_cache': str(place)})


def uses_cache(dataset) -> bool:
    return isinstance(dataset.pipeline.transforms[0], CachedImage)


def draw(dataset, index: int):
    torch.manual_seed(index)
    return dataset[index]


def assert_same_samples(plain, cached) -> None:
    assert len(plain) == len(cached) > 0
    for i in range(len(plain)):
        expected, found = draw(plain, i), draw(cached, i)
        assert found['inputs'].dtype == torch.uint8 and torch.equal(expected['inputs'], found['inputs'])
        assert found['inputs'].stride() == expected['inputs'].stride()
        one, other = (sample['data_samples'] for sample in (expected, found))
        assert one.to_dict().keys() == other.to_dict().keys() and one.metainfo == other.metainfo
        assert torch.equal(one.gt_label, other.gt_label)


def logged(caplog) -> str:
    return '\n'.join(record.getMessage() for record in caplog.records)


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


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


def own(root: Path, place=False, **options) -> GroupedImages:
    options = {'split': 'train', 'pipeline': OWN, **options}
    return GroupedImages(
        str(root), tree='domain/class', draw=dict(val=0.2), image_cache=place and str(place), **options
    )


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_of_a_training_are_the_same_with_and_without_workers(own_root, tmp_path, workers):
    found = []
    for place in (False, tmp_path):
        loader = DataLoader(own(own_root, place), 8, num_workers=workers, collate_fn=list, sampler=_Shuffled(32))
        sampler = make_reproducible(loader, 1)
        batches = []
        for epoch in range(2):
            sampler.go_to(3, epoch, 0)
            batches += [torch.stack([one['inputs'] for one in batch]) for batch in loader]
        found.append(torch.cat(batches))
    assert torch.equal(*found)
    assert not torch.equal(found[0][:32].sort(0)[0], found[0][32:].sort(0)[0])  # the epochs were augmented differently


class _Shuffled(torch.utils.data.Sampler):
    def __init__(self, size: int) -> None:
        self.size, self.seed, self.epoch = size, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self):
        return iter(np.random.RandomState((self.seed + self.epoch) % 2**32).permutation(self.size).tolist())


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


def test_it_is_built_once_and_draws_no_random_number(own_root, tmp_path, monkeypatch):
    before = torch.get_rng_state()
    first = own(own_root, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(image_cache_build, '_build', None)
    again = own(own_root, tmp_path)
    assert uses_cache(again)
    assert_same_samples(first, again)
    with pytest.raises(TypeError):  # other files, so another cache
        own(own_root, tmp_path, split='val')


def test_processes_decode_many_images(own_root, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache_build, '_FEW', 1)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 1})
    before = torch.get_rng_state()
    cached = own(own_root, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_samples(own(own_root), cached)


def test_the_key_follows_files_steps_and_versions(own_root, tmp_path, monkeypatch):
    root = Path(shutil.copytree(own_root, tmp_path / 'own'))
    paths = sorted(map(str, root.rglob('*.png')))
    plan = plan_cache(OWN)
    keys = [cache_key(paths, plan), cache_key(paths[1:], plan), cache_key(paths[::-1], plan)]
    keys.append(cache_key(paths, plan_cache([LOAD, dict(RESIZE, size=(12, 11)), PACK, INPUTS])))
    keys.append(cache_key(paths, plan_cache([dict(LOAD, draft=16), *OWN[1:]])))
    keys.append(cache_key(paths, plan_cache([LOAD, RESIZE, JITTER, PACK, INPUTS])))
    os.utime(paths[0], ns=(0, 1))
    keys.append(cache_key(paths, plan))
    with open(paths[0], 'ab') as file:
        file.write(b' ')
    os.utime(paths[0], ns=(0, 1))
    keys.append(cache_key(paths, plan))
    os.unlink(paths[0])
    keys.append(cache_key(paths, plan))
    monkeypatch.setattr(image_cache_build.PIL, '__version__', '0')
    keys.append(cache_key(paths, plan))
    assert len(set(keys)) == len(keys)
    # What comes after the stored steps does not matter: a training and its evaluation share.
    assert cache_key(paths, plan) == cache_key(paths, plan_cache([LOAD, RESIZE, PACK, INPUTS]))


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


def test_two_that_build_at_once_build_one(own_root, tmp_path, monkeypatch, log):
    builds, build = [], image_cache_build._build
    started = threading.Event()

    def slow(*args):
        builds.append(args)
        started.set()
        threading.Event().wait(0.3)  # the other one meets the lock
        build(*args)

    monkeypatch.setattr(image_cache_build, '_build', slow)
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: own(own_root, tmp_path)})) for i in range(2)]
    threads[0].start()
    started.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1 and all(map(uses_cache, found.values()))
    assert 'waiting for the process that builds' in logged(log)
    assert_same_samples(found[0], found[1])


@pytest.mark.filterwarnings('ignore:This process')
def test_two_that_build_at_once_where_locks_do_not_work(own_root, tmp_path, monkeypatch):
    """The second to finish leaves the first one's cache in its place."""
    for module in (locks, image_cache_build):
        monkeypatch.setattr(module, 'try_lock', lambda descriptor: None)
    context = multiprocessing.get_context('fork')
    both = context.Barrier(2)
    decode = image_cache_build._write_pixels

    def together(*args):
        both.wait(20)
        return decode(*args)

    monkeypatch.setattr(image_cache_build, '_write_pixels', together)
    children = [context.Process(target=own, args=(own_root, tmp_path)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0]
    monkeypatch.setattr(image_cache_build, '_build', None)
    assert_same_samples(own(own_root), own(own_root, tmp_path))
    assert len([path for path in tmp_path.iterdir() if path.suffix != '.lock']) == 1


@pytest.mark.filterwarnings('ignore:This process')
def test_what_a_killed_build_leaves_is_neither_read_nor_kept(own_root, tmp_path):
    def build_and_die():
        write = image_cache_build._write_pixels

        def killed(*args):
            write(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        image_cache_build._write_pixels = killed
        own(own_root, tmp_path)

    child = multiprocessing.get_context('fork').Process(target=build_and_die)
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    (left,) = tmp_path.glob('.*.tmp')
    assert (left / PIXELS).is_file()
    cached = own(own_root, tmp_path)
    assert uses_cache(cached) and not left.exists()
    assert_same_samples(own(own_root), cached)


def test_a_full_disk_is_one_line_and_leaves_nothing(own_root, tmp_path, monkeypatch):
    with full_disk(PIXELS) as hit, pytest.raises(UserError, match=r'cannot be written .No space left on device.; make'):
        own(own_root, tmp_path)
    assert hit and not list(tmp_path.glob('**/*.npy'))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(image_cache_build.shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    with pytest.raises(UserError) as error:
        own(own_root, tmp_path)
    assert 'needs 32 images x 12 x 10 x 3 = 11.2 KiB' in str(error.value) and '1000 B left' in str(error.value)
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'file/.*choose another directory: image_cache=DIR'):
        own(own_root, tmp_path / 'file')


def test_a_damaged_cache_is_one_line(own_root, tmp_path):
    own(own_root, tmp_path)
    (pixels,) = tmp_path.glob(f'*/{PIXELS}')
    about = json.loads((pixels.parent / 'about.json').read_text())
    assert about['count'] == 32 and about['shape'] == [3, 12, 10] and about['bytes'] == 32 * 3 * 12 * 10
    whole = pixels.read_bytes()
    pixels.write_bytes(whole[:5000])
    with pytest.raises(UserError, match=r'is damaged .*; remove this directory'):
        own(own_root, tmp_path)
    (pixels.parent / 'about.json').unlink()  # something else of its name
    with pytest.raises(UserError, match=r'is not the image cache of its name .*; remove this directory'):
        own(own_root, tmp_path)


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


def test_true_is_the_directory_of_caches(own_root, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    options = dict(tree='domain/class', draw=dict(val=0.2), pipeline=OWN)
    assert uses_cache(GroupedImages(str(own_root), 'train', **options, image_cache=True))
    (found,) = (tmp_path / 'ftsgd_plugin/images').glob('GroupedImages-train-*')
    assert (found / PIXELS).is_file()


def test_images_inside_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip('datasets')
    images = [Image.fromarray(np.random.RandomState(i).randint(0, 256, (9, 8, 3), np.uint8)) for i in range(8)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['cat', 'dog']))
    saved = datasets.Dataset.from_dict({'image': images, 'label': [0, 1] * 4}, features=features)
    saved.save_to_disk(str(tmp_path / 'saved'))
    options = dict(table='.', columns=dict(path='image', label='label'), draw=dict(val=0.25), split='train')
    found = [
        GroupedImages(str(tmp_path / 'saved'), **options, pipeline=OWN, image_cache=place)
        for place in (False, str(tmp_path / 'cache'))
    ]
    assert uses_cache(found[1])
    assert_same_samples(*found)
    state = tmp_path / 'saved/state.json'
    key = cache_key([str(tmp_path / 'saved/image/0000000')], plan_cache(OWN))
    os.utime(state, ns=(0, 1))
    image_cache_build._saved_stamp.cache_clear()
    assert cache_key([str(tmp_path / 'saved/image/0000000')], plan_cache(OWN)) != key
