"""Malformed data sets: small trees with the real layout, one change each, and the line that names it."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

from ftsgd_plugin.datasets import Camelyon17, DomainNet, FMoW, Living17, Waterbirds
from ftsgd_plugin.datasets.domainnet import CLASSES
from ftsgd_plugin.datasets.fmow import CATEGORIES
from ftsgd_plugin.datasets.living17 import LIVING17
from helpers.trees import COUNTRIES

# Whole data sets without their images, which no constructor opens.


def as_csv(*rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()


BIRDS = as_csv(
    ('img_id', 'img_filename', 'y', 'split', 'place', 'place_filename'),
    *((i, f'{i}.jpg', i % 2, i // 4, i % 3 % 2, 'p.jpg') for i in range(12)),
)
CELLS = as_csv(
    ('', 'patient', 'node', 'x_coord', 'y_coord', 'tumor', 'slide', 'center', 'split'),
    *((i, f'{i % 5 * 20:03d}', 1, i, i, i // 5 % 2, i % 5 * 10 + 3, i % 5, i // 10) for i in range(20)),
)
LAND = as_csv(
    ('split', 'category', 'country_code', 'timestamp', 'region'),
    *(
        (('train', 'val', 'test')[i % 3], CATEGORIES[i], 'KEN', f'{2010 + i // 3}-01-05T02:27:17Z', '')
        for i in range(24)
    ),
)
REGIONS = as_csv(('name', 'alpha-3', 'region'), *((name, name, region) for name, region in COUNTRIES.items()))
SKETCHES = ''.join(f'sketch/{name}/sketch_{i}.jpg {i}\n' for i, name in enumerate(CLASSES[:5]))
HELD_OUT = SKETCHES.replace('.jpg', '_test.jpg')
OFFICIAL = ''.join(f'sketch/{name}/sketch_{i}.jpg {100 + i}\n' for i, name in enumerate((*CLASSES[:5], 'aaa')))
WNIDS = [wnid for row in LIVING17 for part in row[2:] for wnid, _ in part]
VAL = ''.join(f'ILSVRC2012_val_{i:08d}.JPEG {i}\n' for i in range(1000))
LISTS = 'SENTRY_splits/sketch_train_mini.txt', 'SENTRY_splits/sketch_test_mini.txt'

Tree = dict[str, str | bytes]  # path -> content; a path that ends with / is an empty directory
KINDS: dict[type, tuple[str, Tree]] = {
    Waterbirds: ('train', {'metadata.csv': BIRDS}),
    Camelyon17: ('train', {'metadata.csv': CELLS}),
    FMoW: ('train', {'rgb_metadata.csv': LAND, 'country_code_mapping.csv': REGIONS}),
    DomainNet: ('sketch_train', {'sketch/': '', LISTS[0]: SKETCHES, LISTS[1]: HELD_OUT}),
    Living17: ('train', {f'train/{wnid}/{wnid}_{i}.JPEG': '' for wnid in WNIDS for i in range(2)}),
}
FIRST = f'train/{WNIDS[0]}/'
FLAT: Tree = {'val/': '', 'meta/val.txt': VAL}


def write(root: Path, tree: Tree) -> None:
    for name, content in tree.items():
        path = root / name
        (path if name.endswith('/') else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith('/'):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def line(number: int, old: str, new: str) -> Callable[[str], str]:
    """Replace the first ``old`` in a line, counted from 1."""

    def change(text: str) -> str:
        lines = text.split('\n')
        assert old in lines[number - 1], lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old, new, 1)
        return '\n'.join(lines)

    return change


def to(content: str | bytes) -> Callable[[str], str | bytes]:
    return lambda text: content


def end(more: str) -> Callable[[str], str]:
    return lambda text: text + more


def only(*numbers: int) -> Callable[[str], str]:
    return lambda text: ''.join(one + '\n' for i, one in enumerate(text.split('\n'), 1) if i in numbers)


M, RGB, MAP = 'metadata.csv', 'rgb_metadata.csv', 'country_code_mapping.csv'
NUMBER = 'is not an integer'
# The data set, the file, what happens to it (None: it is missing), and what the line says after the root.
FAULTS = [
    # every reader of CSV, shown on Waterbirds
    (Waterbirds, M, None, '{}: not found'),
    (Waterbirds, M, to(''), r"{}: column 'img_filename' is missing \(found: no header\)"),
    (Waterbirds, M, to('\n\n'), "{}: column 'img_filename' is missing"),
    (Waterbirds, M, to(BIRDS[: BIRDS.index('\n') + 1]), "{}: no image belongs to split 'train'"),
    (Waterbirds, M, to(b'PK\x03\x04\xff\xfe\x00'), r'{}: not a CSV file \(line 1 is not UTF-8\)'),
    (Waterbirds, M, to(BIRDS.encode('utf-16')), r'{}: not a CSV file \(line 1 is not UTF-8\)'),
    (Waterbirds, M, lambda text: text.encode() + b'12,\xe9.jpg,0,0,0,p\n', r'{}: not a CSV file \(line 14 is not'),
    (Waterbirds, M, lambda text: text.encode() + b'12,\xe9', r'{}: not a CSV file \(line 14 is not UTF-8\)'),
    (Waterbirds, M, lambda text: text.replace(',', ';'), "{}: column 'img_filename' is missing"),
    (Waterbirds, M, line(1, 'img_filename', 'image'), "{}: column 'img_filename' is missing"),
    (Waterbirds, M, line(1, 'y', 'Y'), "{}: column 'y' is missing"),
    (Waterbirds, M, line(1, 'place_filename', 'y'), "{}:1: column 'y' occurs twice"),
    (Waterbirds, M, line(1, 'img_id', 'split'), "{}:1: column 'split' occurs twice"),
    (Waterbirds, M, to(CELLS), "{}: column 'img_filename' is missing"),
    (Waterbirds, M, to('<html>\n<body>404</body>\n'), "{}: column 'img_filename' is missing"),
    (Waterbirds, M, line(4, ',p.jpg', ''), "{}:4: 'place_filename' is missing"),
    (Waterbirds, M, end('12,12.jpg,0'), "{}:14: 'split' is missing"),
    (Waterbirds, M, line(3, '1.jpg', '1,a.jpg'), '{}:3: 7 fields under 6 columns'),
    (Waterbirds, M, line(3, '1.jpg', '"1.jpg'), r'{}: not a CSV file \(up to line 13: unexpected end of data\)'),
    (Waterbirds, M, lambda t: line(5, '3.jpg', '3"')(line(3, '1.jpg', '"1')(t)), '{}:3: this row extends'),
    (Waterbirds, M, line(3, '1.jpg', '"1\n.jpg"'), '{}:3: this row extends over several lines'),
    (Waterbirds, M, line(3, '1.jpg', '"1"a.jpg'), r'{}: not a CSV file \(up to line 3: '),
    (Waterbirds, M, line(3, '1.jpg', 'x' * 200_000), r'{}: not a CSV file \(up to line 3: field larger'),
    (Waterbirds, M, line(3, ',1,0,', ',\uff11,0,'), f'{{}}:3: y=.* {NUMBER}'),
    (Waterbirds, M, line(3, ',1,0,', ',0_1,0,'), f"{{}}:3: y='0_1' {NUMBER}"),
    (Waterbirds, M, line(3, ',1,0,', ',1.0,0,'), f"{{}}:3: y='1.0' {NUMBER}"),
    (Waterbirds, M, line(3, ',1,0,', ',1e0,0,'), f"{{}}:3: y='1e0' {NUMBER}"),
    (Waterbirds, M, line(3, ',1,0,', ',²,0,'), f'{{}}:3: y=.* {NUMBER}'),
    (Waterbirds, M, line(3, ',1,0,', ',,0,'), f"{{}}:3: y='' {NUMBER}"),
    (Waterbirds, M, line(3, ',1,0,', ',nan,0,'), f"{{}}:3: y='nan' {NUMBER}"),
    (Waterbirds, M, line(3, ',1,0,', f',{"9" * 5000},0,'), f"{{}}:3: y='9+ {NUMBER}"),
    (Waterbirds, M, line(3, ',1,0,', ',2,0,'), '{}:3: y=2 is outside 0 to 1'),
    (Waterbirds, M, line(3, ',1,0,', ',-1,0,'), '{}:3: y=-1 is outside 0 to 1'),
    (Waterbirds, M, line(3, ',1,0,', ',1,3,'), '{}:3: split=3 is outside 0 to 2'),
    (Waterbirds, M, line(3, ',1,p', ',٢,p'), f'{{}}:3: place=.* {NUMBER}'),
    (Waterbirds, M, line(3, '1.jpg', '0.jpg'), '{}:3: 0.jpg is listed twice'),
    (Waterbirds, M, line(3, '1.jpg', './0.jpg'), '{}:3: ./0.jpg is listed twice'),
    (Waterbirds, M, line(3, '1.jpg', 'a/..//0.jpg'), '{}:3: a/..//0.jpg is listed twice'),
    (Waterbirds, M, line(3, '1.jpg', ''), "{}:3: '' does not name an image"),
    (Waterbirds, M, line(3, '1.jpg', ' '), "{}:3: ' ' does not name an image"),
    (Waterbirds, M, line(3, '1.jpg', '\x1b[2J.jpg'), r"{}:3: '\\x1b\[2J.jpg' does not name an image"),
    (Waterbirds, M, line(3, '1.jpg', '1\0.jpg'), r"{}:3: '1\\x00.jpg' does not name an image"),
    (Waterbirds, M, only(1, 2, 4), "{}: every image of split 'train' is of class 0"),
    # Camelyon17
    (Camelyon17, M, line(3, ',020,', ',²²,'), "{}:3: patient='²²' is not a number"),
    (Camelyon17, M, line(3, ',020,1,', ',020,1.0,'), "{}:3: node='1.0' is not a number"),
    (Camelyon17, M, line(3, ',1,1,', ',,1,'), "{}:3: (node|x_coord)='' is not a number"),
    (Camelyon17, M, line(3, ',13,', ',53,'), '{}:3: slide=53 is outside 0 to 49'),
    (Camelyon17, M, line(3, ',13,', ',23,'), '{}:3: slide=23 is not of center=1'),
    (Camelyon17, M, line(3, ',13,1,', ',13,7,'), '{}:3: center=7 is outside 0 to 4'),
    (Camelyon17, M, line(3, ',13,1,0', ',13,1,2'), '{}:3: split=2 is outside 0 to 1'),
    (Camelyon17, M, to(BIRDS), "{}: column 'patient' is missing"),
    # FMoW
    (FMoW, MAP, None, '{}: not found'),
    (FMoW, MAP, to(b'\xff\xfe'), r'{}: not a CSV file'),
    (FMoW, MAP, line(2, 'Europe', 'Atlantis'), "{}:2: region='Atlantis' is not one of"),
    (FMoW, MAP, end('KEN,KEN,Europe\n'), "{}:8: 'KEN' is in region 'Europe', above in 'Africa'"),
    (FMoW, RGB, line(2, 'train', 'Train'), "{}:2: split='Train' is not one of"),
    (FMoW, RGB, line(2, CATEGORIES[0], CATEGORIES[0].upper()), '{}:2: category=.* is not one of the 62'),
    (FMoW, RGB, line(2, '2010', '\uff12\uff10\uff11\uff10'), '{}:2: timestamp=.* does not start with a year'),
    (FMoW, RGB, line(2, '2010', '²²²²'), '{}:2: timestamp=.* does not start with a year'),
    (FMoW, RGB, line(2, '2010', '1010'), '{}:2: year 1010 is outside 2002 to 2017'),
    (FMoW, RGB, line(2, '2010-01', '05/2010'), '{}:2: timestamp=.* does not start with a year'),
    (FMoW, RGB, only(1, 2), "{}: every image of split 'train' is of class 0"),
    # DomainNet
    (DomainNet, LISTS[0], None, '{}: not found'),
    (DomainNet, 'sketch/', None, 'sketch: not found'),
    (DomainNet, LISTS[0], to(''), "{}: no image belongs to split 'sketch_train'"),
    (DomainNet, LISTS[0], to(b'\xff\xd8\xff\xe0'), r'{}: not a list \(line 1 is not UTF-8\)'),
    (DomainNet, LISTS[0], lambda text: text.replace('sketch', 'real'), "{}:1: real/.* is not of domain 'sketch'"),
    (DomainNet, LISTS[0], end('/sketch/apple 2\n'), "{}:6: /sketch/apple is not of domain 'sketch'"),
    (DomainNet, LISTS[0], end('../apple/a.jpg 2\n'), "{}:6: ../apple/a.jpg is not of domain 'sketch'"),
    (DomainNet, LISTS[0], to(HELD_OUT), '{}:1: sketch/.* is in sketch_test_mini.txt as well'),
    (DomainNet, LISTS[0], end('./' + SKETCHES.split('\n')[0]), '{}:6: sketch/airplane/sketch_0.jpg is listed twice'),
    (DomainNet, LISTS[0], line(2, ' 1', ' \uff11'), '{}:2: .* is not "domain/class/image label"'),
    (DomainNet, LISTS[0], line(2, ' 1', ' ²'), '{}:2: .* is not "domain/class/image label"'),
    (DomainNet, LISTS[0], line(2, ' 1', ''), '{}:2: .* is not "domain/class/image label"'),
    (DomainNet, LISTS[0], line(2, ' 1', f' {"1" * 5000}'), '{}:2: .* is not "domain/class/image label"'),
    (DomainNet, LISTS[0], line(2, ' 1', ' 2'), "{}:2: label 2 of 'ambulance' is not the published 1"),
    (DomainNet, LISTS[0], line(2, '/sketch_1', '\x1b/sketch_1'), r'{}:2: '),
    (DomainNet, LISTS[0], only(1), "{}: every image of split 'sketch_train' is of class 0"),
    # Living-17
    (Living17, 'train/', None, 'train: not found'),
    (Living17, FIRST, None, f'{FIRST[:-1]}: class directory is missing'),
    (Living17, FIRST + 'a.gif', to(b''), '{}: .gif is not among'),
    (Living17, FIRST + 'a.AVIF', to(b''), '{}: .avif is not among'),
    (Living17, FIRST + 'more/', to(''), f'{FIRST}more: a directory within a class'),
    (Living17, FIRST + f'{WNIDS[5]}_1.JPEG', to(b''), f'{{}}: is named as an image of {WNIDS[5]}'),
]  # fmt: skip
FLAT_FAULTS = [
    (None, '{}: not found, and val has no class directories'),
    (to(''), '{}: no image of class 27'),
    (to(b'\xff'), r'{}: not a list \(line 1 is not UTF-8\)'),
    (line(28, ' 27', ' 28'), r'{}: no image of class 27 \(n01631663\)'),
    (line(3, ' 2', ' 1000'), '{}:3: index=1000 is outside 0 to 999'),
    (line(3, ' 2', ' \uff12'), '{}:3: index=.* is not an integer'),
    (line(3, ' 2', ''), '{}:3: .* is not "image index"'),
    (line(3, '00002.', '00001.'), '{}:3: ILSVRC2012_val_00000001.JPEG is listed twice'),
    (line(3, 'ILSVRC2012_val_00000002', 'n01631663_12'), '{}:3: n01631663_12.JPEG is an image of train'),
    (line(3, 'ILSVRC', '\x1bILSVRC'), r'{}:3: .* does not name an image'),
]
