"""The Waterbirds reader against wilds on the same directory, and its errors for malformed directories."""

import csv
import shutil
from pathlib import Path

import pytest
from helpers.reading import PIPELINE
from mmpretrain.registry import DATASETS

from ftsgd_plugin.datasets import Waterbirds
from ftsgd_plugin.evaluation.wilds import load_wilds
from ftsgd_plugin.utils.errors import UserError


@pytest.fixture
def root(digits_root, tmp_path) -> Path:
    """A copy of the digits that a test may damage."""
    shutil.copytree(digits_root, tmp_path / 'digits')
    return tmp_path / 'digits'


def edit(root: Path, change) -> None:
    """Apply ``change(header, rows)`` to metadata.csv."""
    path = root / 'metadata.csv'
    with open(path, newline='') as file:
        header, *rows = csv.reader(file)
    change(header, rows)
    with open(path, 'w', newline='') as file:
        csv.writer(file).writerows([header, *rows])


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_records_equal_those_of_wilds(wilds, root, split):
    root = root.rename(root.parent / 'waterbirds_v1.0')
    (root / 'RELEASE_v1.0.txt').touch()
    oracle = load_wilds('waterbirds', str(root))
    subset = oracle.get_subset(split)
    ours = Waterbirds(data_root=str(root), split=split)
    assert len(ours) == len(subset) > 0
    paths = [str(root / oracle._input_array[i]) for i in subset.indices]
    records = [ours.get_data_info(i) for i in range(len(ours))]
    assert [record['img_path'] for record in records] == paths
    assert [record['gt_label'] for record in records] == subset.y_array.tolist()
    assert [record['place'] for record in records] == subset.metadata_array[:, 0].tolist()
    assert {record['split'] for record in records} == {split}


def test_groups_join_label_and_place(digits_root):
    dataset = DATASETS.build(dict(type='mmpretrain.Waterbirds', data_root=str(digits_root), split='test'))
    assert dataset.metainfo['classes'] == ('landbird', 'waterbird')
    for record in (dataset.get_data_info(i) for i in range(len(dataset))):
        kind, place = ('landbird', 'waterbird')[record['gt_label']], ('land', 'water')[record['place']]
        assert record['group'] == f'{kind}_{place}'


def test_names_of_classes_and_places_can_be_set(digits_root):
    names = dict(classes=('low', 'high'), places=('grass', 'gravel'))
    dataset = Waterbirds(data_root=str(digits_root), split='test', metainfo=names)
    groups = {dataset.get_data_info(i)['group'] for i in range(len(dataset))}
    assert groups == {'low_grass', 'low_gravel', 'high_grass', 'high_gravel'}


def test_lazy_init_and_indices(digits_root):
    dataset = Waterbirds(data_root=str(digits_root), split='train', lazy_init=True, indices=5)
    assert not dataset._fully_initialized
    assert len(dataset) == 5


def test_sample_carries_split_and_group(digits_root):
    sample = Waterbirds(data_root=str(digits_root), split='val', pipeline=PIPELINE)[0]
    assert sample['inputs'].shape == (3, 32, 32)
    assert sample['data_samples'].split == 'val'
    assert sample['data_samples'].group.count('_') == 1


def test_missing_metadata_names_the_file_and_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r'metadata\.csv: not found; set data_root .* python tools/make_digits\.py'):
        Waterbirds(data_root=str(tmp_path), split='train')


def test_unknown_split(digits_root):
    with pytest.raises(UserError, match=r"split='dev' is not one of train, val, test"):
        Waterbirds(data_root=str(digits_root), split='dev')


def drop_column(header, rows):
    position = header.index('place')
    for row in [header, *rows]:
        del row[position]


def set_field(column, value, index=2):
    def change(header, rows):
        rows[index][header.index(column)] = value

    return change


@pytest.mark.parametrize(
    'change, message',
    [
        (
            drop_column,
            r"metadata\.csv: column 'place' is missing \(found: img_id, img_filename, y, split, place_filename",
        ),
        (set_field('y', 'duck'), r"metadata\.csv:4: y='duck' is not an integer; correct this row"),
        (set_field('y', '1.0'), r"metadata\.csv:4: y='1\.0' is not an integer"),
        (set_field('y', '2'), r'metadata\.csv:4: y=2 is outside 0 to 1'),
        (set_field('split', '5'), r'metadata\.csv:4: split=5 is outside 0 to 2'),
        (set_field('place', '-1'), r'metadata\.csv:4: place=-1 is outside 0 to 1'),
        (lambda header, rows: rows[2].__delitem__(slice(3, None)), r"metadata\.csv:4: 'split' is missing"),
        (lambda header, rows: rows.clear(), r"metadata\.csv: no image belongs to split 'train'"),
        (lambda header, rows: (header.clear(), rows.clear()), r"column 'img_filename' is missing \(found: no header\)"),
    ],
    ids=['column', 'label', 'float', 'range', 'split', 'place', 'short row', 'empty', 'blank'],
)
def test_malformed_metadata_names_file_row_and_key(root, change, message):
    edit(root, change)
    with pytest.raises(UserError, match=message) as caught:
        Waterbirds(data_root=str(root), split='train')
    assert '\n' not in str(caught.value)


def test_blank_lines_are_skipped_but_counted(root):
    """Editors leave them at the end of a file; line numbers in messages stay those of the editor."""
    path = root / 'metadata.csv'
    expected = Waterbirds(data_root=str(root), split='train')
    header, *rows = path.read_text().splitlines()
    path.write_text('\n'.join([header, '', *rows[:2], '', '', *rows[2:], '', '']))
    found = Waterbirds(data_root=str(root), split='train')
    assert [found.get_data_info(i) for i in range(len(found))] == [
        expected.get_data_info(i) for i in range(len(expected))
    ]
    path.write_text('\n'.join([header, '', rows[0], '', rows[1].replace(',0,', ',x,'), *rows[2:]]))
    with pytest.raises(UserError, match=r'metadata\.csv:5: '):
        Waterbirds(data_root=str(root), split='train')


def test_binary_metadata(root):
    (root / 'metadata.csv').write_bytes(b'\x89PNG\r\n\x1a\n\x00\xff\xfe')
    with pytest.raises(UserError, match=r'metadata\.csv: not a CSV file'):
        Waterbirds(data_root=str(root), split='train')


def test_empty_split(root):
    def only_train(header, rows):
        rows[:] = [row for row in rows if row[header.index('split')] == '0']

    edit(root, only_train)
    assert len(Waterbirds(data_root=str(root), split='train')) == 800
    with pytest.raises(UserError, match=r"metadata\.csv: no image belongs to split 'test'; get the complete file"):
        Waterbirds(data_root=str(root), split='test')


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda path: path.unlink(), 'image not found'),
        (truncate, 'not a complete 8-bit image'),
        (lambda path: path.write_bytes(b''), r'not a complete 8-bit image \(cannot identify image file\)'),
        (lambda path: path.write_text('<html>404</html>'), 'not a complete 8-bit image'),
    ],
    ids=['missing', 'truncated', 'zero bytes', 'not an image'],
)
@pytest.mark.parametrize('test_mode', [False, True])
def test_unreadable_image_is_named(root, damage, message, test_mode):
    dataset = Waterbirds(data_root=str(root), split='train', pipeline=PIPELINE, test_mode=test_mode)
    path = Path(dataset.get_data_info(3)['img_path'])
    damage(path)
    assert dataset[2]['inputs'].shape == (3, 32, 32)
    with pytest.raises(UserError, match=f'{path.name}: {message}.*; restore the file or remove its row') as caught:
        dataset[3]
    assert '\n' not in str(caught.value)


def test_an_error_of_the_pipeline_itself_is_not_blamed_on_the_image(digits_root):
    dataset = Waterbirds(data_root=str(digits_root), split='train', pipeline=[lambda results: results['no_such_key']])
    with pytest.raises(KeyError, match='no_such_key'):
        dataset[0]
