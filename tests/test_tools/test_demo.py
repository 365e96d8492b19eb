"""The embedded default: what the generator writes, that nothing leaks from pretraining, and the demo itself."""

import csv
import hashlib
import json
import sys
from collections import Counter

import numpy as np
import pytest
from helpers import ROOT, run_process
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
    """SHA-256 over the decoded pictures in the order of metadata.csv."""
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
    """The README's numbers belong to these pictures; whoever changes them raises ``VERSION`` and measures again."""
    assert hashlib.sha256((digits_root / 'metadata.csv').read_bytes()).hexdigest() == METADATA_SHA256
    assert pixels(digits_root) == PIXELS_SHA256


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


def test_pictures_are_rgb_and_not_blank(digits_root):
    for row in rows(digits_root)[::200]:
        picture = np.asarray(Image.open(digits_root / row['img_filename']))
        assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8 and picture.std() > 5


def test_existing_benchmark_is_left_and_foreign_folder_refused(tmp_path):
    path = digits.write_benchmark(tmp_path / 'digits')
    before = path.stat().st_mtime_ns
    assert digits.write_benchmark(tmp_path / 'digits') == path and path.stat().st_mtime_ns == before
    (tmp_path / 'birds').mkdir()
    (tmp_path / 'birds/metadata.csv').write_text('precious')
    with pytest.raises(UserError, match='birds: is not the digits of seed 0; remove it or name a new folder'):
        digits.write_benchmark(tmp_path / 'birds')
    assert (tmp_path / 'birds/metadata.csv').read_text() == 'precious'
    with pytest.raises(UserError, match='is not the digits of seed 1'):
        digits.write_benchmark(tmp_path / 'digits', seed=1)


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(digits.csv, 'writer', lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        digits.write_benchmark(tmp_path / 'digits')
    assert list(tmp_path.iterdir()) == []


def run_demo(*argv):
    """In a process of its own: its workers import it."""
    return run_process(sys.executable, ROOT / 'tools/demo.py', *argv, cwd=ROOT)


def test_demo_writes_summary_and_picture(digits_root, tmp_path):
    """A cut-down demo: one method, one seed; three runs in two processes."""
    result = run_demo(
        '--data', digits_root, '--out', tmp_path, '--methods', 'freeze-embed', '--seeds', '0', '--epochs', '2'
    )
    assert result.returncode == 0, result.stderr
    assert '[ 3/3] vit-tiny_freeze-embed_digits_lr' in result.stdout and 'eta 0:00' in result.stdout
    (line,) = json.loads((tmp_path / 'summary.json').read_text())
    assert line['method'] == 'freeze-embed' and len(line['lrs']) == 3 and line['seeds'] == [0]
    for key in ('id', 'ood', 'ood_worst'):
        mean, error = line[key]
        assert 0 <= mean <= 1 and error is None
    assert line['state_bytes_per_param'] == pytest.approx(4 * 301_314 / 313_666)
    assert Image.open(tmp_path / 'demo.png').size[0] > 1000
    for page in ('diagnosis/diagnosis.html', 'resources/resources.png', 'report.html'):
        assert (tmp_path / page).stat().st_size > 10_000
    assert len(list((tmp_path / 'runs').glob('vit-tiny_freeze-embed_digits_lr*_seed0'))) == 3
    assert [len(run['epochs']) for run in json.loads((tmp_path / 'records.json').read_text())] == [2, 2, 2]


@pytest.mark.parametrize('option', ['--workers', '--epochs'])
@pytest.mark.parametrize('value', ['0', '-1', 'x'])
def test_count_that_is_none_is_a_usage_error(run_tool, tmp_path, option, value):
    code, err = run_tool('demo', option, value, '--out', tmp_path / 'out')
    assert code == 2 and err.startswith('usage: demo.py')
    assert err.splitlines()[-1] == f"demo.py: error: argument {option}: '{value}' is not a positive whole number"
    assert not (tmp_path / 'out').exists()


def test_file_in_the_place_of_the_results_is_one_line_and_stays(run_tool, tmp_path):
    (tmp_path / 'notes').write_text('precious')
    for out, message in (('notes', 'File exists'), ('notes/demo', 'Not a directory')):
        code, err = run_tool('demo', '--out', tmp_path / out)
        assert (code, err) == (2, f'error: {tmp_path / out}: {message}; correct the path or its permissions.\n')
    assert (tmp_path / 'notes').read_text() == 'precious'


def test_failing_run_is_one_line(digits_root, tmp_path):
    broken = tmp_path / 'digits'
    broken.mkdir()
    for name in ('metadata.csv', 'README.txt'):
        (broken / name).write_bytes((digits_root / name).read_bytes())
    result = run_demo('--data', broken, '--out', tmp_path / 'out', '--methods', 'sgd', '--seeds', '0')
    assert result.returncode == 2
    assert 'image not found' in result.stderr and 'its log is in' in result.stderr.splitlines()[-1]
    assert not (tmp_path / 'out/summary.json').exists()


def test_pretraining_script_runs(tmp_path, run_tool):
    code, err = run_tool('maintain/pretrain_vit_tiny', '--steps', '2', '--out', tmp_path / 'tiny.safetensors')
    assert code == 0, err
    shipped = ROOT / 'ftsgd_plugin/models/weights/vit-tiny.safetensors'
    assert abs((tmp_path / 'tiny.safetensors').stat().st_size - shipped.stat().st_size) < 100
    assert shipped.stat().st_size < 3e6
