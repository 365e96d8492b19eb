"""WILDS-FMoW (Christie et al. 2018, Koh et al. 2021): land use from satellites, across years and regions."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mmengine.logging import print_log
from mmpretrain.registry import DATASETS

from ..utils.errors import UserError
from .base import BenchmarkDataset
from .csv_reader import look_up, read_csv, read_names, shown

CATEGORIES = read_names('fmow')  # in label order: alphabetical, as in WILDS
REGIONS = ('Asia', 'Europe', 'Africa', 'Americas', 'Oceania', 'Other')
YEARS = (2002, 2017)  # of the images, first and last
COUNTRIES = 'country_code_mapping.csv'
# Split of WILDS -> split in the file, first and last year.
PERIODS = {
    'train': ('train', 0, 2012),
    'id_val': ('val', 0, 2012),
    'id_test': ('test', 0, 2012),
    'val': ('val', 2013, 2015),
    'test': ('test', 2016, 9999),
}


@DATASETS.register_module()
class FMoW(BenchmarkDataset):
    """WILDS-FMoW, the official split by year, all regions.

    Records: ``img_path``, ``gt_label``, ``split``, ``region`` (a name), ``year`` and ``group`` (the region). A country
    that is missing from ``country_code_mapping.csv`` is in region ``'Other'``, as in WILDS.

    Args:
        data_root (str): The directory that holds ``rgb_metadata.csv`` (``fmow_v1.1``).
        split (str): ``'train'``, ``'id_val'``, ``'id_test'`` (before 2013), ``'val'`` (2013 to 2015) or ``'test'``
            (from 2016).
        **kwargs: See :class:`BenchmarkDataset`.
    """

    METAINFO = dict(classes=CATEGORIES)
    METADATA = 'rgb_metadata.csv'
    SPLITS = tuple(PERIODS)
    PUBLISHED = dict(train=76863, id_val=11483, id_test=11327, val=19915, test=22108)
    SOURCE = 'fmow_v1.1 from https://wilds.stanford.edu (archive of 53.9 GB)'
    LICENCE = 'FMoW Challenge Public License (github.com/fMoW/dataset)'
    DISK = '55 GB'

    def read_records(self) -> Iterator[dict]:
        """Yield a record per row of ``rgb_metadata.csv``; images are numbered by row, sequestered rows included."""
        path, labels, regions = self.ann_file, {name: i for i, name in enumerate(CATEGORIES)}, self._read_regions()
        wanted, first, last = PERIODS[self.split]
        unknown = Counter()
        rows = read_csv(path, ('split', 'category', 'country_code', 'timestamp'))
        for number, (line, (split, category, country, timestamp)) in enumerate(rows):
            if split not in ('train', 'val', 'test', 'seq'):
                raise UserError(f'{path}:{line}: split={shown(split)} is not one of train, val, test, seq; correct it.')
            if split == 'seq':
                continue
            label = look_up(path, line, 'category', category, labels)
            if not re.match('[0-9]{4}-', timestamp):
                raise UserError(
                    f'{path}:{line}: timestamp={shown(timestamp)} does not start with a year; correct this row.'
                )
            year = int(timestamp[:4])
            if not YEARS[0] <= year <= YEARS[1]:
                raise UserError(f'{path}:{line}: year {year} is outside {YEARS[0]} to {YEARS[1]}; correct this row.')
            if split != wanted or not first <= year <= last:
                continue
            region = regions.get(country)
            if region is None:
                region = 'Other'
                unknown[country] += 1
            name = f'images/rgb_img_{number}.png'
            yield self.record(name, label, group=region, region=region, year=year)
        if unknown:
            countries = ', '.join(f'{country or "(blank)"} ({count})' for country, count in unknown.most_common(5))
            print_log(
                f'FMoW {self.split}: {sum(unknown.values()):,} images of {len(unknown)} countries without a region '
                f"are in region 'Other': {countries}",
                logger='current',
                level=logging.WARNING,
            )

    def _read_regions(self) -> dict[str, str]:
        """Country code (three letters) -> region."""
        path = Path(self.data_root) / COUNTRIES
        if not path.is_file():
            raise UserError(f'{path}: not found; it belongs beside {self.METADATA}: unpack the archive again.')
        regions = {}
        for line, (country, region) in read_csv(str(path), ('alpha-3', 'region')):
            if region and region not in REGIONS:
                raise UserError(
                    f'{path}:{line}: region={shown(region)} is not one of {", ".join(REGIONS)}; correct it.'
                )
            if not region:
                continue
            if regions.setdefault(country, region) != region:
                raise UserError(
                    f'{path}:{line}: {shown(country)} is in region {region!r}, above in {regions[country]!r}; '
                    'remove one of the rows.'
                )
        return regions
