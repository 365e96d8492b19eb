"""The image size that a backbone was built for."""

from torch import nn


def built_for(backbone: nn.Module) -> int | None:
    """Side in pixels of the images that a backbone expects, the longer one; ``None`` if it takes any size."""
    backbone = getattr(backbone, 'module', backbone)  # of one with adapters
    for module in (backbone, getattr(backbone, 'net', None)):
        for owner in (module, getattr(module, 'patch_embed', None)):
            size = getattr(owner, 'img_size', None) or getattr(owner, 'image_size', None)
            if size is not None:
                return size if isinstance(size, int) else max(size)
    return None
