"""Thin backbones over open_clip, timm, torchvision and transformers; nothing is re-implemented."""

from . import position_tables  # noqa: F401  lets MMPretrain resize position tables
from .decoding_preprocessor import DecodingPreprocessor
from .lora import LoRABackbone
from .open_clip_backbone import OpenCLIPVisionTower
from .timm_backbone import TimmPooledBackbone
from .torchvision_backbone import TorchvisionBackbone
from .transformers_backbone import TransformersBackbone

__all__ = [
    'DecodingPreprocessor',
    'LoRABackbone',
    'OpenCLIPVisionTower',
    'TimmPooledBackbone',
    'TorchvisionBackbone',
    'TransformersBackbone',
]
