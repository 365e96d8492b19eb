"""Image files of many kinds against torchvision's default loader: the same pixels, or a reason that is true."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features
from torchvision.datasets.folder import default_loader

from ftsgd_plugin.datasets.transforms import LoadRGBImage, why_unreadable

RNG = np.random.RandomState(0)
PIXELS = cv2.resize(RNG.randint(0, 256, (6, 7, 4), np.uint8), (41, 30), interpolation=cv2.INTER_CUBIC)
RGBA = Image.fromarray(PIXELS)
RGB = RGBA.convert('RGB')
DEEP = Image.fromarray((PIXELS[..., 0].astype(np.uint16) * 200).astype(np.uint16))


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def mode(name: str, format: str, **options) -> bytes:
    return saved(RGBA.convert(name) if name != 'PA' else RGB.convert('P').convert('PA'), format, **options)


def frames(format: str, **options) -> bytes:
    return saved(RGB, format, save_all=True, append_images=[RGB.rotate(180)], **options)


def rotated(orientation: int, format: str = 'JPEG') -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(RGB, format, exif=exif)


def by_cv2(suffix: str, array: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, array, list(options))[1].tobytes()


def bomb() -> bytes:
    """A PNG whose header claims 40,000 x 40,000 pixels."""
    content = bytearray(mode('L', 'PNG'))
    content[16:24] = struct.pack('>II', 40_000, 40_000)
    content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
    return bytes(content)


def with_a_broken_second_page() -> bytes:
    """A TIFF whose first directory points to one beyond the end of the file."""
    content = bytearray(mode('RGB', 'TIFF'))
    (offset,) = struct.unpack('<I', content[4:8])
    (entries,) = struct.unpack('<H', content[offset : offset + 2])
    content[offset + 2 + 12 * entries : offset + 6 + 12 * entries] = struct.pack('<I', len(content) + 1000)
    return bytes(content)


SAME, FRAMES, BITS = 'same', 'has 2 frames', 'has more than 8 bits per channel'
BROKEN = 'not a complete 8-bit image'
RGB_JPEG, RGB_PNG = mode('RGB', 'JPEG'), mode('RGB', 'PNG')
Kinds = dict[str, tuple[Callable[[], bytes], str]]
KINDS: Kinds = {
    **{f'png {name}': (lambda name=name: mode(name, 'PNG'), SAME) for name in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA')},
    'png of 1 bit per palette index': (lambda: saved(RGB.quantize(2), 'PNG', bits=1), SAME),
    'png of 4 bits per palette index': (lambda: saved(RGB.quantize(16), 'PNG', bits=4), SAME),
    'png palette with a transparent index': (lambda: mode('P', 'PNG', transparency=3), SAME),
    'png palette with alpha per index': (lambda: mode('P', 'PNG', transparency=bytes(range(256))), SAME),
    'png grey with a transparent level': (lambda: mode('L', 'PNG', transparency=7), SAME),
    'png with a transparent colour': (lambda: mode('RGB', 'PNG', transparency=(1, 2, 3)), SAME),
    'png with gamma': (lambda: by_cv2('.png', PIXELS[..., :3]), SAME),
    'png rgb of 16 bits': (lambda: by_cv2('.png', PIXELS[..., :3].astype(np.uint16) * 257), SAME),
    'png grey of 16 bits': (lambda: saved(DEEP, 'PNG'), BITS),
    'png animated': (lambda: frames('PNG'), FRAMES),
    'png truncated': (lambda: RGB_PNG[: len(RGB_PNG) // 2], BROKEN),
    'png with a damaged header': (lambda: RGB_PNG[:20] + b'\xff' + RGB_PNG[21:], BROKEN),
    'png named as another': (lambda: RGB_PNG, SAME),
    'png of 40,000 pixels a side': (bomb, 'too large'),
    **{f'jpeg {name}': (lambda name=name: mode(name, 'JPEG'), SAME) for name in ('L', 'RGB', 'CMYK', 'YCbCr')},
    'jpeg progressive': (lambda: mode('RGB', 'JPEG', progressive=True), SAME),
    'jpeg grey progressive': (lambda: mode('L', 'JPEG', progressive=True), SAME),
    'jpeg cmyk progressive': (lambda: mode('CMYK', 'JPEG', progressive=True), SAME),
    **{
        f'jpeg subsampled {kind}': (lambda kind=kind: mode('RGB', 'JPEG', subsampling=kind), SAME)
        for kind in ('4:4:4', '4:2:2', '4:2:0')
    },
    'jpeg of rgb without ycc': (lambda: mode('RGB', 'JPEG', keep_rgb=True), SAME),
    'jpeg with restart markers': (lambda: mode('RGB', 'JPEG', restart_marker_blocks=1), SAME),
    'jpeg with a profile': (lambda: mode('RGB', 'JPEG', icc_profile=b'profile'), SAME),
    'jpeg with a comment': (lambda: mode('RGB', 'JPEG', comment=b'a comment'), SAME),
    **{f'jpeg orientation {i}': (lambda i=i: rotated(i), SAME) for i in (2, 3, 6, 8)},
    'jpeg truncated': (lambda: RGB_JPEG[: len(RGB_JPEG) // 2], BROKEN),
    'jpeg without an end': (lambda: RGB_JPEG[:-2], BROKEN),
    'jpeg with a tail': (lambda: RGB_JPEG + b'more', SAME),
    'mpo of a camera': (lambda: frames('MPO'), SAME),
    'mpo of one image': (lambda: saved(RGB, 'MPO'), SAME),
    'gif': (lambda: mode('RGB', 'GIF'), SAME),
    'gif with transparency': (lambda: mode('P', 'GIF', transparency=3), SAME),
    'gif interlaced': (lambda: mode('L', 'GIF', interlace=1), SAME),
    'gif animated': (lambda: frames('GIF'), FRAMES),
    'webp': (lambda: mode('RGB', 'WEBP'), SAME),
    'webp lossless': (lambda: mode('RGB', 'WEBP', lossless=True), SAME),
    'webp with alpha': (lambda: mode('RGBA', 'WEBP'), SAME),
    'webp rotated': (lambda: rotated(6, 'WEBP'), SAME),
    'webp animated': (lambda: frames('WEBP'), FRAMES),
    **{f'bmp {name}': (lambda name=name: mode(name, 'BMP'), SAME) for name in ('1', 'L', 'P', 'RGB', 'RGBA')},
    'bmp truncated': (lambda: mode('RGB', 'BMP')[:-500], BROKEN),
    **{
        f'tiff {name}': (lambda name=name: mode(name, 'TIFF'), SAME)
        for name in ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK')
    },
    **{
        f'tiff {kind}': (lambda kind=kind: mode('RGB', 'TIFF', compression=kind), SAME)
        for kind in ('tiff_lzw', 'tiff_deflate', 'packbits', 'jpeg')
    },
    'tiff group4': (lambda: mode('1', 'TIFF', compression='group4'), SAME),
    'tiff rotated': (lambda: rotated(6, 'TIFF'), SAME),
    'tiff of 16 bits': (lambda: saved(DEEP, 'TIFF'), BITS),
    'tiff of floats': (lambda: mode('F', 'TIFF'), BITS),
    'tiff of integers': (lambda: mode('I', 'TIFF'), BITS),
    'tiff lab': (lambda: saved(Image.frombytes('LAB', (8, 8), bytes(192)), 'TIFF'), SAME),
    'tiff of two pages': (lambda: frames('TIFF'), FRAMES),
    'tiff with a broken second page': (with_a_broken_second_page, SAME),
    'ppm': (lambda: mode('RGB', 'PPM'), SAME),
    'pgm': (lambda: mode('L', 'PPM'), SAME),
    'pbm': (lambda: mode('1', 'PPM'), SAME),
    'pgm of 16 bits': (lambda: by_cv2('.pgm', np.asarray(DEEP)), BITS),
    'tga': (lambda: mode('RGBA', 'TGA', rle=True), SAME),
    'pcx': (lambda: mode('RGB', 'PCX'), SAME),
    'sgi': (lambda: mode('RGB', 'SGI'), SAME),
    'ico': (lambda: mode('RGBA', 'ICO'), SAME),
    'dds': (lambda: mode('RGBA', 'DDS'), SAME),
    'xbm': (lambda: mode('1', 'XBM'), SAME),
    'empty': (lambda: b'', BROKEN),
    'text': (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', BROKEN),
}
OPTIONAL: Kinds = {
    'avif': (lambda: mode('RGB', 'AVIF'), SAME),
    'avif with alpha': (lambda: mode('RGBA', 'AVIF'), SAME),
    'avif animated': (lambda: frames('AVIF'), FRAMES),
    'jpg_2000': (lambda: mode('RGB', 'JPEG2000'), SAME),
}
KINDS |= {name: kind for name, kind in OPTIONAL.items() if features.check(name.split()[0])}


def by_torchvision(path: Path) -> np.ndarray | None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            return np.asarray(default_loader(str(path)))
        except Exception:
            return None


def by_us(path: Path) -> np.ndarray | None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            results = LoadRGBImage().transform({'img_path': str(path)})
        except Exception:
            return None
    assert results['img'].mode == 'RGB' and results['ori_shape'] == results['img'].size[::-1]
    return np.asarray(results['img'])


@pytest.mark.filterwarnings('ignore')
def test_an_image_has_the_pixels_of_torchvision_or_a_true_reason(tmp_path, monkeypatch):
    """One test for all: each kind takes a millisecond."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2**30 // 12)  # Pillow's; wilds raises it when it is imported
    wrong, read = [], 0
    for name, (make, expected) in KINDS.items():
        path = tmp_path / f'{name.replace(" ", "_")}.jpg'
        path.write_bytes(make())
        theirs, ours, reason = by_torchvision(path), by_us(path), why_unreadable(str(path))
        read += theirs is not None
        if expected == SAME:
            right = reason is None and ours is not None and theirs is not None and np.array_equal(ours, theirs)
        else:
            right = ours is None and (reason or '').startswith(expected) and str(path) not in reason
            right &= (theirs is None) == (expected not in (FRAMES, BITS))
        if not right:
            shapes = [None if one is None else one.shape for one in (theirs, ours)]
            wrong.append(f'{name}: {reason}, torchvision {shapes[0]}, ours {shapes[1]}')
    assert not wrong, '\n'.join(wrong)
    assert read > 60 and len(KINDS) > 80


def test_a_file_that_cannot_be_opened_is_not_called_incomplete(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    path.write_bytes(RGB_PNG)

    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied', str(path))

    with monkeypatch.context() as patch:
        path.write_bytes(mode('L', 'PNG'))
        patch.setattr(Image.Image, 'convert', lambda *args: (_ for _ in ()).throw(ValueError('conversion from L')))
        assert why_unreadable(str(path)) == 'has no conversion to RGB (mode L)'
    monkeypatch.setattr(Image, 'open', refuse)
    assert why_unreadable(str(path)) == 'cannot be read (Permission denied)'
    monkeypatch.setattr(Image, 'open', lambda *args: (_ for _ in ()).throw(MemoryError()))
    assert why_unreadable(str(path)) is None
