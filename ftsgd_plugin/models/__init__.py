"""Thin backbones over open_clip, timm and torchvision; nothing is re-implemented."""

from . import position_tables  # noqa: F401  lets MMPretrain resize position tables
from .open_clip_backbone import OpenCLIPVisionTower
from .timm_backbone import TimmPooledBackbone
from .torchvision_backbone import TorchvisionBackbone

__all__ = ['OpenCLIPVisionTower', 'TimmPooledBackbone', 'TorchvisionBackbone']
