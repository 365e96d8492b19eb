"""GroupedImages and recognise: every layout gives the same records, against readers that this project did not write."""

import os
from pathlib import Path

import pytest
from helpers import own_images as own
from helpers.reading import PIPELINE, records
from mmpretrain.registry import DATASETS
from torchvision.datasets import ImageFolder

from ftsgd_plugin.datasets import GroupedImages, recognise
from ftsgd_plugin.datasets.transforms import why_unreadable
from ftsgd_plugin.utils.errors import UserError

ROWS = own.rows()
CLASSES = own.CLASSES


def build(layout, split: str, **options):
    return DATASETS.build(dict(layout.dataset(split, PIPELINE, **options), _scope_='mmpretrain'))


def found(layout) -> dict[str, tuple[str, str, str]]:
    """Path relative to the root -> class, split, group, over all splits."""
    everything = {}
    for split in layout.splits:
        for one in records(build(layout, split)):
            path = os.path.relpath(one['img_path'], layout.data_root)
            everything[path] = (layout.classes[one['gt_label']], one['split'], one['group'])
    return everything


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> Path:
    """domain/class/image, with what systems and editors leave behind."""
    root = own.write_images(tmp_path_factory.mktemp('own') / 'animals', [path for path, *_ in ROWS])
    for hidden in ('.ipynb_checkpoints/cat/0.png', '__MACOSX/north/cat/0.png', 'north/.git/a.png', 'north/cat/._0.png'):
        own.write_images(root, [hidden])
    (root / 'README.md').write_text('animals')
    return root


@pytest.mark.parametrize('suffix', ['.csv', '.tsv', '.jsonl', '.parquet'])
def test_every_table_gives_the_same_records(images, tmp_path, suffix):
    pytest.importorskip('pyarrow') if suffix == '.parquet' else None
    (tmp_path / 'images').symlink_to(images)
    own.write_table(tmp_path / f'labels{suffix}', ROWS)
    layout = recognise(tmp_path, columns=dict(metadata=['patient']))
    assert layout.classes == CLASSES and layout.domains == own.SITES
    assert layout.options['images'] == 'images' and layout.options['columns']['group'] == 'site'
    assert layout.options['draw'] == dict(val=0.1, test=0.1, seed=0, whole='patient')
    first = build(layout, 'train')
    one = first.get_data_info(0)
    assert one.keys() == {'img_path', 'gt_label', 'group', 'patient', 'split', 'sample_idx'}
    assert first[0]['inputs'].shape == (3, 4, 4) and first[0]['data_samples'].group == one['group']
    everything = found(layout)
    assert {path: (label, group) for path, (label, _, group) in everything.items()} == {
        f'images/{path}': (label, site) for path, label, site, _ in ROWS
    }
    assert str(layout).startswith(f'{tmp_path}: 36 images of 3 classes')


def test_class_directories_are_those_of_torchvision(images):
    layout = recognise(images / 'north')
    theirs = ImageFolder(str(images / 'north'), is_valid_file=lambda path: not Path(path).name.startswith('.'))
    assert layout.classes == tuple(name for name in theirs.classes if name != '.git') == CLASSES
    expected = {os.path.relpath(path, images / 'north'): theirs.classes[label] for path, label in theirs.samples}
    expected.pop('.git/a.png')
    assert {path: label for path, (label, *_) in found(layout).items()} == expected


def test_classes_that_are_further_down_are_said(tmp_path):
    """A directory of several data sets is not a data set whose classes have their names."""
    patients = [f'one/{name}/{name}{i}/{j}.png' for name in 'ab' for i in '12' for j in '12']
    own.write_images(tmp_path, patients)
    layout = recognise(tmp_path / 'one')
    assert layout.classes == ('a', 'b')
    assert any(note.startswith('every image is in a directory below its class, such as a/a1;') for note in layout.notes)
    own.write_images(tmp_path, [f'two/{name}/{i}.png' for name in 'cd' for i in '12'])
    with pytest.raises(UserError, match=r'no image is directly in one, two, .* such as \S*/one\.$'):
        recognise(tmp_path)


def test_split_directories_are_never_classes(tmp_path):
    own.write_images(
        tmp_path, [f'{split}/{name}/{i}.png' for split in ('train', 'valid') for name in 'ab' for i in '12']
    )
    own.write_images(tmp_path, ['train/c/1.png', 'train/c/2.png', 'Test/b/1.png', 'Test/b/2.png'])
    layout = recognise(tmp_path)
    assert layout.options == {'tree': 'split/class'}
    assert layout.splits == {'train': 6, 'val': 4, 'test': 2} and layout.classes == ('a', 'b', 'c')
    assert {one['gt_label'] for one in records(build(layout, 'test'))} == {1}  # the label of b everywhere
    assert build(layout, 'train').metainfo == build(layout, 'test').metainfo
    assert any(note.startswith('test has no image of 2 classes: a, c') for note in layout.notes)
    with pytest.raises(UserError, match="takes 'Test', the name of a split"):
        GroupedImages(str(tmp_path), 'train', tree='class', draw=dict(val=0.5))
    own.write_images(tmp_path, ['more/a/1.png'])
    with pytest.raises(UserError, match='hold splits, more beside them do not'):
        recognise(tmp_path)


def test_held_out_domains(images):
    layout = recognise(images, hold_out=['west'])
    assert layout.options['tree'] == 'domain/class' and layout.held_out == ('west',)
    everything = found(layout)
    assert {path: group for path, (_, _, group) in everything.items()} == {path: site for path, _, site, _ in ROWS}
    assert all((split == 'ood') == (group == 'west') for _, split, group in everything.values())
    assert (layout.train, layout.id, layout.ood, layout.evaluated) == ('train', 'val', 'ood', ('val', 'test', 'ood'))
    concatenated = DATASETS.build(
        dict(type='ConcatDataset', datasets=[layout.dataset(split, PIPELINE) for split in layout.evaluated])
        | {'_scope_': 'mmpretrain'}
    )
    assert len(concatenated) == sum(layout.splits[split] for split in layout.evaluated)
    assert concatenated.metainfo['classes'] == CLASSES


@pytest.mark.parametrize(
    'order, tree',
    [('{split}/{site}/{label}', 'split/domain/class'), ('{site}/{split}/{label}', 'domain/split/class')],
)
def test_domains_and_splits(tmp_path, order, tree):
    for split in ('train', 'val'):
        paths = [order.format(split=split, site=site, label=label) for _, label, site, _ in ROWS]
        own.write_images(tmp_path, [f'{path}/{i}.png' for path in set(paths) for i in range(2)])
    layout = recognise(tmp_path, hold_out='west')
    assert layout.options == {'tree': tree, 'hold_out': ['west']}
    assert layout.splits == {'train': 12, 'val': 12, 'ood': 12}


def test_lists_are_read_as_mmpretrain_reads_them(images, tmp_path):
    (tmp_path / 'images').symlink_to(images)
    for split, part in (('train', ROWS[::2]), ('val', ROWS[1::6])):
        own.write_table(tmp_path / f'meta/{split}.txt', [(path, CLASSES.index(label)) for path, label, *_ in part])
    layout = recognise(tmp_path)
    assert layout.options['table'] == {'train': 'meta/train.txt', 'val': 'meta/val.txt'}
    for split in layout.splits:
        theirs = DATASETS.build(
            dict(
                type='mmpretrain.CustomDataset',
                ann_file=f'{tmp_path}/meta/{split}.txt',
                data_prefix=f'{tmp_path}/images',
                pipeline=[],
            )
        )
        key = [(one['img_path'], one['gt_label']) for one in records(build(layout, split))]
        assert key == [(one['img_path'], one['gt_label']) for one in records(theirs)]
    (tmp_path / 'classes.txt').write_text('cat\ndog\nowl\n')
    assert recognise(tmp_path).classes == CLASSES


def test_tables_of_a_hugging_face_image_directory(tmp_path):
    for split, part in (('train', ROWS[::2]), ('test', ROWS[1::2])):
        own.write_images(tmp_path / split, [path for path, *_ in part])
        own.write_table(tmp_path / split / 'metadata.csv', part, ('file_name', 'label', 'site', 'patient'))
    layout = recognise(tmp_path, hold_out=['west'])
    assert layout.options['images'] == {'train': 'train', 'test': 'test'}
    assert layout.splits == {'train': 11, 'val': 1, 'test': 12, 'ood': 12}  # the test split is not touched
    everything = found(layout)
    assert all(Path(tmp_path, path).is_file() for path in everything)
    hf = pytest.importorskip('datasets')
    theirs = hf.load_dataset('imagefolder', data_dir=str(tmp_path), cache_dir=str(tmp_path / '.cache'))
    for split, data in theirs.items():
        for row in data.cast_column('image', hf.Image(decode=False)):
            label, ours, group = everything[os.path.relpath(row['image']['path'], tmp_path)]
            assert (label, group) == (row['label'], row['site'])
            assert ours == 'ood' if group == 'west' else ours in {'train': ('train', 'val'), 'test': ('test',)}[split]


def test_identifiers_without_suffix_and_numbers_for_classes(images, tmp_path):
    (tmp_path / 'img').symlink_to(images)
    table = [(path[:-4], str(CLASSES.index(label) + 9)) for path, label, *_ in ROWS]
    own.write_table(tmp_path / 'train.csv', table, ('id', 'class'))
    layout = recognise(tmp_path / 'train.csv')
    assert layout.classes == ('9', '10', '11') and layout.options['suffix'] == '.png'
    options = {**layout.options, 'classes': [str(i) for i in range(9)] + list(CLASSES)}
    dataset = GroupedImages(str(tmp_path), 'train', **options)
    assert dataset.metainfo['classes'][9:] == CLASSES
    assert {one['gt_label'] for one in records(dataset)} == {9, 10, 11}


def test_lazy_subset_and_serialized_data(images):
    layout = recognise(images)
    lazy = build(layout, 'train', lazy_init=True)
    assert lazy._fully_initialized is False and lazy.metainfo['classes'] == CLASSES
    plain = build(layout, 'train', serialize_data=False)
    assert records(lazy) == records(plain)
    assert records(build(layout, 'train', indices=[0, 5, -1])) == [
        {**plain.get_data_info(i), 'sample_idx': k} for k, i in enumerate((0, 5, -1))
    ]
    assert len(build(layout, 'train', indices=7)) == 7 and len(plain.get_subset(3)) == 3


def test_data_that_has_changed_is_refused(images, tmp_path):
    own.write_table(tmp_path / 'labels.csv', ROWS)
    (tmp_path / 'images').symlink_to(images)
    config = recognise(tmp_path).dataset('train', [])
    own.write_table(tmp_path / 'labels.csv', ROWS[::-1])
    options = {key: value for key, value in config.items() if key != 'type'}
    assert len(GroupedImages(**options))  # another order is the same data
    own.write_table(tmp_path / 'labels.csv', ROWS[:-1])
    with pytest.raises(UserError, match='has changed since the config was written: fingerprint 35-'):
        GroupedImages(**options)


def test_one_level_off_is_found_and_said(images, tmp_path):
    above = recognise(images.parent)
    assert above.data_root == str(images) and f'the data is below: {images}' in above.notes
    assert (
        f'beside it with the same classes: south, west (name {images} to read all)' in recognise(images / 'north').notes
    )
    with pytest.raises(UserError, match=f'one level too low; name {images}/north'):
        recognise(images / 'north/cat')
    own.write_images(tmp_path, [f'{split}/{name}/{i}.png' for split in ('train', 'val') for name in 'ab' for i in '12'])
    with pytest.raises(UserError, match=f'is one split of {tmp_path}, beside val'):
        recognise(tmp_path / 'train')
    assert recognise(tmp_path / 'train', tree='class').classes == ('a', 'b')


@pytest.mark.parametrize('splits', [True, False])
def test_data_saved_by_hugging_face_datasets(images, tmp_path, splits):
    hf = pytest.importorskip('datasets')

    def saved(rows) -> hf.Dataset:
        content = [{'bytes': (images / path).read_bytes(), 'path': None} for path, *_ in rows]
        codes = [CLASSES.index(label) for _, label, *_ in rows]
        features = hf.Features(
            image=hf.Image(),
            species=hf.ClassLabel(names=list(CLASSES)),
            site=hf.Value('string'),
            patient=hf.Value('string'),
        )
        columns = dict(image=content, species=codes, site=[row[2] for row in rows], patient=[row[3] for row in rows])
        return hf.Dataset.from_dict(columns, features=features)

    # Indices of a shuffled data set are saved with it.
    data = (
        hf.DatasetDict(train=saved(ROWS[:24]).shuffle(seed=1), validation=saved(ROWS[24:])) if splits else saved(ROWS)
    )
    data.save_to_disk(str(tmp_path / 'saved'))
    layout = recognise(tmp_path / 'saved')
    assert layout.classes == CLASSES and layout.domains == own.SITES
    assert layout.options['columns'] == dict(path='image', label='species', group='site')
    dataset = build(layout, 'train')
    theirs = data['train'] if splits else data
    for i in (0, 7, len(dataset) - 1):
        one = dataset.get_data_info(i)
        row = theirs[int(one['img_path'].rpartition('/')[2])]
        assert (CLASSES[row['species']], row['site']) == (layout.classes[one['gt_label']], one['group'])
        assert dataset[i]['inputs'][0, 0, 0] == row['image'].getpixel((0, 0))
    if splits:
        assert layout.splits == {'train': 24, 'val': 12} and layout.options['images']['val'] == 'validation'
    directory = os.path.dirname(dataset.get_data_info(0)['img_path'])
    assert (
        why_unreadable(f'{directory}/0000003') is None and why_unreadable(f'{directory}/9999999') == 'image not found'
    )


def test_images_above_the_classes_are_left_out_and_a_link_upwards_is_not_followed(tmp_path):
    own.write_images(tmp_path / 'flat', ['0.png', *(f'{name}/{i}.png' for name in 'ab' for i in range(10))])
    (tmp_path / 'flat/a/up').symlink_to(tmp_path / 'flat')
    layout = recognise(tmp_path / 'flat')
    assert len(found(layout)) == 20 and layout.classes == ('a', 'b')
    assert f'images directly in {tmp_path}/flat have no class and are left out' in layout.notes
    splits = [f'{split}/{name}/{i}.png' for split in ('train', 'val') for name in 'ab' for i in '12']
    layout = recognise(own.write_images(tmp_path / 'splits', ['train/0.png', *splits]))
    assert len(found(layout)) == 8 and layout.splits == {'train': 4, 'val': 4}
    assert 'images directly in train have no class and are left out' in layout.notes


@pytest.mark.parametrize(
    'content, ordered',
    [(b'owl\ndog\ncat\n', True), (b'cat\ncat\ndog\nowl', False), (b'\xff', False), (b'cat\nfox\nwolf', False)],
)
def test_a_file_of_classes_counts_if_it_fits_the_labels(images, tmp_path, content, ordered):
    own.write_table(tmp_path / 'labels.csv', ROWS)
    own.write_table(tmp_path / 'other.csv', ROWS[:1])  # of several tables the one with a usual name
    (tmp_path / 'images').symlink_to(images)
    (tmp_path / 'classes.txt').write_bytes(content)
    layout = recognise(tmp_path)
    assert layout.options['table'] == 'labels.csv' and layout.classes == (CLASSES[::-1] if ordered else CLASSES)
    assert ('names and order of the classes: classes.txt' in layout.notes) == ordered


def test_groups_that_are_spelled_almost_alike_are_said(images, tmp_path):
    rows = [(path, label, 'North' if i == 0 else site, patient) for i, (path, label, site, patient) in enumerate(ROWS)]
    own.write_table(tmp_path / 'labels.csv', rows)
    (tmp_path / 'images').symlink_to(images)
    notes = recognise(tmp_path, table='labels.csv').notes
    assert any(note.startswith('groups that are spelled almost alike: ') and "'North'" in note for note in notes), notes
