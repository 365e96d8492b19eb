"""tools/prepare_data.py: what exists, what is missing, and what does not decode."""

import shutil
from pathlib import Path

import pytest

ROOTS = {
    'camelyon': 'camelyon_root',
    'fmow': 'fmow_root',
    'living17': 'imagenet_root',
    'domainnet': 'domainnet_root',
    'waterbirds': 'waterbirds_root',
}


@pytest.mark.parametrize('name', ROOTS)
def test_complete_directory(request, run_tool, name):
    root = request.getfixturevalue(ROOTS[name])
    code, err = run_tool('prepare_data', name, root)
    table = run_tool.stdout
    assert code == 0, err
    assert 'source:' in table and 'licence:' in table and 'on disk:' in table and f'place:   {root}' in table
    lines = [line for line in table.splitlines() if 'warning: not the published size' in line]
    assert len(lines) == {'camelyon': 4, 'fmow': 5, 'living17': 4, 'domainnet': 8, 'waterbirds': 3}[name]
    for line in lines:
        _, listed, published, found = line.split()[:4]
        assert listed == found != published


@pytest.mark.parametrize('workers', ['1', pytest.param('2', marks=pytest.mark.slow)])  # a worker imports the stack
def test_missing_and_broken_images(camelyon_root, tmp_path, run_tool, workers):
    root = Path(shutil.copytree(camelyon_root, tmp_path / 'camelyon17_v1.0'))
    images = sorted(root.glob('patches/*/*.png'))
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:100])
    before = sorted(root.rglob('*'))
    code, _ = run_tool('prepare_data', 'camelyon', root, '--scan', '--workers', workers, '--bad-list', tmp_path / 'bad')
    table = run_tool.stdout
    assert code == 1
    assert f'1 missing, e.g. {images[0]}' in table
    assert 'images cannot be used; listed in' in table
    (line,) = (tmp_path / 'bad').read_text().splitlines()
    path, reason = line.split('\t')
    assert path == str(images[1]) and reason.startswith('not a complete 8-bit image')
    assert sorted(root.rglob('*')) == before  # nothing deleted, nothing added


def test_part_of_a_benchmark(imagenet_root, tmp_path, run_tool):
    root = tmp_path / 'imagenet'
    root.mkdir()
    (root / 'val').symlink_to(imagenet_root / 'val')
    code, _ = run_tool('prepare_data', 'living17', root)
    table = run_tool.stdout
    assert code == 1
    by_split = {line.split()[0]: line for line in table.splitlines() if line[:3] in ('id_', 'ood', 'tra')}
    assert 'train: not found' in by_split['train'] and by_split['id_val'].split()[1] == '34'


def test_wrong_directory_is_one_line(camelyon_root, run_tool):
    code, err = run_tool('prepare_data', 'camelyon', camelyon_root.parent)
    assert code == 2 and f'one level too high: set it to {camelyon_root}' in err.splitlines()[-1]
