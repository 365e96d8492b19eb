"""DomainNet (Peng et al. 2019) with the 40 classes of Tan, Peng and Saenko (2020), in four domains."""

import os.path as osp
from collections.abc import Iterator
from pathlib import Path

from mmpretrain.registry import DATASETS

from ..utils.errors import UserError
from .base import BenchmarkDataset, level_hint
from .csv_reader import Unique, read_names

CLASSES = read_names('domainnet')  # in label order; not alphabetical at the end
DOMAINS = ('clipart', 'painting', 'real', 'sketch')
LIST_DIRECTORIES = ('', 'SENTRY_splits', 'txt', 'splits')


@DATASETS.register_module()
class DomainNet(BenchmarkDataset):
    """DomainNet-40, one domain and part at a time.

    Reads the 40-class lists (``sketch_train_mini.txt``) or, if only the official 345-class lists exist
    (``sketch_train.txt``), those, filtered by class name. The lists are in ``data_root`` or its subdirectory
    ``SENTRY_splits``, ``txt`` or ``splits``, the images at the paths in the lists.

    Records: ``img_path``, ``gt_label``, ``split``, ``domain`` and ``group`` (the domain).

    Args:
        data_root (str): The directory that holds ``clipart``, ``painting``, ``real``, ``sketch``.
        split (str): ``'sketch_train'``, ``'real_test'``, ... (domain and part).
        **kwargs: See :class:`BenchmarkDataset`.
    """

    METAINFO = dict(classes=CLASSES)
    SPLITS = tuple(f'{domain}_{part}' for domain in DOMAINS for part in ('train', 'test'))
    PUBLISHED = dict(
        clipart_train=3707,
        clipart_test=1616,
        painting_train=6727,
        painting_test=2909,
        real_train=16141,
        real_test=6943,
        sketch_train=5537,
        sketch_test=2399,
    )
    SOURCE = (
        'http://ai.bu.edu/M3SDA (cleaned version); 40-class lists: data/DomainNet/txt of github.com/virajprabhu/SENTRY'
    )
    LICENCE = 'fair use, non-commercial research'
    DISK = '14 GB as archives (clipart, painting, real, sketch)'

    def check_root(self) -> None:
        """Find the list of this split; raise a :class:`UserError` that names the missing or misplaced path."""
        root, domain = Path(self.data_root), self.split.split('_')[0]
        found = self._find_list(root)
        if found and (root / domain).is_dir():
            self.ann_file = str(found)
            return
        if hint := level_hint(self.data_root, lambda other: self._find_list(other) and (other / domain).is_dir()):
            raise UserError(f'{root}: {hint}')
        if found:
            raise UserError(f'{root / domain}: not found; unpack the images of this domain there. {self.SOURCE}')
        raise UserError(
            f'{root / LIST_DIRECTORIES[1] / f"{self.split}_mini.txt"}: not found, nor {self.split}.txt; put it there. '
            f'DomainNet: {self.SOURCE}'
        )

    def _find_list(self, root: Path) -> Path | None:
        """The list of this split below a directory, the 40-class one if both exist."""
        names = (f'{self.split}_mini.txt', f'{self.split}.txt')
        places = (root / directory / name for name in names for directory in LIST_DIRECTORIES)
        return next((path for path in places if path.is_file()), None)

    def read_records(self) -> Iterator[dict]:
        """Yield a record per line ``path label`` of the list."""
        labels = {name: i for i, name in enumerate(CLASSES)}
        filtering, unique = not self.ann_file.endswith('_mini.txt'), Unique(self.ann_file)
        domain = self.split.split('_')[0]
        with open(self.ann_file, encoding='utf-8') as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                name, _, label = text.strip().rpartition(' ')
                parts = name.split('/')
                if not name or not label.isdigit() or len(parts) != 3:
                    raise UserError(
                        f'{self.ann_file}:{line}: {text.strip()!r} is not "domain/class/image label"; correct it.'
                    )
                if filtering and parts[1] not in labels:
                    continue
                if parts[1] not in labels:
                    raise UserError(
                        f'{self.ann_file}:{line}: {parts[1]!r} is not one of the 40 classes; correct this line.'
                    )
                if not filtering and int(label) != labels[parts[1]]:
                    raise UserError(
                        f'{self.ann_file}:{line}: label {label} of {parts[1]!r} is not the published '
                        f'{labels[parts[1]]}; correct this line.'
                    )
                unique.check(line, name)
                yield self.record(osp.join(*parts), labels[parts[1]], group=domain, domain=domain)
