"""Base class of the benchmarks: records ``img_path, gt_label, split, group``, with checks and readable errors."""

import logging
import os
import os.path as osp
import pickle
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset

from ..utils.errors import UserError, one_line
from .image_cache import cached_pipeline, plan_cache, replaced_steps
from .image_cache_build import Source, open_cache
from .transforms import why_unreadable

MAX_BAD_IMAGES = 10  # a worker skips at most so many files before the run stops

# The fields of a record that metrics read. Every record has them (BenchmarkDataset); an evaluation pipeline
# hands them on with PackInputs(meta_keys=META_KEYS), which config files write out.
SUBSET_KEYS = ('split', 'group')
META_KEYS = ('img_path', *SUBSET_KEYS)


class BenchmarkDataset(BaseDataset):
    """A split of a benchmark with known distribution shift.

    A subclass sets the class attributes below and yields its records in :meth:`read_records`. MMPretrain's
    ``BaseDataset`` provides lazy initialisation, serialised records, ``indices`` and pipelines.

    Args:
        data_root (str): The directory that holds the metadata file.
        split (str): One of ``SPLITS``.
        on_bad_image (str): ``'raise'`` (default) stops at an image that cannot be loaded and names it; ``'skip'`` logs
            it and takes another one, for at most ``MAX_BAD_IMAGES`` files per worker. With ``test_mode`` it always
            raises.
        image_cache (bool | str): Keep the images as they are after the first steps of the pipeline, those without
            randomness, in a directory (``True``: ``~/.cache/ftsgd_plugin/images``), and read them from there; see
            :mod:`ftsgd_plugin.datasets.image_cache`. It changes no pixel and no number. Defaults to ``False``.
        pipeline (Sequence): Steps from a record to an input. Defaults to ().
        **kwargs: Arguments of MMPretrain's ``BaseDataset``, such as ``metainfo``, ``indices``.

    Attributes:
        METADATA: The file (or directory) that ``data_root`` must hold.
        SPLITS: Names of the splits.
        PUBLISHED: Their published sizes; another size is a warning.
        SOURCE, LICENCE, DISK: Origin of the data, its terms and its size, for messages and ``tools/prepare_data.py``.
        OTHER_NAMES: Whether other data in the same layout can be read, with another number of names in ``metainfo``.

    Raises:
        UserError: The split is unknown or empty, the metadata is missing or malformed, an image is listed twice,
            training data is of one class, ``metainfo`` has another number or order of names than the labels, or (when
            an image is loaded) its file is missing, truncated or not an 8-bit image.
    """

    METADATA: str = ''
    SPLITS: tuple[str, ...] = ()
    PUBLISHED: dict[str, int] = {}
    SOURCE: str = ''
    LICENCE: str = ''
    DISK: str = ''
    OTHER_NAMES: bool = False

    def __init__(
        self,
        data_root: str,
        split: str,
        on_bad_image: str = 'raise',
        image_cache: bool | str | None = False,
        pipeline: Sequence = (),
        **kwargs,
    ) -> None:
        if self.SPLITS and split not in self.SPLITS:
            raise UserError(f'{type(self).__name__}: split={split!r} is not one of {", ".join(self.SPLITS)}.')
        if not isinstance(data_root, str | os.PathLike) or not str(data_root):
            raise UserError(f'{type(self).__name__}: data_root={data_root!r} is not a path; name the directory.')
        if on_bad_image not in ('raise', 'skip'):
            raise UserError(f"{type(self).__name__}: on_bad_image={on_bad_image!r} is neither 'raise' nor 'skip'.")
        if not isinstance(image_cache, bool | str | None):
            raise UserError(f'{type(self).__name__}: image_cache={image_cache!r} is neither True nor a directory.')
        self.split, self.on_bad_image, self.bad_images = split, on_bad_image, []
        self.image_cache, self._steps = image_cache, pipeline
        self._is_original = 'metainfo' not in kwargs and 'indices' not in kwargs
        root = osp.expanduser(str(data_root))
        super().__init__(**{'ann_file': self.METADATA, **kwargs, 'pipeline': pipeline, 'data_root': root})

    def full_init(self) -> None:
        """Read the records; with ``image_cache`` build or open the cache of their images."""
        is_first = not self._fully_initialized
        super().full_init()
        if is_first and self.image_cache and len(self._steps):
            self._use_image_cache()

    def _use_image_cache(self) -> None:
        name = f'{type(self).__name__} {self.split}'
        if (plan := plan_cache(self._steps)) is None:
            print_log(
                f'image cache: {name} is read from its files: its pipeline does not begin with LoadRGBImage and steps '
                'without randomness',
                logger='current',
            )
            return
        paths = [self.get_data_info(i)['img_path'] for i in range(len(self))]
        transforms = self.pipeline.transforms
        cache = open_cache(Source(name, paths, plan, replaced_steps(plan, transforms)), self.image_cache)
        if cache is not None:
            self.pipeline = Compose(cached_pipeline(plan, transforms, cache))

    def read_records(self) -> Iterable[dict]:
        """Yield the records of this split, or return a sequence; :meth:`record` makes one. The base adds ``split``."""
        raise NotImplementedError

    def record(self, img_path: str, gt_label: int, group: str, **fields) -> dict:
        """The record of an image.

        Args:
            img_path: Path relative to ``data_root``.
            gt_label: Index of the class.
            group: The group whose accuracy is reported separately.
            **fields: Further fields, e.g. ``year``; a metric reads those that ``meta_keys`` of ``PackInputs`` names.
        """
        return dict(img_path=img_path, gt_label=gt_label, group=group, **fields)

    def load_data_list(self) -> Sequence[dict]:
        """The records of this split; ``img_path`` stays relative until :meth:`get_data_info`."""
        self.check_root()
        records = self.read_records()
        records = records if isinstance(records, Sequence) else list(records)
        if not records:
            raise UserError(f'{self.ann_file}: no image belongs to split {self.split!r}; get the complete file.')
        if self._has_one_class(records):
            raise UserError(
                f'{self.ann_file}: every image of split {self.split!r} is of class {records[0]["gt_label"]}; '
                'training needs two classes.'
            )
        published = self.PUBLISHED.get(self.split)
        if self._is_original and published not in (None, len(records)):
            print_log(
                f'{type(self).__name__} {self.split}: {len(records):,} images instead of the published {published:,};'
                ' check with tools/prepare_data.py.',
                logger='current',
                level=logging.WARNING,
            )
        return records

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        """Merge ``metainfo`` into ``METAINFO``; names can be replaced, but labels keep their order."""
        if not isinstance(metainfo, Mapping | None):
            raise UserError(f'{cls.__name__}: metainfo={one_line(repr(metainfo), limit=60)} is not a dict; correct it.')
        merged = super()._load_metainfo(metainfo)
        for key, published in cls.METAINFO.items():
            if isinstance(published, tuple) and merged[key] is not published:
                cls._check_names(key, merged[key], published)
        return merged

    @classmethod
    def _check_names(cls, key: str, names: object, published: tuple[str, ...]) -> None:
        where = f'{cls.__name__}: metainfo.{key}'
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
            raise UserError(f'{where}={one_line(repr(names), limit=60)} is not a list of names; correct it.')
        if repeated := [name for name in names if names.count(name) > 1]:
            raise UserError(f'{where}: {repeated[0]!r} occurs twice; remove one.')
        if len(names) != len(published) and not cls.OTHER_NAMES:
            raise UserError(
                f'{where}: {len(names)} names for {len(published)} labels; a part of the {key} cannot be read, remove '
                f'{key} or name all.'
            )
        for place, name in enumerate(names):
            if name in published and published.index(name) != place:
                raise UserError(
                    f'{where}: {name!r} is label {published.index(name)} of the data, not {place}; keep the order '
                    f'{one_line(", ".join(published), limit=80)}.'
                )

    def _has_one_class(self, records: Sequence[dict]) -> bool:
        """Whether records to train on are of a single class."""
        training = not self.test_mode and 'train' in self.split.split('_')
        return training and len(records) > 0 and all(one['gt_label'] == records[0]['gt_label'] for one in records)

    def _get_unserialized_subset(self, indices) -> list[dict]:
        """The records that ``indices`` names: of sorted data the first ones may be of one class."""
        chosen = super()._get_unserialized_subset(indices)
        if self._has_one_class(chosen):
            print_log(
                f'{type(self).__name__} {self.split}: the {len(chosen):,} images of '
                f'indices={one_line(repr(indices), limit=40)} are of one class; nothing can be learnt from them.',
                logger='current',
                level=logging.WARNING,
            )
        return chosen

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        """As MMEngine's, but into one buffer: an array per record would take as much memory again."""
        buffer, ends = bytearray(), array('q')
        for record in self.data_list:
            buffer += pickle.dumps(record, protocol=4)
            ends.append(len(buffer))
        self.data_list = []
        return np.frombuffer(buffer, np.uint8), np.frombuffer(ends, np.int64)

    def check_root(self) -> None:
        """Raise a :class:`UserError` unless ``data_root`` holds the metadata; name it if it is one level off."""
        if osp.exists(self.ann_file):
            return
        hint = level_hint(self.data_root, lambda directory: (directory / self.METADATA).exists())
        hint = hint or f'set data_root to the directory that holds it. {type(self).__name__}: {self.SOURCE}'
        raise UserError(f'{self.ann_file}: not found; {hint}')

    def get_data_info(self, idx: int) -> dict:
        """A record, with ``img_path`` joined to ``data_root``, and ``split``."""
        record = super().get_data_info(idx)
        record.setdefault('split', self.split)
        record['img_path'] = osp.join(self.data_root, record['img_path'])
        return record

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline; if it fails because of the image, name the image or skip it."""
        try:
            return super().prepare_data(idx)
        except Exception as error:
            path = self.get_data_info(idx)['img_path']
            reason = why_unreadable(path)
            if reason is None:
                raise
            if self.on_bad_image == 'skip' and not self.test_mode and self._may_skip(path, reason):
                return None
            raise UserError(f'{path}: {reason}{self.bad_image_remedy}') from error

    @property
    def bad_image_remedy(self) -> str:
        """The end of the message about an image that cannot be loaded."""
        return f'; restore the file or remove its row from {self.ann_file}.'

    def _may_skip(self, path: str, reason: str) -> bool:
        """Whether few enough files are bad; a file counts once, however often it is drawn."""
        if path in self.bad_images:
            return True
        if len(self.bad_images) == MAX_BAD_IMAGES:
            return False
        self.bad_images.append(path)
        print_log(
            f'skipped {path}: {reason} ({len(self.bad_images)} of at most {MAX_BAD_IMAGES} files in this worker)',
            logger='current',
            level=logging.WARNING,
        )
        return True


def level_hint(data_root: str, fits: Callable[[Path], bool]) -> str | None:
    """How to correct a ``data_root`` that is one level off.

    Args:
        data_root: A directory that does not fit.
        fits: Whether a directory is the root of the dataset.

    Returns:
        str | None: A phrase for messages; ``None`` if neither the parent nor a directory inside fits.
    """
    root = Path(data_root)
    for other, word in ((root.resolve().parent, 'low'), *((path, 'high') for path in sorted(root.glob('*/')))):
        if fits(other):
            return f'data_root is one level too {word}: set it to {other}'
    return None
