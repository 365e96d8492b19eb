"""Camelyon17, FMoW, Living17 and DomainNet against wilds, the rule of BREEDS and the published lists."""

import collections
import csv
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import trees
from mmengine.logging import MMLogger
from mmpretrain.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from ftsgd_plugin.datasets import Camelyon17, DomainNet, FMoW, Living17
from ftsgd_plugin.datasets.base import MAX_BAD_IMAGES
from ftsgd_plugin.datasets.domainnet import CLASSES
from ftsgd_plugin.datasets.fmow import CATEGORIES
from ftsgd_plugin.datasets.living17 import LIVING17
from ftsgd_plugin.errors import UserError
from ftsgd_plugin.evaluation.wilds_official import load_wilds

PIPELINE = [
    dict(type='mmpretrain.LoadRGBImage'),
    dict(type='mmpretrain.PackRGB'),
    dict(type='mmpretrain.PackInputs', meta_keys=('img_path', 'split', 'group')),
]


def records(dataset) -> list[dict]:
    return [dataset.get_data_info(i) for i in range(len(dataset))]


@pytest.fixture
def copy(tmp_path):
    """Copy a tree that a test may damage; pictures are linked."""

    def make(root: Path) -> Path:
        return Path(shutil.copytree(root, tmp_path / root.name, copy_function=link))

    def link(source, target):
        if Path(source).suffix in ('.csv', '.txt'):
            return shutil.copy(source, target)
        return Path(target).symlink_to(source)

    return make


def edit_csv(path: Path, change) -> None:
    with open(path, newline='') as file:
        header, *rows = csv.reader(file)
    change(header, rows)
    trees.write_rows(path, header, rows)


# Equality with wilds


@pytest.mark.parametrize('split', Camelyon17.SPLITS)
def test_camelyon_equals_wilds(wilds, camelyon_root, split):
    oracle = load_wilds('camelyon17', str(camelyon_root))
    subset = oracle.get_subset(split)
    ours = records(Camelyon17(data_root=str(camelyon_root), split=split))
    assert [r['img_path'] for r in ours] == [str(camelyon_root / oracle._input_array[i]) for i in subset.indices]
    assert [r['gt_label'] for r in ours] == subset.y_array.tolist()
    assert [[r['hospital'], r['slide']] for r in ours] == subset.metadata_array[:, :2].tolist()
    assert [r['group'] for r in ours] == [f'slide_{r["slide"]}' for r in ours]
    assert ours and all(Path(r['img_path']).is_file() for r in ours)


@pytest.mark.parametrize('split', FMoW.SPLITS)
def test_fmow_equals_wilds(wilds, fmow_root, split):
    oracle = load_wilds('fmow', str(fmow_root))
    subset = oracle.get_subset(split)
    ours = records(FMoW(data_root=str(fmow_root), split=split))
    numbers = oracle.full_idxs[subset.indices]
    assert [r['img_path'] for r in ours] == [str(fmow_root / f'images/rgb_img_{i}.png') for i in numbers]
    assert [r['gt_label'] for r in ours] == subset.y_array.tolist()
    regions = [oracle._metadata_map['region'][int(i)] for i in subset.metadata_array[:, 0]]
    assert [r['region'] for r in ours] == [r['group'] for r in ours] == regions
    assert [r['year'] - 2002 for r in ours] == subset.metadata_array[:, 1].tolist()
    assert ours and all(Path(r['img_path']).is_file() for r in ours)


def test_fmow_categories_are_those_of_wilds(wilds):
    from wilds.datasets.fmow_dataset import categories

    assert tuple(categories) == CATEGORIES


def test_country_without_a_region_is_other_and_counted(fmow_root, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    ours = records(FMoW(data_root=str(fmow_root), split='test'))
    logger.removeHandler(caplog.handler)
    (message,) = [r.getMessage() for r in caplog.records if 'without a region' in r.getMessage()]
    with open(fmow_root / 'rgb_metadata.csv', newline='') as file:
        rows = [r for r in csv.DictReader(file) if r['split'] == 'test' and r['timestamp'] >= '2016']
    unknown = sum(r['country_code'] == 'XKX' for r in rows)
    assert f'{unknown:,} pictures of 1 countries' in message and f'XKX ({unknown})' in message
    assert collections.Counter(r['region'] for r in ours)['Other'] > unknown  # the mapping has one in Other as well


# Living-17


def test_living17_table_follows_the_rule_of_breeds():
    """17 superclasses by WordNet id, 2 + 2 subclasses each, all different, indices in ImageNet's order."""
    wnids = [wnid for row in LIVING17 for part in row[2:] for wnid, _ in part]
    assert len(LIVING17) == 17 and len(set(wnids)) == len(wnids) == 68
    assert [row[1] for row in LIVING17] == sorted(row[1] for row in LIVING17)
    pairs = sorted((wnid, index) for row in LIVING17 for part in row[2:] for wnid, index in part)
    assert [index for _, index in pairs] == sorted(index for _, index in pairs)
    # Rows printed in the notebook of BREEDS' authors.
    by_name = {row[0].split(',')[0]: row for row in LIVING17}
    assert [wnid for wnid, _ in by_name['salamander'][2]] == ['n01631663', 'n01632777']
    assert [wnid for wnid, _ in by_name['dog'][2]] == ['n02088466', 'n02086079']
    assert [wnid for wnid, _ in by_name['monkey'][3]] == ['n02493793', 'n02492660']


@pytest.mark.skipif(
    'BREEDS_INFO_DIR' not in os.environ, reason='needs BREEDS_INFO_DIR (BREEDS-Benchmarks) and robustness'
)
def test_living17_table_equals_the_authors_function():
    """``make_living17(info_dir, split='rand')`` on BREEDS' hierarchy, as the paper's code calls it."""
    helpers = pytest.importorskip('robustness.tools.breeds_helpers')
    superclasses, (source, target), _ = helpers.make_living17(os.environ['BREEDS_INFO_DIR'], split='rand')
    assert superclasses == [row[1] for row in LIVING17]
    for part, column in ((source, 2), (target, 3)):
        assert [list(indices) for indices in part] == [[index for _, index in row[column]] for row in LIVING17]


@pytest.mark.parametrize('split, part, column', [
    ('train', 'train', 2), ('ood_train', 'train', 3), ('id_val', 'val', 2), ('ood_val', 'val', 3),
])  # fmt: skip
def test_living17_records(imagenet_root, split, part, column):
    ours = records(Living17(data_root=str(imagenet_root), split=split))
    expected = [
        (str(path), label, wnid)
        for label, row in enumerate(LIVING17)
        for wnid, _ in row[column]
        for path in sorted((imagenet_root / part / wnid).iterdir())
    ]
    assert [(r['img_path'], r['gt_label'], r['subclass']) for r in ours] == expected
    assert len(ours) == 34 * (2 if part == 'train' else 1)


def test_living17_from_a_flat_val_folder(imagenet_root, tmp_path):
    root = tmp_path / 'imagenet'
    (root / 'val').mkdir(parents=True)
    (root / 'meta').mkdir()
    index = {wnid: i for row in LIVING17 for part in row[2:] for wnid, i in part}
    lines = []
    for path in sorted((imagenet_root / 'val').glob('*/*')):
        (root / 'val' / path.name).symlink_to(path)
        lines.append(f'{path.name} {index.get(path.parent.name, 0)}')
    (root / 'meta/val.txt').write_text('\n'.join(lines))
    for split in ('id_val', 'ood_val'):
        flat = records(Living17(data_root=str(root), split=split))
        folders = records(Living17(data_root=str(imagenet_root), split=split))
        assert [(Path(r['img_path']).name, r['gt_label'], r['group']) for r in flat] == [
            (Path(r['img_path']).name, r['gt_label'], r['group']) for r in folders
        ]


# DomainNet


def test_domainnet_classes_are_the_published_ones_in_their_order():
    assert len(CLASSES) == 40 and CLASSES[:3] == ('airplane', 'ambulance', 'apple')
    assert CLASSES[34:] == ('telephone', 'truck', 'butterfly', 'sheep', 'drums', 'donut')
    totals = {domain: [DomainNet.PUBLISHED[f'{domain}_{part}'] for part in ('train', 'test')] for domain in
              ('clipart', 'painting', 'real', 'sketch')}  # fmt: skip
    assert totals == dict(clipart=[3707, 1616], painting=[6727, 2909], real=[16141, 6943], sketch=[5537, 2399])


@pytest.mark.parametrize('split', DomainNet.SPLITS)
def test_domainnet_equals_its_list_and_the_filtered_official_list(domainnet_root, copy, split):
    ours = records(DomainNet(data_root=str(domainnet_root), split=split))
    lines = (domainnet_root / f'SENTRY_splits/{split}_mini.txt').read_text().splitlines()
    expected = [(str(domainnet_root / path), int(label)) for path, label in (line.split(' ') for line in lines)]
    assert [(r['img_path'], r['gt_label']) for r in ours] == expected
    assert {r['group'] for r in ours} == {split.split('_')[0]}
    official = copy(domainnet_root)
    shutil.rmtree(official / 'SENTRY_splits')
    filtered = records(DomainNet(data_root=str(official), split=split))
    assert [(Path(r['img_path']).name, r['gt_label']) for r in filtered] == [(Path(p).name, y) for p, y in expected]


def test_other_sizes_than_the_published_are_a_warning(domainnet_root, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    size = len(DomainNet(data_root=str(domainnet_root), split='sketch_test'))
    logger.removeHandler(caplog.handler)
    assert f'{size:,} pictures instead of the published 2,399' in caplog.text


# All


KINDS = {
    'camelyon_root': (Camelyon17, 'train'),
    'fmow_root': (FMoW, 'test'),
    'imagenet_root': (Living17, 'train'),
    'domainnet_root': (DomainNet, 'real_train'),
}


def batches(dataset, **loader):
    found = []
    for batch in DataLoader(dataset, batch_size=4, collate_fn=list, **loader):
        found += [
            (s['data_samples'].img_path, int(s['data_samples'].gt_label), s['inputs'].sum().item()) for s in batch
        ]
    return found


@pytest.mark.parametrize('fixture', KINDS)
def test_same_records_without_and_with_workers(request, fixture):
    kind, split = KINDS[fixture]
    root = request.getfixturevalue(fixture)
    dataset = kind(data_root=str(root), split=split, pipeline=PIPELINE, indices=8)
    alone = batches(dataset)
    assert len(alone) == 8
    assert batches(dataset, num_workers=4, multiprocessing_context='fork') == alone
    assert records(pickle.loads(pickle.dumps(dataset))) == records(dataset)  # what spawned workers get


def test_spawned_workers_see_the_same(camelyon_root):
    dataset = Camelyon17(data_root=str(camelyon_root), split='train', pipeline=PIPELINE, indices=8)
    assert batches(dataset, num_workers=1, multiprocessing_context='spawn') == batches(dataset)


@pytest.mark.parametrize('fixture', KINDS)
def test_lazy_and_serialised(request, fixture):
    kind, split = KINDS[fixture]
    dataset = DATASETS.build(
        dict(type=f'mmpretrain.{kind.__name__}', data_root=str(request.getfixturevalue(fixture)), split=split,
             lazy_init=True)
    )  # fmt: skip
    assert not dataset._fully_initialized
    dataset.full_init()
    assert len(dataset.data_list) == 0 and len(dataset.data_bytes) > 0
    record = dataset.get_data_info(0)
    assert {'img_path', 'gt_label', 'split', 'group'} <= record.keys() and record['split'] == split
    assert 0 <= record['gt_label'] < len(dataset.metainfo['classes'])


# Bad input


@pytest.mark.parametrize('fixture', KINDS)
def test_root_one_level_off_is_told_which(request, fixture):
    kind, split = KINDS[fixture]
    root = request.getfixturevalue(fixture)
    with pytest.raises(UserError, match=f'one level too high: set it to {root}'):
        kind(data_root=str(root.parent), split=split)
    below = next(path for path in sorted(root.iterdir()) if path.is_dir())
    with pytest.raises(UserError, match=f'one level too low: set it to {root}'):
        kind(data_root=str(below), split=split)
    with pytest.raises(UserError, match='not found'):
        kind(data_root='/nowhere', split=split)


def set_field(column, value):
    return lambda header, rows: rows[2].__setitem__(header.index(column), value)


def drop(column):
    def change(header, rows):
        position = header.index(column)
        for row in [header, *rows]:
            del row[position]

    return change


@pytest.mark.parametrize('change, message', [
    (drop('slide'), r"metadata\.csv: column 'slide' is absent \(found: \(unnamed\), patient"),
    (set_field('tumor', '2'), r'metadata\.csv:4: tumor=2 is outside 0 to 1'),
    (set_field('center', 'x'), r"metadata\.csv:4: center='x' is not an integer"),
    (set_field('slide', '50'), r'metadata\.csv:4: slide=50 is outside 0 to 49'),
    (set_field('patient', 'a'), r"metadata\.csv:4: patient='a' is not a number"),
    (lambda header, rows: rows.insert(5, rows[2]), r'metadata\.csv:7: patches/\S+ is listed twice'),
    (lambda header, rows: rows.clear(), r"nothing belongs to split 'train'"),
])  # fmt: skip
def test_malformed_camelyon(camelyon_root, copy, change, message):
    root = copy(camelyon_root)
    edit_csv(root / 'metadata.csv', change)
    with pytest.raises(UserError, match=message):
        Camelyon17(data_root=str(root), split='train')


@pytest.mark.parametrize('file, change, message', [
    ('rgb_metadata.csv', drop('timestamp'), r"rgb_metadata\.csv: column 'timestamp' is absent"),
    ('rgb_metadata.csv', set_field('category', 'castle'), r"rgb_metadata\.csv:4: category='castle' is none of the 62"),
    ('rgb_metadata.csv', set_field('timestamp', 'May'), r"rgb_metadata\.csv:4: timestamp='May' does not start with"),
    ('rgb_metadata.csv', set_field('split', 'dev'), r"rgb_metadata\.csv:4: split='dev' is none of"),
    ('country_code_mapping.csv', drop('region'), r"country_code_mapping\.csv: column 'region' is absent"),
    ('country_code_mapping.csv', set_field('region', 'Mars'), r"country_code_mapping\.csv:4: region='Mars' is none of"),
])  # fmt: skip
def test_malformed_fmow(fmow_root, copy, file, change, message):
    root = copy(fmow_root)
    if file == 'rgb_metadata.csv':  # row 2 must not be sequestered
        edit_csv(root / file, set_field('split', 'test'))
    edit_csv(root / file, change)
    with pytest.raises(UserError, match=message):
        FMoW(data_root=str(root), split='test')


def test_fmow_without_country_mapping(fmow_root, copy):
    root = copy(fmow_root)
    (root / 'country_code_mapping.csv').unlink()
    with pytest.raises(UserError, match=r'country_code_mapping\.csv: not found; it belongs beside rgb_metadata\.csv'):
        FMoW(data_root=str(root), split='test')


@pytest.mark.parametrize('line, message', [
    ('sketch/airplane/a.jpg', r'_mini\.txt:2: .* is not "domain/class/picture label"'),
    ('sketch/airplane/a.jpg x', r'_mini\.txt:2: .* is not "domain/class/picture label"'),
    ('a.jpg 0', r'_mini\.txt:2: .* is not "domain/class/picture label"'),
    ('sketch/castle/a.jpg 0', r"_mini\.txt:2: 'castle' is none of the 40 classes"),
    ('sketch/airplane/a.jpg 7', r"_mini\.txt:2: label 7 of 'airplane' is not the published 0"),
    ('{first}', r'_mini\.txt:2: \S+ is listed twice'),
])  # fmt: skip
def test_malformed_domainnet_list(domainnet_root, copy, line, message):
    root = copy(domainnet_root)
    path = root / 'SENTRY_splits/sketch_train_mini.txt'
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([lines[0], line.format(first=lines[0]), *lines[1:]]))
    with pytest.raises(UserError, match=message):
        DomainNet(data_root=str(root), split='sketch_train')


def test_missing_and_empty_class_folder(imagenet_root, copy):
    root = copy(imagenet_root)
    folder = root / 'train' / LIVING17[3][2][0][0]
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=f'{folder}: holds no picture'):
        Living17(data_root=str(root), split='train')
    folder.rmdir()
    with pytest.raises(UserError, match=f'{folder}: class folder missing'):
        Living17(data_root=str(root), split='train')


@pytest.mark.parametrize('split', ['', 'valid', 'sketch'])
@pytest.mark.parametrize('fixture', KINDS)
def test_unknown_split(request, fixture, split):
    kind, _ = KINDS[fixture]
    with pytest.raises(UserError, match=rf'{kind.__name__}: split={split!r} is none of {kind.SPLITS[0]}'):
        kind(data_root=str(request.getfixturevalue(fixture)), split=split)


def sixteen_bit(path):
    Image.new('I;16', (96, 96)).save(path)


def animated(path):
    frames = [Image.new('RGB', (96, 96), colour) for colour in ('red', 'blue')]
    frames[0].save(path, format='GIF', save_all=True, append_images=frames[1:])


@pytest.mark.parametrize('damage, message', [
    (lambda path: path.write_bytes(b''), 'not a complete 8-bit image'),
    (sixteen_bit, r'has more than 8 bits a channel \(mode I;16\)'),
    (animated, 'has 2 frames'),
], ids=['zero bytes', '16 bit', 'animated'])  # fmt: skip
def test_unusable_picture_is_named(camelyon_root, copy, damage, message):
    root = copy(camelyon_root)
    dataset = Camelyon17(data_root=str(root), split='train', pipeline=PIPELINE)
    path = Path(dataset.get_data_info(2)['img_path'])
    path.unlink()
    damage(path)
    with pytest.raises(UserError, match=f'{path.name}: .*{message}'):
        dataset[2]


def test_cmyk_is_converted_as_torchvision_does(camelyon_root, copy):
    from torchvision.datasets.folder import pil_loader

    root = copy(camelyon_root)
    dataset = Camelyon17(data_root=str(root), split='train', pipeline=PIPELINE)
    path = Path(dataset.get_data_info(0)['img_path'])
    path.unlink()
    Image.new('CMYK', (96, 96), (10, 100, 200, 30)).save(path, format='JPEG')
    found = dataset[0]['inputs'].flip(0)  # BGR to RGB
    expected = (
        torch.tensor(list(pil_loader(str(path)).tobytes()), dtype=torch.uint8).reshape(96, 96, 3).permute(2, 0, 1)
    )
    assert torch.equal(found, expected)


def test_skipping_counts_lists_and_bounds_bad_pictures(camelyon_root, copy):
    root = copy(camelyon_root)
    dataset = Camelyon17(data_root=str(root), split='train', pipeline=PIPELINE, on_bad_image='skip')
    for i in range(MAX_BAD_IMAGES + 1):
        Path(dataset.get_data_info(i)['img_path']).unlink()
    good = {dataset.get_data_info(i)['img_path'] for i in range(MAX_BAD_IMAGES + 1, len(dataset))}
    assert dataset[0]['data_samples'].img_path in good
    assert dataset.bad_images[0] == dataset.get_data_info(0)['img_path']
    with pytest.raises(UserError, match='image not found'):
        for i in range(MAX_BAD_IMAGES + 1):
            dataset[i]
    assert len(dataset.bad_images) == MAX_BAD_IMAGES


def test_evaluation_never_skips(camelyon_root, copy):
    root = copy(camelyon_root)
    dataset = Camelyon17(data_root=str(root), split='test', pipeline=PIPELINE, on_bad_image='skip', test_mode=True)
    Path(dataset.get_data_info(0)['img_path']).unlink()
    with pytest.raises(UserError, match='image not found'):
        dataset[0]
