"""Living-17 of BREEDS (Santurkar et al. 2021): 17 kinds of animals, trained on some subclasses and tested on others."""

import os
from collections.abc import Iterator
from pathlib import Path

from mmpretrain.registry import DATASETS

from ..utils.errors import UserError
from .base import BenchmarkDataset
from .csv_reader import parse_code

# Superclass (name, WordNet id), its two source and its two target subclasses (WordNet id, ImageNet-1k class index), in
# label order: make_living17(info_dir, split='rand') of the robustness package, as in the paper's code.
LIVING17 = (
    ('salamander', 'n01629276', (('n01631663', 27), ('n01632777', 29)), (('n01630670', 26), ('n01632458', 28))),
    ('turtle', 'n01662784', (('n01669191', 37), ('n01665541', 34)), (('n01664065', 33), ('n01667114', 35))),
    ('lizard', 'n01674464', (('n01685808', 41), ('n01689811', 44)), (('n01694178', 47), ('n01675722', 38))),
    (
        'snake, serpent, ophidian',
        'n01726692',
        (('n01740131', 60), ('n01735189', 57)),
        (('n01751748', 65), ('n01742172', 61)),
    ),
    ('spider', 'n01772222', (('n01774750', 76), ('n01773157', 72)), (('n01773797', 74), ('n01775062', 77))),
    ('grouse', 'n01795088', (('n01796340', 81), ('n01798484', 83)), (('n01797886', 82), ('n01795545', 80))),
    ('parrot', 'n01816887', (('n01818515', 88), ('n01820546', 90)), (('n01817953', 87), ('n01819313', 89))),
    ('crab', 'n01976957', (('n01978287', 118), ('n01980166', 120)), (('n01978455', 119), ('n01981276', 121))),
    (
        'dog, domestic dog, Canis familiaris',
        'n02084071',
        (('n02088466', 163), ('n02086079', 154)),
        (('n02111500', 257), ('n02086910', 157)),
    ),
    ('wolf', 'n02114100', (('n02114855', 272), ('n02114712', 271)), (('n02114548', 270), ('n02114367', 269))),
    ('fox', 'n02118333', (('n02120505', 280), ('n02120079', 279)), (('n02119022', 277), ('n02119789', 278))),
    (
        'domestic cat, house cat, Felis domesticus, Felis catus',
        'n02121808',
        (('n02123159', 282), ('n02124075', 285)),
        (('n02123394', 283), ('n02123597', 284)),
    ),
    ('bear', 'n02131653', (('n02134418', 297), ('n02133161', 295)), (('n02134084', 296), ('n02132136', 294))),
    ('beetle', 'n02164464', (('n02172182', 305), ('n02174001', 306)), (('n02167151', 302), ('n02168699', 303))),
    ('butterfly', 'n02274259', (('n02281406', 325), ('n02276258', 321)), (('n02280649', 324), ('n02277742', 322))),
    ('ape', 'n02470325', (('n02483362', 368), ('n02480495', 365)), (('n02480855', 366), ('n02481823', 367))),
    ('monkey', 'n02484322', (('n02490219', 377), ('n02493509', 380)), (('n02493793', 381), ('n02492660', 379))),
)
# Split -> folder of ImageNet, and the column of the table.
PARTS = {'train': ('train', 2), 'ood_train': ('train', 3), 'id_val': ('val', 2), 'ood_val': ('val', 3)}
SUFFIXES = ('.jpeg', '.jpg', '.png')
FLAT_LIST = 'meta/val.txt'


@DATASETS.register_module()
class Living17(BenchmarkDataset):
    """Living-17 from an ImageNet-1k folder; only its 68 subclasses need to be there.

    ``val`` may hold a folder per class, or all pictures flat with MMPretrain's ``meta/val.txt`` ("picture index").

    Records: ``img_path``, ``gt_label`` (superclass), ``split``, ``subclass`` and ``group`` (the subclass' WordNet id).

    Args:
        data_root (str): The folder that holds ``train`` and ``val``.
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
        """Say what is missing or one level off."""
        root, part = Path(self.data_root), PARTS[self.split][0]
        if (root / part).is_dir():
            return
        for other, word in ((root.resolve().parent, 'low'), *((path, 'high') for path in sorted(root.glob('*/')))):
            if (other / part).is_dir():
                raise UserError(f'{root}: data_root is one level too {word}: set it to {other}')
        raise UserError(f'{root / part}: not found; set data_root to the folder of ImageNet. Living17: {self.SOURCE}')

    def read_records(self) -> Iterator[dict]:
        """Yield the pictures superclass by superclass, subclass by subclass, sorted by name."""
        part, column = PARTS[self.split]
        folder = Path(self.data_root) / part
        flat = part == 'val' and not any((folder / wnid).is_dir() for row in LIVING17 for wnid, _ in row[column])
        pictures = self._flat_pictures() if flat else None
        for label, row in enumerate(LIVING17):
            for wnid, index in row[column]:
                names = sorted(pictures[index]) if flat else self._folder_pictures(folder / wnid)
                for name in names:
                    path = f'{part}/{name}' if flat else f'{part}/{wnid}/{name}'
                    yield dict(img_path=path, gt_label=label, group=wnid, subclass=wnid)

    @staticmethod
    def _folder_pictures(folder: Path) -> list[str]:
        if not folder.is_dir():
            raise UserError(f'{folder}: class folder missing; unpack this class of ImageNet there.')
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES))
        if not names:
            raise UserError(f'{folder}: holds no picture; unpack this class of ImageNet there.')
        return names

    def _flat_pictures(self) -> dict[int, list[str]]:
        """ImageNet class index -> pictures, from ``meta/val.txt``."""
        path = Path(self.data_root) / FLAT_LIST
        if not path.is_file():
            raise UserError(
                f'{path}: not found, and val has no class folders; add this list ("picture index") or sort val.'
            )
        pictures: dict[int, list[str]] = {index: [] for index in range(1000)}
        with open(path, encoding='utf-8') as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    name, _, index = text.strip().rpartition(' ')
                    if not name:
                        raise UserError(f'{path}:{line}: {text.strip()!r} is not "picture index"; correct this line.')
                    pictures[parse_code(str(path), line, 'index', index, 1000)].append(name)
        return pictures
