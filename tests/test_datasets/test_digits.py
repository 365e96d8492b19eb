"""The digits of the demo: what the generator writes, and that nothing leaks from pretraining."""

import csv
import hashlib
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ftsgd_plugin.datasets import digits
from ftsgd_plugin.utils.errors import UserError

# Of seed 0 (Pillow 12.0.0).
METADATA_SHA256 = '43f2647aaab6d720afc7a44ec1225e20964eb93710ad582d10306e46529d44a2'
PIXELS_SHA256 = '6be6431155dc17c913c0f1370c9d9d027ec401d50b7bf77b540f6b9e37e8d5b6'


def rows(root) -> list[dict]:
    with open(root / 'metadata.csv', newline='') as file:
        return list(csv.DictReader(file))


def pixels(root) -> str:
    """SHA-256 over the decoded images in the order of metadata.csv."""
    total = hashlib.sha256()
    for row in rows(root):
        total.update(np.asarray(Image.open(root / row['img_filename'])).tobytes())
    return total.hexdigest()


def digest(root) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob('*') if path.is_file()):
        total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return total.hexdigest()


def test_benchmark_is_that_of_the_published_demo(digits_root):
    """The README's numbers belong to these images; whoever changes them raises ``VERSION`` and measures again."""
    assert hashlib.sha256((digits_root / 'metadata.csv').read_bytes()).hexdigest() == METADATA_SHA256
    assert pixels(digits_root) == PIXELS_SHA256


@pytest.mark.slow  # the golden losses depend on the same bytes
def test_same_seed_same_bytes_other_seed_other_bytes(digits_root, tmp_path):
    digits.write_benchmark(tmp_path / 'again')
    digits.write_benchmark(tmp_path / 'other', seed=1)
    assert digest(tmp_path / 'again') == digest(digits_root)
    assert digest(tmp_path / 'other') != digest(digits_root)


def test_training_is_correlated_and_the_test_balanced(digits_root):
    count = Counter((row['split'], row['y'] == row['place']) for row in rows(digits_root))
    for split in ('0', '1'):
        assert 0.92 < count[split, True] / (count[split, True] + count[split, False]) < 0.98
    assert count['2', True] == count['2', False] == 397
    assert Counter(row['split'] for row in rows(digits_root)) == {'0': 800, '1': 400, '2': 794}


def test_no_digit_is_in_two_splits_or_in_pretraining(digits_root):
    split_of = {}
    for row in rows(digits_root):
        index = int(row['img_filename'].split('/')[1].split('_')[0])
        assert split_of.setdefault(index, row['split']) == row['split']
        assert digits.PRETRAIN_DIGITS <= index < 1797
    assert not set(digits.PLACES) & set(digits.PRETRAIN_PHOTOS)


def test_labels_are_the_digits_halves(digits_root):
    _, labels = digits.load_digits()
    for row in rows(digits_root)[::50]:
        index = int(row['img_filename'].split('/')[1].split('_')[0])
        assert int(row['y']) == int(labels[index] >= 5)


def test_images_are_rgb_and_not_blank(digits_root):
    for row in rows(digits_root)[::200]:
        image = np.asarray(Image.open(digits_root / row['img_filename']))
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8 and image.std() > 5


def test_existing_benchmark_is_left_and_foreign_directory_refused(tmp_path):
    path = digits.write_benchmark(tmp_path / 'digits')
    before = path.stat().st_mtime_ns
    assert digits.write_benchmark(tmp_path / 'digits') == path and path.stat().st_mtime_ns == before
    (tmp_path / 'birds').mkdir()
    (tmp_path / 'birds/metadata.csv').write_text('precious')
    with pytest.raises(UserError, match='birds: does not hold the digits of seed 0; remove it or name a new directory'):
        digits.write_benchmark(tmp_path / 'birds')
    assert (tmp_path / 'birds/metadata.csv').read_text() == 'precious'
    with pytest.raises(UserError, match='does not hold the digits of seed 1'):
        digits.write_benchmark(tmp_path / 'digits', seed=1)


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(digits.csv, 'writer', lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        digits.write_benchmark(tmp_path / 'digits')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['sklearn', 'skimage'])
def test_a_missing_package_of_the_demo_is_one_line_and_nothing_is_left(run_tool, tmp_path, monkeypatch, name):
    for module in [module for module in sys.modules if module.split('.')[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    code, err = run_tool('make_digits', tmp_path / 'digits')
    assert code == 2 and err.startswith(f'error: {name}: cannot be imported') and err.count('\n') == 1
    assert "pip install 'ftsgd_plugin[demo]'" in err and list(tmp_path.iterdir()) == []
