"""Thin backbones over open_clip and timm; nothing is re-implemented."""

from . import position_tables  # noqa: F401  lets MMPretrain resize position tables
from .open_clip_backbone import OpenCLIPVisionTower
from .timm_backbone import TimmPooledBackbone

__all__ = ['OpenCLIPVisionTower', 'TimmPooledBackbone']
