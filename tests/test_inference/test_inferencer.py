"""MMPretrain's ``ImageClassificationInferencer`` and ``get_model`` on what a run left on disk."""

import mmcv
import numpy as np
import pytest
from helpers import ROOT
from mmengine.config import Config
from mmpretrain import ImageClassificationInferencer, get_model
from PIL import Image

from ftsgd_plugin.datasets import LoadRGBImage
from ftsgd_plugin.inference.predict import predict
from ftsgd_plugin.inference.run import load_run

DATASETS = ('camelyon', 'digits', 'domainnet', 'fmow', 'living17', 'waterbirds')


@pytest.fixture(scope='module')
def files(digits_root):
    return [str(path) for path in sorted(digits_root.rglob('*.jpg'))[:5]] or [
        str(path) for path in sorted(digits_root.rglob('*.png'))[:5]
    ]


@pytest.fixture(scope='module')
def inferencer(finished_run):
    config, best = next(finished_run.glob('*.py')), next(finished_run.glob('best_*.pth'))
    return ImageClassificationInferencer(str(config), pretrained=str(best), device='cpu')


def test_inferencer_gives_the_scores_of_the_run_with_class_names(inferencer, finished_run, files):
    run = load_run(finished_run, device='cpu')
    ((scored, _),) = predict(run, files)
    found = inferencer(files, batch_size=5)
    for (_, scores), one in zip(scored, found, strict=True):
        assert np.array_equal(one['pred_scores'], scores)
        assert one['pred_class'] == run.classes[one['pred_label']] and one['pred_label'] == scores.argmax()


def test_arrays_are_in_the_order_of_opencv_as_everywhere_in_mmpretrain(inferencer, files):
    arrays = [np.ascontiguousarray(np.asarray(Image.open(file).convert('RGB'))[..., ::-1]) for file in files]
    for one, other in zip(inferencer(arrays, batch_size=5), inferencer(files, batch_size=5), strict=True):
        assert np.array_equal(one['pred_scores'], other['pred_scores'])


def test_pictures_can_be_drawn(inferencer, files, tmp_path):
    inferencer(files[:1], show_dir=str(tmp_path))
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize('dataset', DATASETS)
def test_the_pipeline_of_every_data_set_takes_files_and_arrays(dataset, tmp_path):
    """A photo with an EXIF rotation, which the readers of this package do not apply."""
    exif = Image.Exif()
    exif[0x0112] = 6
    size = {'fmow': (224, 224), 'digits': (32, 32)}.get(dataset, (300, 260))
    coarse = np.random.RandomState(0).randint(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(tmp_path / 'a.png', exif=exif)
    cfg = Config.fromfile(ROOT / f'configs/_base_/datasets/{dataset}.py')
    inferencer = ImageClassificationInferencer.__new__(ImageClassificationInferencer)
    inferencer.pipeline = inferencer._init_pipeline(cfg)
    array = np.ascontiguousarray(np.asarray(Image.open(tmp_path / 'a.png'))[..., ::-1])
    (batch,) = inferencer.preprocess([str(tmp_path / 'a.png'), array], batch_size=2)
    one, other = batch['inputs']
    side = 32 if dataset == 'digits' else 224
    assert one.shape == (3, side, side) and (one == other).all()


def test_get_model_knows_the_classes_and_reads_no_pretrained_weights(finished_run):
    config, best = next(finished_run.glob('*.py')), next(finished_run.glob('best_*.pth'))
    model = get_model(str(config), pretrained=str(best), device='cpu')
    assert list(model._dataset_meta['classes']) == ['digit-0-4', 'digit-5-9']


def test_other_configs_go_through_the_code_of_mmpretrain(files):
    """Their files are read by OpenCV, as before."""
    cfg = Config.fromfile(f'{ROOT}/configs/_base_/models/vit-tiny.py')
    cfg.model.head.num_classes = 2
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')]
    cfg.test_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=pipeline))
    inferencer = ImageClassificationInferencer(cfg, pretrained=False, device='cpu')
    assert [type(one).__name__ for one in inferencer.pipeline.transforms] == ['Resize', 'PackInputs']
    (batch,) = inferencer.preprocess(files[:1])
    assert (batch['inputs'][0].numpy() == mmcv.imread(files[0]).transpose(2, 0, 1)).all()


@pytest.mark.parametrize(
    'array', [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_images_are_refused(array):
    with pytest.raises(ValueError, match='is an array of'):
        LoadRGBImage()({'img': array})


def test_images_in_memory():
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    for image in (grey, Image.fromarray(grey), np.dstack([grey] * 3)):
        loaded = LoadRGBImage()({'img': image})
        assert (np.asarray(loaded['img']) == grey[..., None]).all() and loaded['ori_shape'] == (4, 4)
