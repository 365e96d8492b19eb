"""Waterbirds (Sagawa et al. 2020): the background predicts the kind of bird in training and misleads in the test."""

from collections.abc import Iterator

from mmpretrain.registry import DATASETS

from .base import BenchmarkDataset
from .csv_reader import Unique, parse_code, read_csv


@DATASETS.register_module()
class Waterbirds(BenchmarkDataset):
    """Waterbirds: the original (``waterbird_complete95_forest2water2``) or WILDS' version (``waterbirds_v1.0``).

    Records: ``img_path``, ``gt_label`` (0 landbird, 1 waterbird), ``split``, ``place`` (0 land, 1 water) and ``group``,
    which joins the names, e.g. ``'landbird_water'``. Any data in this layout can be read; ``metainfo`` renames
    ``classes`` and ``places``.

    Args:
        data_root (str): The directory that holds ``metadata.csv``.
        split (str): ``'train'``, ``'val'`` or ``'test'``.
        **kwargs: See :class:`BenchmarkDataset`.

    Examples:
        >>> dataset = dict(type='Waterbirds', data_root='data/waterbirds_v1.0', split='test', pipeline=pipeline)
    """

    METAINFO = dict(classes=('landbird', 'waterbird'), places=('land', 'water'))
    METADATA = 'metadata.csv'
    SPLITS = ('train', 'val', 'test')  # in the order of the codes in the file
    PUBLISHED = dict(train=4795, val=1199, test=5794)
    SOURCE = (
        'https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz, or waterbirds_v1.0 from '
        "https://wilds.stanford.edu; the demo's digits: python tools/make_digits.py"
    )
    LICENCE = 'non-commercial research and education (CUB, Places)'
    DISK = 'size not published'
    OTHER_NAMES = True

    def read_records(self) -> Iterator[dict]:
        """Yield a record per row of ``metadata.csv``."""
        classes, places = self.metainfo['classes'], self.metainfo['places']
        unique = Unique(self.ann_file)
        for line, (name, y, split, place) in read_csv(self.ann_file, ('img_filename', 'y', 'split', 'place')):
            unique.check(line, name)
            label = parse_code(self.ann_file, line, 'y', y, len(classes))
            place = parse_code(self.ann_file, line, 'place', place, len(places))
            if self.SPLITS[parse_code(self.ann_file, line, 'split', split, len(self.SPLITS))] == self.split:
                yield self.record(name, label, group=f'{classes[label]}_{places[place]}', place=place)
