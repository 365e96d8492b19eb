"""Decoding on the network's device, by its twin on the CPU; ``tests/test_gpu.py`` has the GPU."""

import io

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image
from torchvision.transforms import functional as F

from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.utils.errors import UserError

NORMALISE = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 58.0, 57.0], to_rgb=True)
PIPELINE = [dict(type='ReadEncodedImage'), dict(type='PackInputs')]


def write(path, mode='RGB', size=(60, 44), **options):
    """A smooth image."""
    coarse = np.random.RandomState(len(str(path))).randint(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path, **options)
    return path


def batch_of(paths) -> dict:
    pipeline = Compose([TRANSFORMS.build({**step, '_scope_': 'mmpretrain'}) for step in PIPELINE])
    return pseudo_collate([pipeline(dict(img_path=str(path), gt_label=0)) for path in paths])


def preprocessor(*steps, **options):
    steps = [{**step, '_scope_': 'mmpretrain'} for step in steps]
    return MODELS.build(dict(type='mmpretrain.DecodingPreprocessor', steps=steps, **NORMALISE, **options))


def by_pillow(path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(NORMALISE[name]).view(3, 1, 1) for name in ('mean', 'std'))
    return (images.float() - mean) / std


def test_images_of_every_kind_are_those_of_pillow(tmp_path):
    """Without steps: JPEG by libjpeg, to the bit; the others by Pillow itself."""
    paths = [
        write(tmp_path / 'a.jpg', quality=90),
        write(tmp_path / 'grey.jpg', 'L'),
        write(tmp_path / 'cmyk.jpg', 'CMYK'),
        write(tmp_path / 'progressive.jpg', progressive=True),
        write(tmp_path / 'a.png'),
    ]
    batch = batch_of(paths)
    assert [one.ndim for one in batch['inputs']] == [1] * 5
    found = preprocessor()(batch, True)
    expected = normalised(torch.stack([by_pillow(path) for path in paths]))
    assert (found['inputs'] - expected).abs().max() <= 1 / 57 + 1e-5  # a value of 255, of rounding
    assert torch.equal(found['inputs'][2], expected[2]) and torch.equal(found['inputs'][4], expected[4])


def test_steps_are_those_of_torchvision_on_tensors_with_the_same_draws(tmp_path):
    paths = [write(tmp_path / f'{i}.jpg', size=(60 + i, 44)) for i in range(4)]
    crop = dict(type='torchvision/RandomResizedCrop', size=16)
    flip = dict(type='torchvision/RandomHorizontalFlip')
    torch.manual_seed(0)
    found = preprocessor(crop, flip)(batch_of(paths), True)['inputs']
    torch.manual_seed(0)
    from torchvision import transforms as T

    steps = T.Compose([T.RandomResizedCrop(16), T.RandomHorizontalFlip()])
    expected = normalised(torch.stack([steps(by_pillow(path)) for path in paths]))
    assert (found - expected).abs().max() <= 2 / 57 and found.shape == (4, 3, 16, 16)
    resized = preprocessor(dict(type='torchvision/Resize', size=(20, 24)))(batch_of(paths[:1]))['inputs'][0]
    pillow = normalised(F.pil_to_tensor(F.resize(Image.open(paths[0]), (20, 24))))
    assert (resized - pillow).abs().max() <= 3 / 57  # not the same: tensors round otherwise


def test_a_batch_of_an_ordinary_pipeline_passes_as_it_is():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    stock = MODELS.build(dict(type='mmpretrain.ClsDataPreprocessor', **NORMALISE))
    expected = stock(dict(inputs=images))['inputs']
    assert torch.equal(preprocessor(dict(type='torchvision/Resize', size=4))(dict(inputs=images))['inputs'], expected)


def test_what_cannot_be_decoded_is_one_line(tmp_path):
    path = write(tmp_path / 'cut.jpg', size=(200, 200))
    path.write_bytes(path.read_bytes()[:-300])
    good = write(tmp_path / 'good.jpg', size=(200, 200))
    with pytest.raises(UserError, match=r'cut.jpg: not a complete 8-bit image .*; restore the file'):
        preprocessor()(batch_of([good, path]))
    with pytest.raises(UserError, match=r'data_preprocessor.steps: the images of a batch are of several sizes'):
        preprocessor()(batch_of([good, write(tmp_path / 'small.jpg')]))
    Image.new('I;16', (8, 8)).save(tmp_path / 'deep.png')
    with pytest.raises(ValueError, match='more than 8 bits'):
        batch_of([tmp_path / 'deep.png'])


def test_a_training_decodes_on_the_device_and_its_evaluation_does_not(digits_config):
    """The loader's collation follows; without the preprocessor it is one line before anything is built."""
    cfg = digits_config('freeze-embed', 24, launcher='none', **{'train_cfg.max_epochs': 1})
    cfg.train_dataloader.dataset.pipeline = PIPELINE
    with pytest.raises(UserError, match=r"train_dataloader: ReadEncodedImage needs model.data_preprocessor.type='Deco"):
        build_runner(cfg)
    cfg.model.data_preprocessor.type = 'DecodingPreprocessor'
    cfg.model.data_preprocessor.steps = [dict(type='torchvision/RandomHorizontalFlip')]
    runner = build_runner(cfg)
    runner.train()
    assert 0 <= runner.message_hub.get_scalar('val/id/accuracy').current() <= 1


def test_bytes_of_a_saved_image_are_read_as_they_are(tmp_path):
    content = io.BytesIO()
    Image.new('RGB', (8, 6), (1, 2, 3)).save(content, 'PNG')
    (tmp_path / 'a.png').write_bytes(content.getvalue())
    sample = batch_of([tmp_path / 'a.png'])
    assert bytes(sample['inputs'][0].tolist()) == content.getvalue()
