"""The image cache is built once, by one process at a time, and never read half-built."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cached_images import (
    INPUTS,
    JITTER,
    LOAD,
    OWN,
    PACK,
    RESIZE,
    assert_same_samples,
    logged,
    own,
    uses_cache,
)
from helpers.full_disk import full_disk
from PIL import Image

from ftsgd_plugin.datasets import GroupedImages, image_cache_build
from ftsgd_plugin.datasets.image_cache import PIXELS, plan_cache
from ftsgd_plugin.datasets.image_cache_build import cache_key
from ftsgd_plugin.utils import locks
from ftsgd_plugin.utils.errors import UserError


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
