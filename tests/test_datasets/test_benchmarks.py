"""Camelyon17, FMoW, Living17 and DomainNet against wilds, the rule of BREEDS and the published lists."""

import collections
import csv
import os
import shutil
from pathlib import Path

import pytest
from helpers.reading import records
from mmengine.logging import MMLogger

from ftsgd_plugin.datasets import Camelyon17, DomainNet, FMoW, Living17
from ftsgd_plugin.datasets.domainnet import CLASSES
from ftsgd_plugin.datasets.fmow import CATEGORIES
from ftsgd_plugin.datasets.living17 import LIVING17
from ftsgd_plugin.evaluation.wilds import load_wilds

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
    assert f'{unknown:,} images of 1 countries' in message and f'XKX ({unknown})' in message
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


def test_living17_from_a_flat_val_directory(imagenet_root, tmp_path):
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
        sorted_by_class = records(Living17(data_root=str(imagenet_root), split=split))
        assert [(Path(r['img_path']).name, r['gt_label'], r['group']) for r in flat] == [
            (Path(r['img_path']).name, r['gt_label'], r['group']) for r in sorted_by_class
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
    assert f'{size:,} images instead of the published 2,399' in caplog.text
