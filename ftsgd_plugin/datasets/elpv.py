"""ELPV: electroluminescence images of solar cells in two kinds of module, out of a package of the registry.

Deitsch et al. 2019 (Solar Energy 185) and 2021 (Machine Vision and Applications 32); Buerhop-Lutz et al. 2018. A
real inspection task with a real shift: cells of monocrystalline and of polycrystalline silicon look different.
"""

import csv
import hashlib
import io
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import UserError
from ..utils.files import sha256, write_bytes, write_text
from ..utils.packages import Package, download_wheel
from .scanning import report_undecodable

PACKAGE = Package(
    'elpv-dataset',
    '1.0.0.post1',
    'elpv_dataset-1.0.0.post1-py3-none-any.whl',
    '85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c',
)
LICENCE = 'CC BY-NC-SA 4.0 (images; non-commercial), Apache-2.0 (code)'
TABLE = 'elpv.csv'
TABLE_SHA256 = 'a529ecbd6ec5a214604c626593297a4bbb13e5e6f1a6f37ef3fb005c0441d3cc'
COUNT = 2624
KINDS = ('mono', 'poly')
CLASSES = ('functional', 'defective')
SEED = 0
TEST_SHARE = 0.3  # of the cells of the kind that is trained on
_DATA = 'elpv_dataset/data'
_COLUMNS = ('path', 'label', 'kind', 'probability', 'group', 'elpv-mono', 'elpv-poly')


@dataclass(frozen=True)
class Cell:
    """A cell of the published list.

    Attributes:
        path: Its image, below the directory of the data.
        probability: That it is defective, by the experts' judgement: 0, 1/3, 2/3 or 1.
        kind: ``'mono'`` or ``'poly'``: the silicon of its module.
    """

    path: str
    probability: float
    kind: str

    @property
    def label(self) -> str:
        """Defective from a probability of one half on."""
        return CLASSES[self.probability >= 0.5]


def prepare_elpv(
    root: str | os.PathLike = 'data/elpv',
    scan: bool = False,
    workers: int | None = None,
    bad_list: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
) -> bool:
    """Write ELPV's images and the table of its splits, unless they exist, and print what the data holds.

    Args:
        root: Directory of the data: ``elpv.csv`` and ``images/``.
        scan: Decode every image.
        workers: Processes for ``scan``. Default: one per core.
        bad_list: File for the images that cannot be decoded. Default: ``bad_images_elpv.txt``.
        cache: Directory of wheels, see :func:`ftsgd_plugin.utils.packages.download_wheel`.

    Returns:
        bool: Whether every image exists and, with ``scan``, can be decoded.

    Raises:
        UserError: The package cannot be downloaded or is not the known one, or a file cannot be written.
    """
    root = Path(root).expanduser()
    if not _is_whole(root):
        _write(root, download_wheel(PACKAGE, cache))
    with open(root / TABLE, encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    print(f'ELPV: {len(rows):,} images of solar cells in {root}\n  source:  {PACKAGE.requirement} (pip)')
    print(f'  licence: {LICENCE}\n')
    print(f'{"trained on":<12}{"split":<8}{"functional":>12}{"defective":>12}')
    for kind in KINDS:
        counts = Counter((row[f'elpv-{kind}'], row['label']) for row in rows)
        for split in ('train', 'test', 'ood'):
            print(f'{kind:<12}{split:<8}' + ''.join(f'{counts[split, label]:>12,}' for label in CLASSES))
    missing = [row['path'] for row in rows if not (root / row['path']).is_file()]
    if missing:
        print(f'{len(missing):,} missing, e.g. {root / missing[0]}; remove {root / TABLE} to write them again')
        return False
    return not scan or report_undecodable('elpv', [str(root / row['path']) for row in rows], workers, bad_list)


def _is_whole(root: Path) -> bool:
    """Whether the table exists, which is written last."""
    if not (root / TABLE).is_file():
        return False
    if (found := sha256(root / TABLE)) != TABLE_SHA256:
        raise UserError(f'{root / TABLE}: is not the table of this version (SHA-256 {found}); remove it.')
    return True


def _write(root: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        cells = parse_list(archive.read(f'{_DATA}/labels.csv').decode())
        images = [name for name in archive.namelist() if name.startswith(f'{_DATA}/images/') and name.endswith('.png')]
        if len(cells) != COUNT or {f'{_DATA}/{cell.path}' for cell in cells} != set(images):
            raise UserError(f'{wheel}: lists {len(cells)} cells and has {len(images)} images instead of {COUNT:,}.')
        for cell in cells:
            write_bytes(root / cell.path, archive.read(f'{_DATA}/{cell.path}'))
    write_text(root / TABLE, table_of(cells))
    _is_whole(root)


def parse_list(text: str) -> list[Cell]:
    """The cells of ``labels.csv``: path, probability and kind, separated by blanks."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return [Cell(path, float(probability), kind) for path, probability, kind in rows]


def table_of(cells: Sequence[Cell]) -> str:
    """The CSV file with the splits: one column per kind that is trained on, with ``train``, ``test`` and ``ood``.

    Of each kind and probability, the share :data:`TEST_SHARE` is the ID test. Which cells these are depends on the
    seed and their paths alone, by a hash.
    """
    splits = {kind: draw_splits(cells, kind) for kind in KINDS}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(_COLUMNS)
    for i, cell in enumerate(cells):
        group = f'{cell.kind}_{cell.label}'
        row = (cell.path, cell.label, cell.kind, f'{cell.probability:.4g}', group)
        writer.writerow((*row, *(splits[kind][i] for kind in KINDS)))
    return text.getvalue()


def draw_splits(cells: Sequence[Cell], kind: str, seed: int = SEED) -> list[str]:
    """``train``, ``test`` or ``ood`` for every cell, where one kind is trained on."""
    splits = ['train' if cell.kind == kind else 'ood' for cell in cells]
    for probability in {cell.probability for cell in cells}:
        level = [i for i, cell in enumerate(cells) if (cell.kind, cell.probability) == (kind, probability)]
        level.sort(key=lambda i: hashlib.blake2b(f'{seed} {cells[i].path}'.encode()).digest())
        for i in level[: round(TEST_SHARE * len(level))]:
            splits[i] = 'test'
    return splits
