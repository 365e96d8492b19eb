"""DomainNet (Peng et al. 2019) with the 40 classes of Tan, Peng and Saenko (2020), in four domains."""

import posixpath
from collections.abc import Iterator
from pathlib import Path

from mmpretrain.registry import DATASETS

from ..utils.errors import UserError
from .base import BenchmarkDataset, level_hint
from .csv_reader import Unique, read_lines, read_names, shown

CLASSES = read_names('domainnet')  # in label order; not alphabetical at the end
DOMAINS = ('clipart', 'painting', 'real', 'sketch')
_OTHER_PART = {'train': 'test', 'test': 'train'}
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
        path, filtering = self.ann_file, not self.ann_file.endswith('_mini.txt')
        unique, official = Unique(path), {}
        domain, part = self.split.split('_')
        other = Path(path).with_name(Path(path).name.replace(part, _OTHER_PART[part]))
        elsewhere = {name for _, name, _, _ in _parse(other)} if other.is_file() else set()
        for line, name, kind, label in _parse(path):
            if not name.startswith(f'{domain}/'):
                raise UserError(f'{path}:{line}: {name} is not of domain {domain!r}; get the list of {self.split}.')
            if filtering:
                if official.setdefault(kind, label) != label:
                    raise UserError(
                        f'{path}:{line}: label {label} of {kind!r} is {official[kind]} above; correct this line.'
                    )
                if kind not in labels:
                    continue
            if kind not in labels:
                raise UserError(f'{path}:{line}: {kind!r} is not one of the 40 classes; correct this line.')
            if not filtering and label != labels[kind]:
                raise UserError(
                    f'{path}:{line}: label {label} of {kind!r} is not the published {labels[kind]}; correct this line.'
                )
            if name in elsewhere:
                raise UserError(f'{path}:{line}: {name} is in {other.name} as well; get the lists again.')
            unique.check(line, name)
            yield self.record(name, labels[kind], group=domain, domain=domain)


def _parse(path: str | Path) -> Iterator[tuple[int, str, str, int]]:
    """Line number, path of the image, its class, and label of every line ``domain/class/image label``."""
    for line, text in read_lines(path):
        name, _, label = text.rpartition(' ')
        name = posixpath.normpath(name.rstrip())
        parts = name.split('/')
        if len(parts) != 3 or len(label) > 4 or not (label.isascii() and label.isdigit()):
            raise UserError(f'{path}:{line}: {shown(text)} is not "domain/class/image label"; correct it.')
        yield line, name, parts[1], int(label)
