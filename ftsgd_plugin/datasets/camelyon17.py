"""WILDS-Camelyon17 (Bandi et al. 2018, Koh et al. 2021): tumours in lymph node patches, across hospitals."""

from collections.abc import Iterator

from mmpretrain.registry import DATASETS

from ..utils.errors import UserError
from .base import BenchmarkDataset
from .csv_reader import Unique, parse_code, read_csv, shown

VAL_CENTRE, TEST_CENTRE = 1, 2  # of hospitals 0 to 4 (WILDS' official split)
SLIDES_PER_CENTRE = 10


@DATASETS.register_module()
class Camelyon17(BenchmarkDataset):
    """WILDS-Camelyon17, the official split.

    Records: ``img_path``, ``gt_label`` (1 tumour), ``split``, ``hospital`` (0 to 4), ``slide`` (0 to 49) and ``group``,
    the slide's name (``'slide_20'``).

    Args:
        data_root (str): The directory that holds ``metadata.csv`` (``camelyon17_v1.0``).
        split (str): ``'train'`` and ``'id_val'`` (hospitals 0, 3, 4), ``'val'`` (1) or ``'test'`` (2).
        **kwargs: See :class:`BenchmarkDataset`.
    """

    METAINFO = dict(classes=('normal', 'tumour'))
    METADATA = 'metadata.csv'
    SPLITS = ('train', 'id_val', 'val', 'test')
    PUBLISHED = dict(train=302436, id_val=33560, val=34904, test=85054)
    SOURCE = 'camelyon17_v1.0 from https://wilds.stanford.edu (archive of 10.7 GB)'
    LICENCE = 'CC0'
    DISK = '15 GB'

    def read_records(self) -> Iterator[dict]:
        """Yield a record per row of ``metadata.csv``."""
        path, unique = self.ann_file, Unique(self.ann_file)
        columns = ('patient', 'node', 'x_coord', 'y_coord', 'tumor', 'slide', 'center', 'split')
        for line, (patient, node, x, y, tumour, slide, centre, split) in read_csv(path, columns):
            label = parse_code(path, line, 'tumor', tumour, 2)
            slide = parse_code(path, line, 'slide', slide, 50)
            centre = parse_code(path, line, 'center', centre, 5)
            if slide // SLIDES_PER_CENTRE != centre:
                raise UserError(f'{path}:{line}: slide={slide} is not of center={centre}; correct this row.')
            held_out = parse_code(path, line, 'split', split, 2)
            for column, value in (('patient', patient), ('node', node), ('x_coord', x), ('y_coord', y)):
                if not (value.isascii() and value.isdigit()):
                    raise UserError(f'{path}:{line}: {column}={shown(value)} is not a number; correct this row.')
            node = f'patient_{patient.zfill(3)}_node_{node}'
            name = f'patches/{node}/patch_{node}_x_{x}_y_{y}.png'
            unique.check(line, name)
            belongs_to = {VAL_CENTRE: 'val', TEST_CENTRE: 'test'}.get(centre, 'id_val' if held_out else 'train')
            if belongs_to == self.split:
                yield self.record(name, label, group=f'slide_{slide}', hospital=centre, slide=slide)
