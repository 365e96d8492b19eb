"""ELPV: out of its package, the splits, and the parts that read them."""

import csv
from collections import Counter

import pytest
from helpers import ROOT
from helpers.cells import CELLS, LEVELS, write_cells_wheel
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS

from ftsgd_plugin.datasets import elpv
from ftsgd_plugin.utils import packages
from ftsgd_plugin.utils.errors import UserError


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    """The cache that is named has a package of 120 small cells."""
    write_cells_wheel(tmp_path, monkeypatch)
    return str(tmp_path)


def test_images_and_table_are_written_once(package, tmp_path, capsys, monkeypatch):
    root = tmp_path / 'data'
    assert elpv.prepare_elpv(root, scan=True, workers=1, cache=package)
    said = capsys.readouterr().out
    assert '120 images' in said and 'CC BY-NC-SA 4.0 (images; non-commercial)' in said
    assert 'all 120 images can be decoded' in said
    assert len(list(root.glob('images/*.png'))) == 120
    monkeypatch.setattr(elpv, 'download_wheel', None)  # is not called again
    assert elpv.prepare_elpv(root)
    (root / 'images/cell0007.png').unlink()
    assert not elpv.prepare_elpv(root) and '1 missing, e.g.' in capsys.readouterr().out
    (root / 'elpv.csv').write_text('path,label\n')
    with pytest.raises(UserError, match=r'elpv\.csv: is not the table of this version .*; remove it'):
        elpv.prepare_elpv(root)


def test_an_incomplete_package_is_refused(package, tmp_path, monkeypatch):
    monkeypatch.setattr(elpv, 'COUNT', 2624)
    with pytest.raises(UserError, match=r'lists 120 cells and has 120 images instead of 2,624'):
        elpv.prepare_elpv(tmp_path / 'data', cache=package)
    assert not (tmp_path / 'data/elpv.csv').exists()


def test_splits_are_of_each_probability_and_of_the_paths_alone():
    cells = [elpv.Cell(path, float(probability), kind) for path, probability, kind in CELLS]
    for kind, other in (('mono', 'poly'), ('poly', 'mono')):
        splits = dict(zip([cell.path for cell in cells], elpv.draw_splits(cells, kind)))
        backwards = dict(zip([cell.path for cell in cells[::-1]], elpv.draw_splits(cells[::-1], kind)))
        assert splits == backwards
        counts = Counter((splits[cell.path], cell.kind, cell.probability) for cell in cells)
        for probability in map(float, LEVELS):
            own = [counts[split, kind, probability] for split in ('train', 'test', 'ood')]
            assert own[1] == round(0.3 * sum(own[:2])) > 0 and own[2] == 0
            assert counts['train', other, probability] == counts['test', other, probability] == 0
        assert elpv.draw_splits(cells, kind, seed=1) != list(splits.values())
    assert [elpv.Cell('a', p, 'mono').label for p in (0.0, 1 / 3, 2 / 3, 1.0)] == ['functional'] * 2 + ['defective'] * 2


@pytest.mark.parametrize('kind', elpv.KINDS)
def test_parts_read_the_splits_of_the_table(package, tmp_path, kind):
    init_default_scope('mmpretrain')
    root = tmp_path / 'data'
    elpv.prepare_elpv(root, cache=package)
    rows = list(csv.DictReader(open(root / 'elpv.csv')))  # noqa: SIM115
    cfg = Config.fromfile(ROOT / f'configs/_base_/datasets/elpv-{kind}.py')
    datasets = [cfg.train_dataloader.dataset, *cfg.val_dataloader.dataset.datasets]
    for dataset, split in zip(datasets, ('train', 'test', 'ood')):
        dataset.data_root = str(root)
        built = DATASETS.build(dataset)
        expected = [row for row in rows if row[f'elpv-{kind}'] == split]
        found = [built.get_data_info(i) for i in range(len(built))]
        assert [one['img_path'] for one in found] == [f'{root}/{row["path"]}' for row in expected]
        assert [('functional', 'defective')[one['gt_label']] for one in found] == [row['label'] for row in expected]
        assert {one['group'].partition('_')[0] for one in found} == {row['kind'] for row in expected}
        assert built[0]['inputs'].shape == (3, 224, 224)
    assert (cfg.val_evaluator.id, cfg.val_evaluator.ood) == ('test', 'ood')


@pytest.mark.slow
def test_the_package_has_the_published_cells(tmp_path):
    """The real package, where it was downloaded before."""
    try:
        wheel = packages.download_wheel(elpv.PACKAGE)
    except UserError as error:
        pytest.skip(str(error))
    assert elpv.prepare_elpv(tmp_path / 'data', scan=True, workers=2, cache=wheel.parent)
    rows = list(csv.DictReader(open(tmp_path / 'data/elpv.csv')))  # noqa: SIM115
    counts = Counter((row['kind'], row['probability']) for row in rows)
    assert [counts['mono', p] for p in ('0', '0.3333', '0.6667', '1')] == [588, 117, 56, 313]
    assert [counts['poly', p] for p in ('0', '0.3333', '0.6667', '1')] == [920, 178, 50, 402]
