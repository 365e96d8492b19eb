"""Distribution-shift benchmarks, one file each, and a user's own images, with one record format."""

from .camelyon17 import Camelyon17
from .domainnet import DomainNet
from .encoded import ReadEncodedImage
from .fmow import FMoW
from .grouped import GroupedImages
from .layouts import Layout, recognise
from .living17 import Living17
from .transforms import LoadRGBImage, PackRGB
from .waterbirds import Waterbirds

__all__ = [
    'Camelyon17',
    'DomainNet',
    'FMoW',
    'GroupedImages',
    'Layout',
    'Living17',
    'LoadRGBImage',
    'PackRGB',
    'ReadEncodedImage',
    'Waterbirds',
    'recognise',
]
