"""A table of malformed data sets: each is refused in one line that names the file, and the line where there is one."""

import re
from pathlib import Path

import pytest
from helpers.malformed_data import (
    BIRDS,
    FAULTS,
    FIRST,
    FLAT,
    FLAT_FAULTS,
    KINDS,
    LISTS,
    MAP,
    RGB,
    WNIDS,
    M,
    line,
    only,
    to,
    write,
)
from mmengine.logging import MMLogger

from ftsgd_plugin.datasets import Camelyon17, DomainNet, FMoW, Living17, Waterbirds
from ftsgd_plugin.utils.errors import UserError


def refuse(kind: type, root: Path, split: str, message: str, name: str) -> None:
    with pytest.raises(UserError) as caught:
        kind(data_root=str(root), split=split)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 600, text
    assert re.match(f'{root}/' + message.replace('{}', name), text), text


def test_the_table_is_long_enough():
    assert len(FAULTS) + len(FLAT_FAULTS) >= 90


@pytest.mark.parametrize('number', range(len(FAULTS)))
def test_a_malformed_data_set_is_one_line_with_its_file_and_line(tmp_path, number):
    kind, name, change, message = FAULTS[number]
    split, tree = KINDS[kind]
    tree = dict(tree)
    if change is None:
        tree = {path: content for path, content in tree.items() if not path.startswith(name)}
    else:
        tree[name] = change(tree.get(name, ''))
    write(tmp_path, tree)
    refuse(kind, tmp_path, split, message, name)


@pytest.mark.parametrize('number', range(len(FLAT_FAULTS)))
def test_a_malformed_flat_list_of_imagenet(tmp_path, number):
    change, message = FLAT_FAULTS[number]
    tree = {path: content if change is None else change(content) for path, content in FLAT.items() if content}
    write(tmp_path, {'val/': '', **({} if change is None else tree)})
    refuse(Living17, tmp_path, 'id_val', message, 'meta/val.txt')


# Read rightly: what editors and other systems do to a file, and other names of the classes.

MARK = '\ufeff'
READ = [
    (Waterbirds, M, lambda text: MARK + text),
    (Waterbirds, M, lambda text: text.replace('\n', '\r\n')),
    (Waterbirds, M, lambda text: text.replace('\n', '\r')),
    (Waterbirds, M, lambda text: text.replace('\n', '\n\n') + '\n'),
    (Waterbirds, M, line(3, ',1,0,', ', 01 ,0,')),
    (Waterbirds, M, line(3, 'p.jpg', 'p.jpg,')),
    (Camelyon17, M, lambda text: MARK + text.rstrip()),
    (FMoW, RGB, lambda text: MARK + text),
    (FMoW, MAP, lambda text: MARK + text + 'none,XXX,\n'),
    (DomainNet, LISTS[0], lambda text: MARK + text.replace('\n', '\r\n')),
    (DomainNet, LISTS[0], lambda text: text.replace('sketch/airplane', './sketch//airplane') + '  \n'),
    (Living17, FIRST + '.DS_Store', to(b'')),
    (Living17, FIRST + f'._{WNIDS[0]}_0.JPEG', to(b'')),
    (Living17, FIRST + 'README.txt', to(b'')),
]


def labels(kind: type, root: Path, split: str, **options) -> list[tuple[str, int, str]]:
    dataset = kind(data_root=str(root), split=split, **options)
    found = (dataset.get_data_info(i) for i in range(len(dataset)))
    return [(str(Path(one['img_path']).relative_to(root)), one['gt_label'], one['group']) for one in found]


@pytest.mark.parametrize('number', range(len(READ)))
def test_what_editors_leave_in_a_file_changes_nothing(tmp_path, number):
    kind, name, change = READ[number]
    split, tree = KINDS[kind]
    write(tmp_path / 'plain', tree)
    write(tmp_path / 'changed', {**tree, name: change(tree.get(name, ''))})
    assert labels(kind, tmp_path / 'changed', split) == labels(kind, tmp_path / 'plain', split)


def test_every_kind_of_image_that_torchvision_lists_is_read_from_a_class_directory(tmp_path):
    from torchvision.datasets.folder import IMG_EXTENSIONS

    split, tree = KINDS[Living17]
    names = [f'{FIRST}a{suffix.upper()}' for suffix in IMG_EXTENSIONS]
    write(tmp_path, {**tree, **dict.fromkeys(names, b'')})
    assert set(names) < {name for name, *_ in labels(Living17, tmp_path, split)}


@pytest.mark.parametrize('kind', KINDS)
def test_classes_can_be_renamed_but_not_moved_or_left_out(tmp_path, kind):
    """Labels are numbers of the published order; a part of the classes, or another order, would belong to others."""
    split, tree = KINDS[kind]
    write(tmp_path, tree)
    published = kind.METAINFO['classes']

    def read(*names, **options):
        return labels(kind, tmp_path, split, metainfo=dict(classes=names), **options)

    plain = labels(kind, tmp_path, split)
    assert read(*published) == plain == labels(kind, tmp_path, split, classes=list(published))
    renamed = kind(data_root=str(tmp_path), split=split, metainfo=dict(classes=[f'{name}s' for name in published]))
    assert [renamed.get_data_info(i)['gt_label'] for i in range(len(renamed))] == [label for _, label, _ in plain]
    for names, message in [
        (published[::-1], f'{kind.__name__}: metainfo.classes: .* is label .* keep the order'),
        ((*published[1:], published[0]), 'is label 1 of the data, not 0'),
        (('other', *published[2:], published[0]), 'of the data, not'),
        ((published[0], *published[:-1]), f'metainfo.classes: {published[0]!r} occurs twice'),
        ((*published[:-1], 5), 'is not a list of names'),
        ((*published[:-1], ''), 'is not a list of names'),
    ]:
        for options in ({}, {'lazy_init': True}):
            with pytest.raises(UserError, match=message):
                read(*names, **options)
    with pytest.raises(UserError, match=r'metainfo\.classes: 1 names for|metadata\.csv:3: y=1 is outside 0 to 0'):
        read(published[0])
    with pytest.raises(UserError, match=r"metainfo\.classes='bird' is not a list of names"):
        kind(data_root=str(tmp_path), split=split, metainfo=dict(classes='bird'))
    with pytest.raises(UserError, match=r"metainfo=\['a'\] is not a dict"):
        kind(data_root=str(tmp_path), split=split, metainfo=['a'])


def test_a_part_of_the_classes_is_refused(tmp_path):
    write(tmp_path, KINDS[DomainNet][1])
    with pytest.raises(
        UserError, match=r'DomainNet: metainfo.classes: 2 names for 40 labels; a part .* cannot be read'
    ):
        DomainNet(data_root=str(tmp_path), split='sketch_train', metainfo=dict(classes=('bird', 'cat')))


def test_places_of_waterbirds_keep_their_order(tmp_path):
    write(tmp_path, KINDS[Waterbirds][1])
    with pytest.raises(UserError, match=r"Waterbirds: metainfo\.places: 'water' is label 1 of the data, not 0"):
        Waterbirds(data_root=str(tmp_path), split='train', metainfo=dict(places=('water', 'land')))


@pytest.mark.parametrize('root', [None, '', 5, ['data']])
@pytest.mark.parametrize('kind', KINDS)
def test_a_data_root_that_is_not_a_path(kind, root):
    with pytest.raises(UserError, match=f'{kind.__name__}: data_root=.* is not a path'):
        kind(data_root=root, split=KINDS[kind][0])


@pytest.mark.parametrize('kind, name', [(Waterbirds, M), (FMoW, MAP), (Living17, 'val/')])
def test_a_directory_in_the_place_of_a_file_or_a_file_in_that_of_a_directory(tmp_path, kind, name):
    split, tree = KINDS[kind]
    tree = {path: content for path, content in tree.items() if path != name}
    write(tmp_path, {**tree, **({'val': ''} if name == 'val/' else {f'{name}/': ''})})
    with pytest.raises(UserError, match=f'{tmp_path}/{name.strip("/")}: (cannot be read|not found)'):
        kind(data_root=str(tmp_path), split='id_val' if name == 'val/' else split)


def test_indices_that_leave_one_class_are_a_warning(tmp_path, caplog):
    """They are the way to a short trial, and some data are sorted by class."""
    split, tree = KINDS[Living17]
    write(tmp_path, tree)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    for indices, warned in ((2, True), ([0, 1], True), (8, False)):
        caplog.clear()
        labels(Living17, tmp_path, split, indices=indices)
        assert ('images of indices=' in caplog.text) == warned
    logger.removeHandler(caplog.handler)


def test_one_class_may_be_evaluated(tmp_path):
    """Only training needs two."""
    write(tmp_path, {M: only(1, 2, 4)(BIRDS)})
    assert len(labels(Waterbirds, tmp_path, 'train', test_mode=True)) == 2
