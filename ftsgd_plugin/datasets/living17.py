"""Living-17 of BREEDS (Santurkar et al. 2021): 17 kinds of animals, trained on some subclasses and tested on others."""

import os
import os.path as osp
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mmpretrain.registry import DATASETS

from ..utils.errors import UserError
from .base import BenchmarkDataset, level_hint
from .csv_reader import META, Unique, parse_code, read_csv, read_lines, shown
from .image_names import OTHER_IMAGES, SUFFIXES


def _read_table() -> tuple[tuple[str, str, tuple, tuple], ...]:
    """The superclasses in label order: name, WordNet id, two source and two target subclasses.

    A subclass is its WordNet id and its ImageNet-1k class index. Source: ``make_living17(info_dir, split='rand')`` of
    the robustness package, as in the paper's code.
    """
    path = META / 'living17.csv'
    subclasses = [
        f'{part}_{column}_{i}' for part in ('source', 'target') for i in (1, 2) for column in ('wnid', 'index')
    ]
    rows = read_csv(str(path), ('superclass', 'wnid', *subclasses))
    return tuple(
        (name, wnid, ((s1, int(i1)), (s2, int(i2))), ((t1, int(j1)), (t2, int(j2))))
        for _, (name, wnid, s1, i1, s2, i2, t1, j1, t2, j2) in rows
    )


LIVING17 = _read_table()
# Split -> directory of ImageNet, and column of LIVING17.
PARTS = {'train': ('train', 2), 'ood_train': ('train', 3), 'id_val': ('val', 2), 'ood_val': ('val', 3)}
_WNID = re.compile('(n[0-9]{8})_')  # an image of train is named by its class
FLAT_LIST = 'meta/val.txt'


@DATASETS.register_module()
class Living17(BenchmarkDataset):
    """Living-17 from an ImageNet-1k directory, of which only the 68 subclasses are needed.

    ``val`` may hold a directory per class, or all images flat with MMPretrain's ``meta/val.txt`` ("image index").

    Records: ``img_path``, ``gt_label`` (superclass), ``split``, ``subclass`` and ``group`` (the subclass' WordNet id).

    Args:
        data_root (str): The directory that holds ``train`` and ``val``.
        split (str): ``'train'``, ``'id_val'`` (source subclasses), ``'ood_val'``, ``'ood_train'`` (target subclasses).
        **kwargs: See :class:`BenchmarkDataset`.
    """

    METAINFO = dict(classes=tuple(row[0] for row in LIVING17))
    SPLITS = tuple(PARTS)
    PUBLISHED = dict(train=44200, ood_train=44200, id_val=1700, ood_val=1700)
    SOURCE = 'ImageNet-1k (ILSVRC 2012) from https://image-net.org, with login'
    LICENCE = 'non-commercial research'
    DISK = '145 GB as archives (68 of 1000 classes are read)'

    def __init__(self, data_root: str, split: str, **kwargs) -> None:
        super().__init__(data_root, split, **{'ann_file': PARTS.get(split, ('',))[0], **kwargs})

    def check_root(self) -> None:
        """Raise a :class:`UserError` that names the missing or misplaced path."""
        root, part = Path(self.data_root), PARTS[self.split][0]
        if (root / part).is_dir():
            return
        if hint := level_hint(self.data_root, lambda directory: (directory / part).is_dir()):
            raise UserError(f'{root}: {hint}')
        raise UserError(
            f'{root / part}: not found; set data_root to the directory of ImageNet. Living17: {self.SOURCE}'
        )

    def read_records(self) -> Iterator[dict]:
        """Yield the images superclass by superclass, subclass by subclass, sorted by name."""
        part, column = PARTS[self.split]
        directory = Path(self.data_root) / part
        flat = part == 'val' and not any((directory / wnid).is_dir() for row in LIVING17 for wnid, _ in row[column])
        listed = self._flat_images() if flat else None
        for label, row in enumerate(LIVING17):
            for wnid, index in row[column]:
                names = sorted(listed[index]) if flat else self._images_in(directory / wnid)
                if not names:
                    raise UserError(
                        f'{directory.parent / FLAT_LIST}: no image of class {index} ({wnid}); get the complete list.'
                    )
                for name in names:
                    path = f'{part}/{name}' if flat else f'{part}/{wnid}/{name}'
                    yield self.record(path, label, group=wnid, subclass=wnid)

    @staticmethod
    def _images_in(directory: Path) -> list[str]:
        if not directory.is_dir():
            raise UserError(f'{directory}: class directory is missing; unpack this class of ImageNet there.')
        names = []
        try:
            for entry in os.scandir(directory):
                name, suffix = entry.name, osp.splitext(entry.name)[1].lower()
                if name.startswith('.'):
                    continue  # what a system or an editor left
                if entry.is_dir():
                    raise UserError(f'{directory / name}: a directory within a class; move its images up or remove it.')
                if suffix in SUFFIXES:
                    names.append(name)
                elif suffix in OTHER_IMAGES:
                    raise UserError(
                        f'{directory / name}: {suffix} is not among {" ".join(SUFFIXES)}; convert or remove this image.'
                    )
        except OSError as error:
            raise UserError(f'{directory}: cannot be read ({error.strerror}); correct its permissions.') from None
        if not names:
            raise UserError(f'{directory}: contains no images; unpack this class of ImageNet there.')
        for name in names:
            if (wnid := _WNID.match(name)) and wnid[1] != directory.name:
                raise UserError(f'{directory / name}: is named as an image of {wnid[1]}; move it there or rename it.')
        return sorted(names)

    def _flat_images(self) -> dict[int, list[str]]:
        """ImageNet class index -> images, from ``meta/val.txt``."""
        path = Path(self.data_root) / FLAT_LIST
        if not path.is_file():
            raise UserError(
                f'{path}: not found, and val has no class directories; add this list ("image index") or sort val.'
            )
        images: dict[int, list[str]] = {index: [] for index in range(1000)}
        unique = Unique(str(path))
        for line, text in read_lines(path):
            name, _, index = text.rpartition(' ')
            if not name:
                raise UserError(f'{path}:{line}: {shown(text)} is not "image index"; correct this line.')
            if _WNID.match(posixpath.basename(name)):
                raise UserError(f'{path}:{line}: {name} is an image of train; get the list of val.')
            unique.check(line, name)
            images[parse_code(str(path), line, 'index', index, 1000)].append(name.rstrip())
        return images
