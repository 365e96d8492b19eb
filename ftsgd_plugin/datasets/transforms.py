"""Load images exactly as torchvision's default loader does, and refuse those that it would load wrongly.

Colour order. Pipelines of this package handle RGB images (PIL). MMPretrain fixes the order at the boundary between any
pipeline and any ``data_preprocessor``: BGR, converted back on the device by ``to_rgb=True``. :class:`PackRGB` alone
meets this contract, so that our datasets work with stock model configs and our model parts with stock pipelines.
"""

import os.path as osp

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from ..utils.errors import one_line

_DEEP_MODES = ('I', 'F')  # 16-bit and float images; PIL clips them at 255 when it converts


@TRANSFORMS.register_module()
class LoadRGBImage(BaseTransform):
    """Load an image as RGB, with the pixels of torchvision's default loader (and the paper's code).

    No EXIF rotation; CMYK and palettes converted by PIL. ``img`` stays a PIL image, which ``torchvision/...``
    transforms take; end the pipeline with :class:`PackRGB`.

    Required keys: ``img_path``. Added keys: ``img`` (PIL.Image.Image), ``img_shape``, ``ori_shape`` (height, width).

    Args:
        draft (int, optional): Let libjpeg decode large JPEGs at 1/2, 1/4 or 1/8 of their size, as long as both sides
            keep this many pixels. Faster, but the pixels after resizing differ (``benchmarks/data.py`` measures both).
            Defaults to ``None``: exact.

    Raises:
        ValueError: The image has more than 8 bits per channel or more than one frame.
    """

    def __init__(self, draft: int | None = None) -> None:
        self.draft = draft

    def transform(self, results: dict) -> dict:
        """Load ``results['img_path']``."""
        with Image.open(results['img_path']) as image:
            _refuse(image)
            if self.draft is not None:
                image.draft('RGB', (self.draft, self.draft))
            image.load()
            results['img'] = image if image.mode == 'RGB' else image.convert('RGB')
        results['img_shape'] = results['ori_shape'] = results['img'].size[::-1]
        return results


@TRANSFORMS.register_module()
class PackRGB(BaseTransform):
    """Convert an RGB image to the tensor in BGR order that MMPretrain's preprocessors expect.

    Required keys: ``img`` (PIL.Image.Image or array, height x width x 3, uint8, RGB). Modified keys: ``img`` (tensor,
    3 x height x width, uint8, BGR, contiguous), ``img_shape`` (height, width).
    """

    def transform(self, results: dict) -> dict:
        """Replace ``results['img']``. The values of the pixels do not change."""
        image = np.asarray(results['img'])
        planes = np.empty((3, *image.shape[:2]), np.uint8)
        for i, plane in enumerate(planes):  # one copy per channel; several times faster than a transposed copy
            cv2.extractChannel(image, 2 - i, plane)
        results['img'] = torch.from_numpy(planes)
        results['img_shape'] = image.shape[:2]
        return results


def _refuse(image: Image.Image) -> None:
    if getattr(image, 'n_frames', 1) > 1:
        raise ValueError(f'has {image.n_frames} frames')
    if image.mode.startswith(_DEEP_MODES):
        raise ValueError(f'has more than 8 bits per channel (mode {image.mode})')


def why_unreadable(path: str) -> str | None:
    """Why an image cannot be used, as text; ``None`` if it can."""
    if not osp.isfile(path):
        return 'image not found'
    try:
        with Image.open(path) as image:
            _refuse(image)
            image.load()
    except Exception as error:
        reason = one_line(str(error).replace(repr(path), ''))
        return f'not a complete 8-bit image ({reason})'
    return None
