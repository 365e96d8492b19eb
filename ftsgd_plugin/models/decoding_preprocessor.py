"""Decode and transform images on the network's device."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseDataPreprocessor
from mmpretrain.registry import MODELS, TRANSFORMS
from torchvision.io import ImageReadMode, decode_jpeg

from ..datasets.transforms import load_rgb, why_unreadable
from ..utils.errors import UserError

_JPEG = (0xFF, 0xD8, 0xFF)  # the first bytes of such a file


@MODELS.register_module()
class DecodingPreprocessor(BaseDataPreprocessor):
    """MMPretrain's ``ClsDataPreprocessor`` for batches of which :class:`ReadEncodedImage` has read the bytes.

    JPEGs are decoded by ``torchvision.io.decode_jpeg``: on a GPU by nvJPEG, on a CPU by libjpeg-turbo. What cannot be
    decoded so, and other formats, is decoded by Pillow. Pixels differ from those of ``LoadRGBImage``: resizing on
    tensors rounds otherwise than Pillow, and nvJPEG decodes otherwise than libjpeg. Random steps draw in the training
    process, by the iteration, not in the workers. A batch of an ordinary pipeline passes as it is, so that a config may
    decode on the device for its training alone.

    Args:
        steps (Sequence[dict]): Transforms of each image, a tensor in RGB order: ``dict(type='torchvision/...')``. They
            end with one size.
        mean, std, to_rgb, to_onehot, num_classes, batch_augments: As ``ClsDataPreprocessor``.

    Raises:
        UserError: An image cannot be decoded, or the images of a batch differ in size after ``steps``.

    Examples:
        >>> train_dataloader = dict(dataset=dict(pipeline=[dict(type='ReadEncodedImage'), dict(type='PackInputs')]))
        >>> model = dict(data_preprocessor=dict(type='DecodingPreprocessor', steps=[
        >>>     dict(type='torchvision/RandomResizedCrop', size=224), dict(type='torchvision/RandomHorizontalFlip')]))
    """

    def __init__(
        self,
        steps: Sequence[dict] = (),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        to_rgb: bool = False,
        to_onehot: bool = False,
        num_classes: int | None = None,
        batch_augments: dict | None = None,
    ) -> None:
        super().__init__()
        self.steps = [TRANSFORMS.build(step) for step in steps]
        options = dict(mean=mean, std=std, to_rgb=to_rgb, to_onehot=to_onehot, num_classes=num_classes)
        # Not a base class: the module of that one imports every model of MMPretrain.
        self.normalise = MODELS.build(
            dict(type='mmpretrain.ClsDataPreprocessor', batch_augments=batch_augments, **options)
        )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Decode what is encoded, then as ``ClsDataPreprocessor``."""
        inputs = data['inputs']
        if isinstance(inputs, list | tuple) and inputs and all(one.ndim == 1 for one in inputs):
            paths = [sample.get('img_path') for sample in data.get('data_samples') or [{}] * len(inputs)]
            images = [self._apply_steps(image) for image in self._decode(list(inputs), paths)]
            if len({image.shape for image in images}) > 1:
                shapes = ', '.join(sorted({f'{image.shape[1]} x {image.shape[2]}' for image in images})[:3])
                raise UserError(
                    f'data_preprocessor.steps: the images of a batch are of several sizes ({shapes}); add a '
                    "dict(type='torchvision/Resize', size=(224, 224))."
                )
            data = {**data, 'inputs': torch.stack(images).flip(1)}  # to BGR, as every pipeline hands it on
        self.normalise._device = self.device  # it is told to the outermost preprocessor only
        return self.normalise(data, training)

    def _apply_steps(self, image: torch.Tensor) -> torch.Tensor:
        results: dict[str, Any] = {'img': image}
        for step in self.steps:
            results = step(results)
        return results['img']

    def _decode(self, encoded: list[torch.Tensor], paths: list[str | None]) -> list[torch.Tensor]:
        images: list[torch.Tensor | None] = [None] * len(encoded)
        jpegs = [i for i, content in enumerate(encoded) if tuple(content[:3].tolist()) == _JPEG]
        if jpegs:
            try:
                found = decode_jpeg([encoded[i] for i in jpegs], mode=ImageReadMode.RGB, device=self.device)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # of one of them, and nothing says which
                found = [self._decode_alone(encoded[i]) for i in jpegs]
            for i, image in zip(jpegs, found):
                images[i] = image
        return [
            self._by_pillow(content, path) if image is None else image
            for image, content, path in zip(images, encoded, paths)
        ]

    def _decode_alone(self, content: torch.Tensor) -> torch.Tensor | None:
        try:
            return decode_jpeg(content, mode=ImageReadMode.RGB, device=self.device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return None

    def _by_pillow(self, content: torch.Tensor, path: str | None) -> torch.Tensor:
        try:
            image = load_rgb(io.BytesIO(content.numpy().tobytes()))
        except Exception as error:
            if path is None or (reason := why_unreadable(path)) is None:
                raise
            raise UserError(f'{path}: {reason}; restore the file, or leave it out.') from error
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(self.device)
