"""What happens to an image between its file and the network in an evaluation, as plain values.

It is stored in every checkpoint and written into every export, so that weights are not used with another mean, size or
interpolation than the one they were trained for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..utils.errors import UserError
from ..utils.names import type_name

META = 'ftsgd_preprocessing'  # key of a checkpoint's meta
LOADERS = ('LoadRGBImage', 'LoadImageFromFile')
# Transforms that change neither the size nor the values of the pixels.
_NEUTRAL = (*LOADERS, 'PackRGB', 'PackInputs', 'NumpyToPIL', 'PILToNumpy', 'ToPIL', 'ToNumpy')


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation's preprocessing; every transform at most once, in this order.

    Attributes:
        mean, std: Of the channels in the network's order, on the scale 0 to 255; zeros and ones without normalisation.
        channels: ``'RGB'``, or ``'BGR'`` for a network that reads images as OpenCV loads them.
        resize: Pixels of the shorter side, ``[height, width]``, or ``None``.
        interpolation: Of ``resize``, ``'bilinear'``, ``'bicubic'`` ...; ``''`` without one.
        backend: What resizes: ``'pillow'`` (with antialiasing) or ``'cv2'`` (without).
        crop: ``[height, width]`` of the centre crop, or ``None``.
        other: Names of further transforms, which these values do not describe.
    """

    mean: list[float]
    std: list[float]
    channels: str = 'RGB'
    resize: int | list[int] | None = None
    interpolation: str = ''
    backend: str = 'pillow'
    crop: list[int] | None = None
    other: list[str] = field(default_factory=list)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width that the network gets; ``None`` if they are those of the files."""
        if self.crop:
            return tuple(self.crop)
        return tuple(self.resize) if isinstance(self.resize, list) else None

    def as_meta(self) -> dict[str, Any]:
        """Plain values for a checkpoint's meta."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for people."""
        parts = []
        if isinstance(self.resize, list):
            parts.append(f'resize to {self.resize[0]} x {self.resize[1]} ({self.interpolation}, {self.backend})')
        elif self.resize:
            parts.append(f'resize the shorter side to {self.resize} ({self.interpolation}, {self.backend})')
        if self.crop:
            parts.append(f'centre crop {self.crop[0]} x {self.crop[1]}')
        mean, std = (', '.join(f'{value / 255:.4f}' for value in values) for values in (self.mean, self.std))
        parts += [*self.other, f'{self.channels}, mean ({mean}), std ({std}) on the scale 0 to 1']
        return ', '.join(parts)


def evaluation_pipelines(cfg: Mapping) -> list[list]:
    """The different pipelines of the test data, or else the validation data, of a run's config, in order."""
    for name in ('test_dataloader', 'val_dataloader'):
        found = []
        for dataset in dataset_leaves((cfg.get(name) or {}).get('dataset')):
            pipeline = dataset.get('pipeline')
            if pipeline is not None and list(pipeline) not in found:
                found.append(list(pipeline))
        if found:
            return found
    return []


def dataset_leaves(dataset: object) -> Iterator[Mapping]:
    """The data sets in the config of a data set and its wrappers (``ConcatDataset``, ``RepeatDataset``, ...)."""
    if not isinstance(dataset, Mapping):
        return
    inner = [*(dataset.get('datasets') or ()), *([dataset['dataset']] if dataset.get('dataset') else [])]
    if not inner:
        yield dataset
    for one in inner:
        yield from dataset_leaves(one)


def evaluation_pipeline(cfg: Mapping, where: str) -> list:
    """The pipeline that a run evaluates with: that of its first test data set.

    Args:
        cfg: The run's config.
        where: Its file, for the message.

    Raises:
        UserError: It has none, or the pipeline does not load files.
    """
    found = evaluation_pipelines(cfg)
    if not found:
        raise UserError(f'{where}: has no test_dataloader or val_dataloader with a pipeline; add one to the config.')
    if not found[0] or type_name(found[0][0]) not in LOADERS:
        first = type_name(found[0][0]) if found[0] else 'nothing'
        raise UserError(
            f'{where}: the test pipeline starts with {first}, not with one of {", ".join(LOADERS)}; it cannot read '
            'image files.'
        )
    return found[0]


def describe_preprocessing(cfg: Mapping) -> Preprocessing | None:
    """The preprocessing of a run's evaluation.

    Args:
        cfg: The run's config: ``test_dataloader`` (or ``val_dataloader``), ``model.data_preprocessor`` (or
            ``data_preprocessor``).

    Returns:
        Preprocessing | None: ``None`` without an evaluation pipeline.
    """
    pipelines = evaluation_pipelines(cfg)
    if not pipelines:
        return None
    values: dict[str, Any] = {'other': []}
    pipeline = [one if isinstance(one, Mapping) else {'type': one} for one in pipelines[0]]
    for transform in pipeline:
        _add(transform, values)
    normalise = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    mean, std = normalise.get('mean'), normalise.get('std')
    return Preprocessing(
        mean=[0.0] * 3 if mean is None else [float(value) for value in mean],
        std=[1.0] * 3 if mean is None else [float(value) for value in std],
        channels='BGR' if _packs_rgb(pipeline) == bool(normalise.get('to_rgb')) else 'RGB',
        **values,
    )


def store_preprocessing(cfg: Mapping, checkpoint: dict) -> None:
    """Put the preprocessing of a run's evaluation into the meta of a checkpoint, beside MMEngine's names of classes."""
    if META not in checkpoint['meta'] and (found := describe_preprocessing(cfg)) is not None:
        checkpoint['meta'][META] = found.as_meta()


def _packs_rgb(pipeline: Sequence[Mapping]) -> bool:
    """Whether a pipeline hands RGB images to the data preprocessor, whose ``to_rgb`` reverses the order once more."""
    is_rgb = False
    for transform in pipeline:
        kind = type_name(transform)
        if kind == 'LoadRGBImage':
            is_rgb = True
        elif kind == 'PackRGB' or transform.get('to_rgb') or transform.get('to_bgr'):
            is_rgb = not is_rgb
    return is_rgb


def _add(transform: Mapping, values: dict[str, Any]) -> None:
    """Enter a transform into the values; one that does not fit into them or comes out of order is ``other``."""
    kind = type_name(transform).removeprefix('torchvision/')
    is_torchvision = str(transform.get('type')).startswith('torchvision/')
    if kind in _NEUTRAL:
        return
    resized, cropped = 'resize' in values, 'crop' in values
    if kind in ('Resize', 'ResizeEdge') and not resized and not cropped:
        if (resize := _resize(kind, is_torchvision, transform)) is not None:
            values.update(
                resize=resize,
                interpolation=str(transform.get('interpolation', 'bilinear')).rpartition('.')[2].lower(),
                backend='pillow' if is_torchvision else transform.get('backend', 'cv2'),
            )
            return
    elif kind == 'CenterCrop' and not cropped:
        size = _pair(transform.get('size') if is_torchvision else transform.get('crop_size'))
        if size is not None and not (transform.keys() - {'type', 'size', 'crop_size'}):
            # MMPretrain's takes (width, height).
            values['crop'] = size if is_torchvision else size[::-1]
            return
    values['other'].append(kind)


def _resize(kind: str, is_torchvision: bool, transform: Mapping) -> int | list[int] | None:
    known = {'type', 'size', 'scale', 'interpolation', 'backend', 'edge', 'keep_ratio', 'antialias'}
    size = transform.get('size') if is_torchvision else transform.get('scale')
    if transform.keys() - known or transform.get('keep_ratio') or transform.get('edge', 'short') != 'short':
        return None
    if isinstance(size, int):
        shorter_side = is_torchvision or kind == 'ResizeEdge'
        return size if shorter_side else [size, size]
    if (pair := _pair(size)) is None:
        return None
    return pair if is_torchvision else pair[::-1]


def _pair(size: object) -> list[int] | None:
    if isinstance(size, int):
        return [size, size]
    if isinstance(size, Sequence) and not isinstance(size, str):
        pair = [int(value) for value in size]
        return pair * 2 if len(pair) == 1 else pair if len(pair) == 2 else None
    return None
