"""Bad input of a user's own data: one line that names file, row or option, before any image is opened."""

import sys
from pathlib import Path

import pytest
from helpers import own_images as own

from ftsgd_plugin.datasets import GroupedImages, recognise
from ftsgd_plugin.datasets.readers import trees
from ftsgd_plugin.datasets.readers.saved import saved_image
from ftsgd_plugin.utils.errors import UserError

ROWS = own.rows()
TABLE = own.as_table(ROWS)
COLUMNS = dict(path='path', label='label', group='site', metadata=['patient'])
FIRST = 'north/cat/0.png,cat,north,north-cat-0'


def second_line(new: str):
    return TABLE.replace(FIRST, new, 1)


def read(root: Path, **options) -> GroupedImages:
    options = dict(table='labels.csv', columns=COLUMNS, draw=dict(val=0.2), split='train') | options
    return GroupedImages(str(root), **options)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'\xef\xbb\xbf' + TABLE.encode(), None),  # a byte-order mark is none of the first column
        (TABLE.replace('\n', '\r\n'), None),
        (second_line('./north//cat/0.png,cat,north,p'), None),
        ('', r"labels\.csv: column 'path' is missing \(found: no header\); name the right one in columns=dict\("),
        (TABLE.partition('\n')[0], r'labels\.csv: lists no image'),
        (TABLE.encode('utf-16'), r'not a CSV file \(line 1 is not UTF-8\)'),
        (TABLE.replace('label', 'Label', 1), r"column 'label' is missing \(found: path, Label, site, patient\)"),
        (second_line(',cat,north,p'), r":2: '' does not name an image"),
        (second_line('a\x1b.png,cat,north,p'), r":2: 'a\\x1b\.png' does not name an image"),
        (TABLE + FIRST, r':38: north/cat/0\.png is listed twice'),
        (TABLE + f'./{FIRST}', r':38: \./north/cat/0\.png is listed twice'),
        (TABLE + f'south/../{FIRST}', r':38: north/cat/0\.png is listed twice'),
        (second_line('/etc/passwd,cat,north,p'), r":2: '/etc/passwd' lies outside \S+; set data_root"),
        (second_line('../x.png,cat,north,p'), r":2: '\.\./x\.png' lies outside"),
        (second_line('a/../../x.png,cat,north,p'), r":2: 'a/\.\./\.\./x\.png' lies outside"),
        (second_line('north\\cat\\0.png,cat,north,p'), r'has the separators of Windows'),
        (second_line('north/cat/0.png,,north,p'), r":2: 'label' is blank; fill it in or remove this row"),
        (second_line('north/cat/0.png,cat,  ,p'), r":2: 'site' is blank"),
        (second_line('north/cat/0.png,Cat,north,p'), r":2: label 'Cat' is spelled like 'cat'"),
        (second_line('north/cat/0.png,\uff43at,north,p'), "label '\uff43at' is spelled like 'cat'"),
        (second_line('north/cat/0.png,fox,north,p'), r":2: class 'fox' has 1 image; add images, leave"),
        (second_line('north/cat/0.png,cat,north'), r":2: 'patient' is missing"),
        (second_line('north/cat/0.png,cat,north,p,q'), r':2: 5 fields under 4 columns'),
    ],
)  # fmt: skip
def test_tables(tmp_path, content, message):
    (tmp_path / 'labels.csv').write_bytes(content if isinstance(content, bytes) else content.encode())
    if message is None:
        dataset = read(tmp_path)
        assert dataset.metainfo['classes'] == own.CLASSES and len(dataset) == 29
        return
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path)
    assert '\n' not in str(caught.value) and str(caught.value).startswith(str(tmp_path))


def test_absolute_paths_inside_and_blanks_around_labels(tmp_path):
    (tmp_path / 'labels.csv').write_text(second_line(f'{tmp_path}/north/cat/0.png,cat ,north,p'))
    dataset = read(tmp_path)
    assert dataset.metainfo['classes'] == own.CLASSES and dataset.get_data_info(0)['img_path'].startswith(str(tmp_path))
    own.write_images(tmp_path, [path for path, *_ in ROWS])
    layout = recognise(tmp_path)
    assert "blanks at the ends of labels are left out: 'cat '" in layout.notes
    assert layout.fingerprint.startswith('36-')


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(split='vla'), r"labels\.csv: split 'vla' has no image; did you mean 'val'\?"),
        (dict(split='test'), r"split 'test' has no image; known: train, val"),
        (dict(split=3), 'split=3 is not the name of a split'),
        (dict(table='', columns=None), "set one of table='labels.csv' and tree="),
        (dict(tree='class'), 'set one of table='),
        (dict(table='', columns=None, tree='species'), "tree='species' is not one of class, split/class"),
        (dict(table='', tree='class'), 'columns, images and suffix are of a table'),
        (dict(table='none.csv'), r'none\.csv: not found; correct table or data_root'),
        (dict(table='labels.xls'), r'labels\.xls: not found'),
        (dict(columns=dict(pth='path')), "columns has no 'pth'; did you mean 'path'"),
        (dict(columns=dict(path=3)), 'columns.path=3 is not the name of a column'),
        (dict(columns=dict(metadata='patient')), "columns.metadata='patient' is not a list"),
        (dict(columns=dict(metadata=['split'])), "every record has its own 'split'"),
        (dict(columns=dict(metadata=['patient', 'patient'])), "names 'patient' twice"),
        (dict(columns='path'), "columns='path' is not a dict"),
        (dict(columns=dict(label='species')), "column 'species' is missing"),
        (dict(hold_out=['nroth']), "hold_out='nroth' is not a group of the data; did you mean 'north'"),
        (dict(hold_out='north'), "hold_out='north' is not a list of groups"),
        (dict(hold_out=['north', 'south', 'west']), 'every group is held out; leave one'),
        (dict(hold_out=['cat'], columns=dict(path='path')), r"hold_out needs groups; name their column with columns="),
        (dict(draw=None), r'nothing says which images are for training; set draw='),
        (dict(draw=dict(val=0.2, whole='ptient')), "'ptient' is not a field of the data; did you mean 'patient'"),
        (dict(draw=dict(val=0.001), split='val'), "split 'val' has no image; known: train"),
        (dict(split_names={'a': 'train'}, columns=COLUMNS | dict(split='site')), "no split is named 'a'"),
        (dict(draw=dict(val=0.2), columns=COLUMNS | dict(split='site')), "split 'train', from which to draw"),
        (dict(classes=['cat', 'dog']), r":10: label 'owl' is not one of the 2 classes; known: cat, dog"),
        (dict(classes=['cat', 'dog', 'wol']), r":10: label 'owl' is not one of the 3 classes; did you mean 'wol'"),
        (dict(classes=['cat', 'dog', 'owl', 'cat']), "metainfo.classes: 'cat' occurs twice"),
        (dict(classes=['cat', 3]), 'is not a list of names'),
        (dict(min_per_class=13), r":2: class 'cat' has 12 images; add images"),
        (dict(fingerprint='1-0'), r'has changed since the config was written: fingerprint 36-\w+, there 1-0'),
    ],
)  # fmt: skip
def test_options(tmp_path, options, message):
    (tmp_path / 'labels.csv').write_text(TABLE)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, **options)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'line, message',
    [
        ('{"path": "a.png"}', r":37: 'label' is missing \(found: path\)"),
        ('{"path": "a.png", "label": ["cat"]}', r":37: label=\['cat'\] is neither text nor a number"),
        ('["a.png", "cat"]', r':37: .* is not an object'),
        ('{"path": ', r':37: not JSON \('),
        ('[' * 5000, r':37: not JSON \('),
        ('{"path": "a.png", "label": null}', r":37: 'label' is blank"),
        ('{"path": "a.png", "label": 1}', r":37: class '1' has 1 image"),
    ],
)
def test_json_lines(tmp_path, line, message):
    file = own.write_table(tmp_path / 'labels.jsonl', ROWS)
    file.write_text(file.read_text() + line + '\n')
    with pytest.raises(UserError, match=message):
        read(tmp_path, table='labels.jsonl', columns=None)


@pytest.mark.parametrize('line, message', [
    ('a.png', r":37: 'a\.png' is not \"path label\""),
    ('north/cat/0.png cat', r':37: north/cat/0\.png is listed twice'),
    ('a b.png fox', r":37: class 'fox' has 1 image"),
])  # fmt: skip
def test_lists(tmp_path, line, message):
    file = own.write_table(tmp_path / 'labels.txt', ROWS)
    file.write_text(file.read_text() + line + '\n')
    with pytest.raises(UserError, match=message):
        read(tmp_path, table='labels.txt', columns=None)
    with pytest.raises(UserError, match="a list has no column 'site'"):
        read(tmp_path, table='labels.txt')


def test_an_image_in_two_tables(tmp_path):
    own.write_table(tmp_path / 'train.csv', ROWS)
    own.write_table(tmp_path / 'test.csv', ROWS[-1:])
    with pytest.raises(UserError, match=r'test\.csv:2: west/owl/3\.png is listed twice'):
        read(tmp_path, table=dict(train='train.csv', test='test.csv'), draw=None)


def test_recognise_names_what_it_does_not_find(tmp_path):
    own.write_images(tmp_path, [path for path, *_ in ROWS])
    labels = tmp_path / 'labels.csv'

    def refused(text: str, message: str, **options) -> None:
        labels.write_text(text)
        with pytest.raises(UserError, match=message):
            recognise(tmp_path, **options)

    refused(TABLE.replace('label', 'etikett', 1), r'no column is named like label \(found: path, etikett, site')
    refused(TABLE.replace('north/', 'nord/').replace('south/', 'x/').replace('west/', 'y/'),
            r'none of its first 36 images exists, such as nord/cat/0\.png \(looked in')  # fmt: skip
    refused(TABLE.replace(',', ';'), r"the fields are separated by ';'; write commas, or tabs in a \.tsv file")
    refused(TABLE, "hold_out='eest' is not a group of the data; did you mean 'west'", hold_out=['eest'])
    (tmp_path / 'more.csv').write_text(TABLE)
    (tmp_path / 'labels.csv').rename(tmp_path / 'list.csv')
    with pytest.raises(UserError, match=r'holds several tables \(list\.csv, more\.csv\); name the one'):
        recognise(tmp_path)
    with pytest.raises(UserError, match='no such file or directory'):
        recognise(tmp_path / 'none')
    with pytest.raises(UserError, match='is not a table'):
        recognise(tmp_path / 'north/cat/0.png')


def test_patients_in_two_given_splits_are_named(tmp_path):
    """What is drawn keeps them together; a split that is given may not."""
    own.write_images(tmp_path, [f'{i}.png' for i in range(8)])
    rows = [f'{i}.png,{"ab"[i % 2]},{"train" if i < 5 else "val"},p{i // 2}' for i in range(8)]
    (tmp_path / 'labels.csv').write_text('path,label,split,patient\n' + '\n'.join(rows) + '\n')
    notes = recognise(tmp_path).notes
    assert '1 values that should stay together are in several splits: patient p2 (a leak)' in notes


def test_splits_by_number_are_asked_for(tmp_path):
    own.write_images(tmp_path, [f'{i}.png' for i in range(8)])
    rows = [f'{i}.png,{"ab"[i % 2]},{i // 6}' for i in range(8)]
    (tmp_path / 'labels.csv').write_text('path,label,split\n' + '\n'.join(rows) + '\n')
    with pytest.raises(UserError, match=r"has no image \(splits: 0, 1\); .*: split_names=\{'0': 'train'\}\.$"):
        recognise(tmp_path).check()


def test_problems_wait_for_the_training(tmp_path):
    """recognise shows everything that is wrong; the config of a data set is refused."""
    own.write_images(tmp_path, ['a/1.png', 'a/2.png', 'a/3.png', 'A/1.png', 'b/1.png'])
    layout = recognise(tmp_path)
    assert len(layout.problems) == 5, layout
    assert 'PROBLEM' in str(layout)
    with pytest.raises(UserError, match=r"A/1\.png: label 'A' is spelled like 'a'; .* \(4 more problems\)"):
        layout.dataset('train', [])
    with pytest.raises(UserError, match='holds images but no directories of classes and no table'):
        recognise(own.write_images(tmp_path / 'b/x', ['1.png', '2.png']))


@pytest.mark.parametrize('paths, options, message', [
    (['train/1.png', 'val/1.png'], {}, 'train, val hold images but no directories of classes; add them'),
    (['x/train/a/1.png', 'x/val/a/1.png', 'y/more/a/1.png'], {}, "others such as 'more' do not; give all the same"),
    (['a/1.png', 'b/1.png'], dict(hold_out=['a']), r'hold_out needs domains above the classes \(domain/class/image'),
    (['a/1.png', 'b/1.png'], dict(table='none.csv'), r'none\.csv: not found; correct table or the path'),
    (['train/a/1.png', 'train/b/1.png', 'val/a/1.png', 'val/b/1.png'], dict(split='vla'),
     r"has no split 'vla'; did you mean 'val'"),
])  # fmt: skip
def test_directories_that_are_not_understood(tmp_path, paths, options, message):
    own.write_images(tmp_path / 'root', [*paths, *(path.replace('1.png', '3.png') for path in paths)])
    split = options.pop('split', None)
    with pytest.raises(UserError, match=message) as caught:
        layout = recognise(tmp_path / 'root', **options)
        layout.dataset(split, [])
    assert '\n' not in str(caught.value)


def test_a_tree_of_a_file_is_refused(tmp_path):
    (tmp_path / 'labels.csv').write_text(TABLE)
    with pytest.raises(UserError, match=r'labels\.csv: is neither a directory nor a table'):
        recognise(tmp_path / 'labels.csv', tree='class')


@pytest.mark.parametrize('paths, problem', [
    (['a/1.png', 'a/2.png'], r"every image is of class 'a'; training needs two classes"),
    (['val/a/1.png', 'val/b/1.png', 'test/a/1.png', 'test/b/1.png'], r"no split 'train' (found: "),
])  # fmt: skip
def test_data_that_cannot_be_trained_on_is_shown_with_its_problem(tmp_path, paths, problem):
    layout = recognise(own.write_images(tmp_path / 'root', paths))
    assert any(problem in one for one in layout.problems), layout.problems


@pytest.mark.parametrize('parquet', ['missing', 'damaged'])
def test_parquet(tmp_path, monkeypatch, parquet):
    pytest.importorskip('pyarrow')
    (tmp_path / 'labels.parquet').write_bytes(b'no table')
    message = r'labels\.parquet: not a Parquet file \(.*\); write it again'
    if parquet == 'missing':
        monkeypatch.setitem(sys.modules, 'pyarrow', None)
        message = r"labels\.parquet: Parquet needs pyarrow; run: pip install 'ftsgd_plugin\[hf\]'"
    for call in (lambda: recognise(tmp_path), lambda: read(tmp_path, table='labels.parquet', columns=None)):
        with pytest.raises(UserError, match=message):
            call()


def test_a_column_that_a_parquet_table_lacks(tmp_path):
    pytest.importorskip('pyarrow')
    own.write_table(tmp_path / 'labels.parquet', ROWS)
    with pytest.raises(UserError, match=r"parquet: column 'species' is missing \(found: path, label, site, patient\)"):
        read(tmp_path, table='labels.parquet', columns=dict(label='species'))


def test_json_lines_without_an_object_have_no_columns(tmp_path):
    (tmp_path / 'labels.jsonl').write_text('{"path": \n')
    with pytest.raises(UserError, match='no column is named like path'):
        recognise(tmp_path)


def test_saved_data_that_cannot_be_loaded(tmp_path, monkeypatch):
    hf = pytest.importorskip('datasets')
    columns = dict(path='image', label='species')
    rows = dict(image=[None, None], label=[0, 1])
    features = hf.Features(image=hf.Image(), label=hf.Value('int64'))
    hf.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / 'saved'))
    with pytest.raises(UserError, match=r"saved: column 'species' is missing \(found: image, label\); name the right"):
        read(tmp_path, table='saved', columns=columns)
    with pytest.raises(OSError, match='the row has no image'):
        saved_image(f'{tmp_path}/saved/image/0000001')
    damaged = tmp_path / 'damaged'
    damaged.mkdir()
    for name in ('state.json', 'dataset_info.json'):
        (damaged / name).write_text('{')
    with pytest.raises(UserError, match=r'damaged: cannot be loaded by datasets \(.*\); save it again'):
        recognise(damaged)
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(UserError, match=r"damaged: is saved by datasets; run: pip install 'ftsgd_plugin\[hf\]'"):
        recognise(damaged)


def test_directories_nested_too_deep_or_unreadable(tmp_path, monkeypatch):
    own.write_images(tmp_path, ['a/b/c/1.png', 'b/b/c/1.png'])
    with monkeypatch.context() as patch:
        patch.setattr(trees, '_DEEPEST', 1)
        with pytest.raises(UserError, match=rf'a/b: more than 1 directories below {tmp_path}; name a directory nearer'):
            recognise(tmp_path)

    def scandir(path):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(trees.os, 'scandir', scandir)
    with pytest.raises(UserError, match=r': cannot be read \(Permission denied\); correct the path or its permissions'):
        list(trees.walk(str(tmp_path), trees.Scan()))
