"""Read images without decoding them, for a network's device to do it."""

import io

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from .readers.saved import saved_image
from .transforms import check_supported, load_rgb


@TRANSFORMS.register_module()
class ReadEncodedImage(BaseTransform):
    """Read the bytes of an image file, to be decoded by :class:`ftsgd_plugin.models.DecodingPreprocessor`.

    The file's header is read, so that animations and images of more than 8 bits per channel are refused as by
    ``LoadRGBImage``. A JPEG of a kind that decoders convert differently (CMYK) is decoded by Pillow and passed on as
    PNG.

    Required keys: ``img_path``. Added keys: ``img`` (tensor, one-dimensional, uint8), ``img_shape``, ``ori_shape``
    (height, width).

    Raises:
        ValueError: As ``LoadRGBImage``.
    """

    def transform(self, results: dict) -> dict:
        """Add the bytes of ``results['img_path']``."""
        source = saved_image(results['img_path'])
        with Image.open(source) as image:
            check_supported(image)
            shape, is_plain = image.size[::-1], image.format != 'JPEG' or image.mode in ('RGB', 'L')
        if not is_plain:
            content = io.BytesIO()
            load_rgb(results['img_path']).save(content, 'PNG', compress_level=1)
            encoded = content.getvalue()
        elif isinstance(source, io.BytesIO):
            encoded = source.getvalue()
        else:
            with open(source, 'rb') as file:
                encoded = file.read()
        results['img'] = torch.from_numpy(np.frombuffer(encoded, np.uint8).copy())
        results['img_shape'] = results['ori_shape'] = shape
        return results
