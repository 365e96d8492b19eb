"""Load images exactly as torchvision's default loader does, and refuse those that it would load wrongly.

Colour order. Pipelines of this package handle RGB images (PIL). MMPretrain fixes the order at the boundary between any
pipeline and any ``data_preprocessor``: BGR, converted back on the device by ``to_rgb=True``. :class:`PackRGB` alone
meets this contract, so that our datasets work with stock model configs and our model parts with stock pipelines.
"""

import os.path as osp
from typing import BinaryIO

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from ..utils.errors import one_line
from .readers.saved import saved_image

_DEEP_MODES = ('I', 'F')  # 16-bit and float images; PIL clips them at 255 when it converts
_ONE_IMAGE = ('MPO', 'PSD')  # formats whose further frames are previews, depths or layers of the first


class UnsupportedImageError(ValueError):
    """An intact image of a kind that would be loaded wrongly; the text says which."""


@TRANSFORMS.register_module()
class LoadRGBImage(BaseTransform):
    """Load an image as RGB, with the pixels of torchvision's default loader (and the paper's code).

    No EXIF rotation; CMYK and palettes converted by PIL; of a camera's MPO file the main image. ``img`` stays a PIL
    image, which ``torchvision/...`` transforms take; end the pipeline with :class:`PackRGB`.

    Required keys: ``img_path``; without it ``img``: a PIL image, or an array as OpenCV and MMPretrain's inferencers
    have it (height x width x 3 in BGR order, or height x width; uint8). Added keys: ``img`` (PIL.Image.Image),
    ``img_shape``, ``ori_shape`` (height, width).

    Args:
        draft (int, optional): Let libjpeg decode large JPEGs at 1/2, 1/4 or 1/8 of their size, as long as both sides
            keep this many pixels. Faster, but the pixels after resizing differ (``benchmarks/data.py`` measures both).
            Defaults to ``None``: exact.

    Raises:
        ValueError: The image has more than 8 bits per channel, is an animation or has several pages, or an array is not
            an image.
    """

    def __init__(self, draft: int | None = None) -> None:
        self.draft = draft

    def transform(self, results: dict) -> dict:
        """Load ``results['img_path']``, or convert ``results['img']`` if there is no path."""
        in_memory = 'img_path' not in results and results.get('img') is not None
        results['img'] = _from_memory(results['img']) if in_memory else load_rgb(results['img_path'], self.draft)
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


def load_rgb(file: str | BinaryIO, draft: int | None = None) -> Image.Image:
    """The RGB image in a file, by its path or opened, or in a row of a data set that ``datasets`` has saved."""
    with Image.open(file if hasattr(file, 'read') else saved_image(file)) as image:
        check_supported(image)
        if draft is not None:
            image.draft('RGB', (draft, draft))
        image.load()
        return _to_rgb(image)


def check_supported(image: Image.Image) -> None:
    """Refuse what would be loaded wrongly; reads the header only.

    Raises:
        UnsupportedImageError: The image has more than 8 bits per channel, is an animation or has several pages.
    """
    if image.format not in _ONE_IMAGE and (frames := _count_frames(image)) > 1:
        raise UnsupportedImageError(f'has {frames} frames')
    if image.mode.startswith(_DEEP_MODES):
        raise UnsupportedImageError(f'has more than 8 bits per channel (mode {image.mode})')


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == 'RGB':
        return image
    try:
        return image.convert('RGB')
    except ValueError:
        raise UnsupportedImageError(f'has no conversion to RGB (mode {image.mode})') from None


def _from_memory(image: Image.Image | np.ndarray) -> Image.Image:
    """The RGB image in a PIL image or in an array of OpenCV's layout."""
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        raise UnsupportedImageError(
            f'is an array of {array.dtype} with shape {array.shape} instead of uint8, height x width x 3'
        )
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array if array.ndim == 2 else array[..., ::-1])))


def _count_frames(image: Image.Image) -> int:
    try:
        return getattr(image, 'n_frames', 1)
    except Exception:  # damaged behind the first frame, which is all that is read
        return 1


def why_unreadable(path: str) -> str | None:
    """Why an image cannot be used, as text; ``None`` if it can."""
    try:
        if saved_image(path) is path and not osp.isfile(path):
            return 'image not found'
        load_rgb(path)
    except UnsupportedImageError as error:
        return str(error)
    except Image.DecompressionBombError as error:
        return f'too large ({one_line(error)})'
    except MemoryError:
        return None  # not the image's fault
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            return f'cannot be read ({error.strerror})'
        reason = one_line(str(error).replace(repr(path), ''))
        return f'not a complete 8-bit image ({reason})'
    return None
