"""Let MMPretrain's ``ImageClassificationInferencer`` predict with the runs of this package.

It takes the test pipeline from ``test_dataloader.dataset.pipeline``, which a ``ConcatDataset`` of several splits does
not have, and reads files with OpenCV, whose pixels differ from those of ``LoadRGBImage`` and are rotated as EXIF says.
With a pipeline that begins with that transform, the transform reads the files. All other configs go through
MMPretrain's code as before. The inferencer has no option for either, hence two replaced methods.
"""

import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from types import ModuleType
from typing import Any

import wrapt

from ..datasets.preprocessing import evaluation_pipelines
from ..datasets.transforms import LoadRGBImage


def support_inferencer() -> None:
    """Adapt the inferencer, now or when its module is imported; a second call does nothing."""
    wrapt.register_post_import_hook(_adapt, 'mmpretrain.apis.image_classification')


def _adapt(module: ModuleType) -> None:
    inferencer = module.ImageClassificationInferencer
    if not isinstance(vars(inferencer)['_init_pipeline'], wrapt.FunctionWrapper):
        wrapt.wrap_function_wrapper(inferencer, '_init_pipeline', _init_pipeline)
        wrapt.wrap_function_wrapper(inferencer, 'preprocess', _preprocess)


def _init_pipeline(original: Callable, inferencer: Any, args: tuple, kwargs: dict) -> Callable:
    """MMPretrain's method on a config whose test data set is the first of several."""

    def call(cfg):
        dataset = cfg.test_dataloader.dataset
        if dataset.get('pipeline') is None and (found := evaluation_pipelines(cfg)):
            cfg = deepcopy(cfg)
            cfg.test_dataloader.dataset = dict(type=dataset.type, pipeline=found[0])
        return original(cfg)

    return call(*args, **kwargs)


def _preprocess(original: Callable, inferencer: Any, args: tuple, kwargs: dict) -> Iterator[dict]:
    """MMPretrain's method; paths of local files go to the pipeline as they are, if it loads them by itself."""
    first = next(iter(inferencer.pipeline.transforms), None)
    if not isinstance(first, LoadRGBImage):
        return original(*args, **kwargs)
    return _load_by_pipeline(inferencer, *args, **kwargs)


def _load_by_pipeline(inferencer: Any, inputs: list, batch_size: int = 1) -> Iterator[dict]:
    from mmcv.image import imread
    from mmengine.dataset import default_collate

    def prepare(image: Any) -> dict:
        if isinstance(image, str | os.PathLike) and os.path.isfile(image):
            return inferencer.pipeline({'img_path': str(image)})
        if (array := imread(image)) is None:
            raise ValueError(f'Failed to read image {image}.')
        return inferencer.pipeline({'img': array})

    return map(default_collate, inferencer._get_chunk_data(map(prepare, inputs), batch_size))
