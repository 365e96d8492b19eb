"""A malformed benchmark is one line that names file, row and key."""

import csv
from pathlib import Path

import pytest
from helpers import trees
from helpers.reading import KINDS

from ftsgd_plugin.datasets import Camelyon17, DomainNet, FMoW, Living17
from ftsgd_plugin.datasets.living17 import LIVING17
from ftsgd_plugin.utils.errors import UserError


def edit_csv(path: Path, change) -> None:
    with open(path, newline='') as file:
        header, *rows = csv.reader(file)
    change(header, rows)
    trees.write_rows(path, header, rows)


@pytest.mark.parametrize('fixture', KINDS)
def test_root_one_level_off_names_the_right_one(request, fixture):
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
    (drop('slide'), r"metadata\.csv: column 'slide' is missing \(found: \(unnamed\), patient"),
    (set_field('tumor', '2'), r'metadata\.csv:4: tumor=2 is outside 0 to 1'),
    (set_field('center', 'x'), r"metadata\.csv:4: center='x' is not an integer"),
    (set_field('slide', '50'), r'metadata\.csv:4: slide=50 is outside 0 to 49'),
    (set_field('patient', 'a'), r"metadata\.csv:4: patient='a' is not a number"),
    (lambda header, rows: rows.insert(5, rows[2]), r'metadata\.csv:7: patches/\S+ is listed twice'),
    (lambda header, rows: rows.clear(), r"no image belongs to split 'train'"),
])  # fmt: skip
def test_malformed_camelyon(camelyon_root, copy, change, message):
    root = copy(camelyon_root)
    edit_csv(root / 'metadata.csv', change)
    with pytest.raises(UserError, match=message):
        Camelyon17(data_root=str(root), split='train')


@pytest.mark.parametrize('file, change, message', [
    ('rgb_metadata.csv', drop('timestamp'), r"rgb_metadata\.csv: column 'timestamp' is missing"),
    ('rgb_metadata.csv', set_field('category', 'castle'), r"rgb_metadata\.csv:4: category='castle' is not one of"),
    ('rgb_metadata.csv', set_field('timestamp', 'May'), r"rgb_metadata\.csv:4: timestamp='May' does not start with"),
    ('rgb_metadata.csv', set_field('split', 'dev'), r"rgb_metadata\.csv:4: split='dev' is not one of"),
    ('country_code_mapping.csv', drop('region'), r"country_code_mapping\.csv: column 'region' is missing"),
    ('country_code_mapping.csv', set_field('region', 'Mars'), r"mapping\.csv:4: region='Mars' is not one of"),
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
    ('sketch/airplane/a.jpg', r'_mini\.txt:2: .* is not "domain/class/image label"'),
    ('sketch/airplane/a.jpg x', r'_mini\.txt:2: .* is not "domain/class/image label"'),
    ('a.jpg 0', r'_mini\.txt:2: .* is not "domain/class/image label"'),
    ('sketch/castle/a.jpg 0', r"_mini\.txt:2: 'castle' is not one of the 40 classes"),
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


def test_missing_and_empty_class_directory(imagenet_root, copy):
    root = copy(imagenet_root)
    directory = root / 'train' / LIVING17[3][2][0][0]
    for path in directory.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=f'{directory}: contains no images'):
        Living17(data_root=str(root), split='train')
    directory.rmdir()
    with pytest.raises(UserError, match=f'{directory}: class directory is missing'):
        Living17(data_root=str(root), split='train')


@pytest.mark.parametrize('split', ['', 'valid', 'sketch'])
@pytest.mark.parametrize('fixture', KINDS)
def test_unknown_split(request, fixture, split):
    kind, _ = KINDS[fixture]
    with pytest.raises(UserError, match=rf'{kind.__name__}: split={split!r} is not one of {kind.SPLITS[0]}'):
        kind(data_root=str(request.getfixturevalue(fixture)), split=split)
