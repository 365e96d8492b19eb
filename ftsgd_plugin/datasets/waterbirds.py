"""Waterbirds (Sagawa et al. 2020): birds whose background predicts their kind in training and misleads in the test."""

from collections.abc import Iterator

from mmpretrain.registry import DATASETS

from .base import BenchmarkDataset, parse_code, read_csv


@DATASETS.register_module()
class Waterbirds(BenchmarkDataset):
    """Waterbirds, the original folder (``waterbird_complete95_forest2water2``) and WILDS' (``waterbirds_v1.0``) alike.

    Records: ``img_path``, ``gt_label`` (0 landbird, 1 waterbird), ``split``, ``place`` (0 land, 1 water) and ``group``,
    which joins the names, e.g. ``'landbird_water'``. Any data in this layout can be read; ``metainfo`` renames
    ``classes`` and ``places``.

    Args:
        data_root (str): The folder that holds ``metadata.csv``.
        split (str): ``'train'``, ``'val'`` or ``'test'``.
        **kwargs: See :class:`BenchmarkDataset`.

    Examples:
        >>> dataset = dict(type='Waterbirds', data_root='data/waterbirds_v1.0', split='test', pipeline=pipeline)
    """

    METAINFO = dict(classes=('landbird', 'waterbird'), places=('land', 'water'))
    METADATA = 'metadata.csv'
    SPLITS = ('train', 'val', 'test')  # in the order of the file's codes
    WHERE = (
        'Waterbirds: nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz; '
        "the demo's digits: python tools/make_digits.py"
    )

    def read_records(self) -> Iterator[dict]:
        """Yield a record per row of ``metadata.csv``."""
        classes, places = self.metainfo['classes'], self.metainfo['places']
        for line, row in read_csv(self.ann_file, ('img_filename', 'y', 'split', 'place')):
            label = parse_code(self.ann_file, line, row, 'y', len(classes))
            split = parse_code(self.ann_file, line, row, 'split', len(self.SPLITS))
            place = parse_code(self.ann_file, line, row, 'place', len(places))
            yield dict(
                img_path=row['img_filename'],
                gt_label=label,
                split=self.SPLITS[split],
                place=place,
                group=f'{classes[label]}_{places[place]}',
            )
