"""Another image size for a config: of every pipeline that resizes or crops, and of the backbone."""

from collections.abc import Iterator, Mapping

from mmengine.config import Config

from ..records import LOADERS
from ..utils.errors import UserError
from ..utils.names import type_name

# Transforms whose `size` (torchvision) or `scale` (MMPretrain) is one of the images.
_SIZED = {
    'Resize': ('size', 'scale'),
    'CenterCrop': ('size', 'crop_size'),
    'RandomCrop': ('size', 'crop_size'),
    'RandomResizedCrop': ('size', 'scale'),
}
# Type of a backbone -> its option, where the part need not set it.
_OPTION = {'OpenCLIPVisionTower': 'image_size'}


def set_image_size(cfg: Config, side: int) -> None:
    """Let a run read images of another size; resizing before a crop keeps its proportion to the crop.

    Args:
        cfg: Full config, changed in place.
        side: Pixels. What the network sees is square, as in every part of this project.

    Raises:
        UserError: No pipeline of the config resizes or crops.
    """
    pipelines = [pipeline for name in LOADERS for pipeline in _pipelines((cfg.get(name) or {}).get('dataset'))]
    native = max((_final(pipeline) for pipeline in pipelines), default=0)
    if not native:
        raise UserError(f'{cfg.filename}: image_size={side}: no pipeline resizes or crops; set the size in the part.')
    for pipeline in pipelines:
        for transform, key in _sized(pipeline):
            transform[key] = _scaled(transform[key], side / native)
    backbone = cfg.model.backbone
    option = _OPTION.get(type_name(backbone), 'img_size')
    if option in backbone or type_name(backbone) in _OPTION:
        backbone[option] = side


def _pipelines(dataset: Mapping | None) -> Iterator[list]:
    """Every pipeline of a dataset and of those inside it."""
    if not isinstance(dataset, Mapping):
        return
    if dataset.get('pipeline'):
        yield dataset['pipeline']
    for inner in (dataset.get('dataset'), *(dataset.get('datasets') or ())):
        yield from _pipelines(inner)


def _sized(pipeline: list) -> Iterator[tuple[dict, str]]:
    """Transforms with a size, and the key that has it."""
    for transform in pipeline:
        for key in _SIZED.get(type_name(transform).rpartition('/')[2], ()):
            if transform.get(key) is not None and not isinstance(_side(transform[key]), float):
                yield transform, key


def _final(pipeline: list) -> int:
    """Side of the images at the end of a pipeline; 0 if nothing in it sets one."""
    sides = [_side(transform[key]) for transform, key in _sized(pipeline)]
    return sides[-1] if sides else 0


def _side(size: int | list | tuple) -> int | float:
    return size if isinstance(size, int | float) else max(size)


def _scaled(size: int | list | tuple, factor: float) -> int | list | tuple:
    return round(size * factor) if isinstance(size, int) else type(size)(round(one * factor) for one in size)
