"""What prepare_data.py own finds: unreadable files, duplicates across splits, label errors, separated patients."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import own_images as own
from helpers import trees
from PIL import Image
from skimage import data

from ftsgd_plugin.datasets.duplicates import Look, _close, near_pairs, phash
from ftsgd_plugin.datasets.layouts import recognise
from ftsgd_plugin.datasets.own_findings import find


@pytest.fixture(scope='module')
def animals(tmp_path_factory) -> Path:
    """Two classes in two splits, without a fault."""
    root, seed = tmp_path_factory.mktemp('check') / 'animals', 0
    for split in ('train', 'val'):
        for name in ('cat', '<i>dog'):
            for i in range(4):
                trees.write_image(root / split / name / f'{i}.png', (64, 48), seed)
                seed += 1
    return root


def test_clean_data(animals, tmp_path, run_tool):
    code, err = run_tool('prepare_data', 'own', animals, '--workers', '1', '--page', tmp_path / 'page.html',
                         '--bad-list', tmp_path / 'bad.txt')  # fmt: skip
    assert code == 0, err
    assert '16 images of 2 classes' in run_tool.stdout and 'all 16 images can be decoded' in run_tool.stdout
    assert 'no duplicates and no label errors found' in run_tool.stdout
    assert not (tmp_path / 'bad.txt').exists()
    page = (tmp_path / 'page.html').read_text()
    assert page.count('data:image/png;base64,') == 16 and 'No problem was found' in page
    assert '&lt;i&gt;dog' in page and '<i>dog' not in page  # names are never markup


@pytest.mark.parametrize('workers', ['1', pytest.param('2', marks=pytest.mark.slow)])  # a worker imports the stack
def test_every_kind_of_fault(animals, tmp_path, run_tool, workers):
    root = Path(shutil.copytree(animals, tmp_path / 'animals'))
    shutil.copy(root / 'train/cat/0.png', root / 'val/cat/copy.png')
    Image.open(root / 'train/cat/1.png').resize((60, 45)).save(root / 'val/cat/smaller.jpg', quality=80)
    shutil.copy(root / 'train/cat/2.png', root / 'train/<i>dog/mislabelled.png')
    (root / 'train/cat/broken.png').write_bytes(b'no image')
    shutil.copy(root / 'train/cat/3.png', os.fsencode(root) + b'/val/cat/na\xefve.png')  # a name that is not UTF-8
    (root / 'val/cat/moving.gif').write_bytes(b'GIF89a')
    trees.write_image(root / 'val/Cat/0.png', (64, 48), 90)
    before = sorted(root.rglob('*'))
    code, err = run_tool('prepare_data', 'own', root, '--workers', workers, '--page', tmp_path / 'page.html',
                         '--bad-list', tmp_path / 'bad.txt')  # fmt: skip
    printed = run_tool.stdout
    assert code == 1, err
    assert (tmp_path / 'bad.txt').read_text().startswith(f'{root}/train/cat/broken.png\tnot a complete 8-bit image')
    for line in (
        'not read: 1 .gif',
        '1 of 22 images cannot be used; listed in',
        '  train: train/cat/0.png (cat) = val: val/cat/copy.png (cat)',
        r'  train: train/cat/3.png (cat) = val: val/cat/na\udcefve.png (cat)',
        '  train: train/cat/1.png (cat) = val: val/cat/smaller.jpg (cat)',
        '  train: train/<i>dog/mislabelled.png (<i>dog) = train: train/cat/2.png (cat)',
        "  'Cat' and 'cat'",
        f"PROBLEM: {root}/val/Cat/0.png: class 'Cat' has 1 image",
    ):
        assert line in printed, printed
    assert sorted(root.rglob('*')) == before
    assert 'Images of different splits that look the same: 1' in (tmp_path / 'page.html').read_text()


def test_separated_patients(tmp_path):
    rows = own.rows()
    own.write_images(tmp_path, [path for path, *_ in rows])
    own.write_table(tmp_path / 'train.csv', rows[1:])
    own.write_table(tmp_path / 'test.csv', rows[:1])
    layout = recognise(tmp_path, columns=dict(metadata=['patient']), val=0)
    assert find(layout, [Look('left out')] * len(rows)).separated == [('patient', 'north-cat-0')]


def test_options_of_own_data(animals, tmp_path, run_tool):
    code, err = run_tool('prepare_data', 'own', tmp_path)
    assert code == 2 and 'holds no image' in err.splitlines()[-1]
    code, err = run_tool('prepare_data', 'camelyon', tmp_path, '--hold-out', 'sketch')
    assert code == 2 and '--hold-out is of own data' in err
    code, err = run_tool('prepare_data', 'own', animals, '--column', 'label')
    assert code == 2 and "--column: 'label' is not NAME=VALUE" in err
    code, err = run_tool('prepare_data', 'own', animals, '--page', tmp_path / 'none/page.html')
    assert code == 2 and 'none/page.html: its directory does not exist' in err


@pytest.mark.parametrize('photo, expected', [
    ('astronaut', 'c2924c5532bddfc8'), ('coffee', 'bb8320376c0f3637'), ('camera', 'bff1c1c0434e8cbc'),
])  # fmt: skip
def test_phash_is_that_of_imagehash(photo, expected):
    """Printed by ``imagehash.phash`` 4.3.2 for these photographs."""
    grey = (
        Image.fromarray(getattr(data, photo)()).convert('RGB').convert('L').resize((32, 32), Image.Resampling.LANCZOS)
    )
    assert f'{phash(np.asarray(grey)):016x}' == expected


def test_close_hashes_are_those_of_all_pairs():
    rng = np.random.RandomState(0)
    values = rng.randint(0, 2**63, 300).astype(np.uint64)
    noisy = values[:150] ^ np.uint64(1) << rng.randint(0, 64, 150).astype(np.uint64)
    for shift in (3, 17, 40, 63):
        noisy = np.r_[noisy, values[:40] ^ np.uint64(1) << np.uint64(shift) ^ np.uint64(0b1011)]
    values = np.unique(np.r_[values, noisy])
    distance = [[bin(int(a) ^ int(b)).count('1') for b in values] for a in values]
    expected = {(i, j) for i in range(len(values)) for j in range(i + 1, len(values)) if distance[i][j] <= 4}
    assert len(expected) > 150 and set(_close(values)) == expected


def test_blank_images_do_not_take_a_million_comparisons():
    looks = [Look(None, bytes([i % 256, i // 256]), 0, bytes(256)) for i in range(4000)]
    assert len(near_pairs(looks, np.arange(4000) % 2)) == 20 * 20
