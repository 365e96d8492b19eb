"""Every benchmark in a data loader: the same records in every worker, lazily or not; images that cannot be used."""

import pickle
from pathlib import Path

import pytest
import torch
from helpers.reading import KINDS, PIPELINE, records
from mmpretrain.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from ftsgd_plugin.datasets import Camelyon17
from ftsgd_plugin.datasets.base import MAX_BAD_IMAGES, BenchmarkDataset
from ftsgd_plugin.evaluation import GroupAccuracy
from ftsgd_plugin.utils.errors import UserError


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
    assert records(pickle.loads(pickle.dumps(dataset))) == records(dataset)  # as spawned workers receive it


@pytest.mark.usefixtures('run_forked')
def test_workers_that_inherit_nothing_see_the_same(camelyon_root):
    """Children of the fork server get the pickled dataset, as spawned ones do."""
    dataset = Camelyon17(data_root=str(camelyon_root), split='train', pipeline=PIPELINE, indices=8)
    assert batches(dataset, num_workers=1, multiprocessing_context='forkserver') == batches(dataset)


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


class OfTuples(BenchmarkDataset):
    """A benchmark that makes its records itself, as those for version 0.1.0 do."""

    SPLITS = ('val', 'test')
    METADATA = 'list.csv'

    def read_records(self):
        yield dict(img_path='a.png', gt_label=1, group='left')


def test_split_of_records_that_do_not_name_it(tmp_path):
    (tmp_path / 'list.csv').touch()
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    dataset = OfTuples(data_root=str(tmp_path), split='test', pipeline=PIPELINE)
    metric = GroupAccuracy(id='test', ood='test')
    sample = dataset[0]['data_samples'].to_dict()
    metric.process({}, [{**sample, 'pred_label': sample['gt_label']}])
    assert metric.evaluate(1)['split/test'] == 1.0


def sixteen_bit(path):
    Image.new('I;16', (96, 96)).save(path)


def animated(path):
    frames = [Image.new('RGB', (96, 96), colour) for colour in ('red', 'blue')]
    frames[0].save(path, format='GIF', save_all=True, append_images=frames[1:])


@pytest.mark.parametrize('damage, message', [
    (lambda path: path.write_bytes(b''), 'not a complete 8-bit image'),
    (sixteen_bit, r'has more than 8 bits per channel \(mode I;16\)'),
    (animated, 'has 2 frames'),
], ids=['zero bytes', '16 bit', 'animated'])  # fmt: skip
def test_unusable_image_is_named(camelyon_root, copy, damage, message):
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


def test_skipping_counts_lists_and_bounds_bad_images(camelyon_root, copy):
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


def test_a_bad_image_counts_once_however_often_it_is_drawn(camelyon_root, copy):
    """Workers may stay for a whole training, in which every epoch draws it again."""
    dataset = Camelyon17(data_root=str(copy(camelyon_root)), split='train', pipeline=PIPELINE, on_bad_image='skip')
    path = dataset.get_data_info(0)['img_path']
    Path(path).unlink()
    for _ in range(3 * MAX_BAD_IMAGES):
        assert dataset[0]['data_samples'].img_path != path
    assert dataset.bad_images == [path]


def test_evaluation_never_skips(camelyon_root, copy):
    root = copy(camelyon_root)
    dataset = Camelyon17(data_root=str(root), split='test', pipeline=PIPELINE, on_bad_image='skip', test_mode=True)
    Path(dataset.get_data_info(0)['img_path']).unlink()
    with pytest.raises(UserError, match='image not found'):
        dataset[0]
