"""Small benchmarks with the real on-disk layout, from random images."""

import csv
import random
from pathlib import Path

import numpy as np
from PIL import Image

from ftsgd_plugin.datasets.digits import write_benchmark
from ftsgd_plugin.datasets.domainnet import CLASSES, DOMAINS
from ftsgd_plugin.datasets.fmow import CATEGORIES
from ftsgd_plugin.datasets.living17 import LIVING17


def write_image(path: Path, size: tuple[int, int], seed: int) -> None:
    """A smooth random RGB image (width, height)."""
    coarse = np.random.RandomState(seed).randint(0, 256, (5, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


def write_rows(path: Path, header, rows) -> None:
    with open(path, 'w', newline='') as file:
        csv.writer(file).writerows([header, *rows])


def write_camelyon(parent: Path, per_cell: int = 2, size: int = 96) -> Path:
    """Every hospital with two slides, both labels, both of the file's splits."""
    root, rng, rows = parent / 'camelyon17_v1.0', random.Random(0), []
    cells = [(c, s, y, h) for c in range(5) for s in (0, 7) for y in (0, 1) for h in (0, 1) for _ in range(per_cell)]
    rng.shuffle(cells)
    for i, (centre, slide, tumour, held_out) in enumerate(cells):
        patient, node = f'{centre * 20 + slide:03d}', slide % 5
        x, y = 32 * i, 64 * i
        directory = f'patient_{patient}_node_{node}'
        write_image(root / f'patches/{directory}/patch_{directory}_x_{x}_y_{y}.png', (size, size), i)
        rows.append((i, patient, node, x, y, tumour, centre * 10 + slide, centre, held_out))
    header = ('', 'patient', 'node', 'x_coord', 'y_coord', 'tumor', 'slide', 'center', 'split')
    write_rows(root / 'metadata.csv', header, rows)
    (root / 'RELEASE_v1.0.txt').touch()
    return root


COUNTRIES = {'FRA': 'Europe', 'IND': 'Asia', 'KEN': 'Africa', 'BRA': 'Americas', 'AUS': 'Oceania', 'ATF': 'Other'}


def write_fmow(parent: Path, rows: int = 260, size: int = 224) -> Path:
    """All regions, an unknown country, sequestered rows, all periods, and both formats of time stamps."""
    root, rng, lines = parent / 'fmow_v1.1', random.Random(1), []
    for i in range(rows):
        year = rng.choice([2002, 2008, 2012, 2013, 2015, 2016, 2017])
        split = rng.choice(['train', 'val', 'val', 'test', 'test', 'seq'])
        country = rng.choice([*COUNTRIES, 'XKX'])
        fraction = '.643' if rng.random() < 0.2 else ''
        if split != 'seq':
            write_image(root / f'images/rgb_img_{i}.png', (size, size), i)
        stamp = f'{year}-{rng.randint(1, 12):02d}-05T02:27:17{fraction}Z'
        lines.append((split, f'img_{i}.jpg', rng.choice(CATEGORIES), country, stamp, 'ignored'))
    root.mkdir(parents=True, exist_ok=True)
    header = ('split', 'img_filename', 'category', 'country_code', 'timestamp', 'region')
    write_rows(root / 'rgb_metadata.csv', header, lines)
    mapping = [(name.title(), code, region) for code, region in COUNTRIES.items() for name in (code,)]
    write_rows(root / 'country_code_mapping.csv', ('name', 'alpha-3', 'region'), mapping)
    (root / 'RELEASE_v1.1.txt').touch()
    return root


def write_waterbirds(parent: Path, per_cell: int = 4) -> Path:
    """Every label and place in every split; images of varying size."""
    root, rng = parent / 'waterbirds_v1.0', random.Random(2)
    cells = [(s, y, p) for s in range(3) for y in range(2) for p in range(2) for _ in range(per_cell)]
    rng.shuffle(cells)
    rows = []
    for i, (split, y, place) in enumerate(cells):
        name = f'{i % 5:03d}.Some_Bird/Some_Bird_{i:04d}.jpg'
        write_image(root / name, (rng.randint(60, 300), rng.randint(60, 300)), i)
        rows.append((i + 1, name, y, split, place, f'/o/ocean/{i}.jpg'))
    header = ('img_id', 'img_filename', 'y', 'split', 'place', 'place_filename')
    write_rows(root / 'metadata.csv', header, rows)
    (root / 'RELEASE_v1.0.txt').touch()
    return root


def write_imagenet(parent: Path, train: int = 2, val: int = 1) -> Path:
    """The 68 classes of Living-17 and one other, a directory per class."""
    root, seed = parent / 'imagenet', 0
    wnids = [wnid for row in LIVING17 for part in row[2:] for wnid, _ in part]
    for wnid in [*wnids, 'n01440764']:
        for part, count in (('train', train), ('val', val)):
            for i in range(count):
                name = f'{wnid}_{i}.JPEG' if part == 'train' else f'ILSVRC2012_val_{seed:08d}.JPEG'
                write_image(root / part / wnid / name, (70 + seed % 40, 90 - seed % 20), seed)
                seed += 1
    return root


def write_domainnet(parent: Path, classes=CLASSES[::6]) -> Path:
    """A few classes in each domain, with 40-class lists in SENTRY_splits and official lists in txt."""
    root, seed = parent / 'domainnet', 0
    for domain in DOMAINS:
        for part, count in (('train', 2), ('test', 1)):
            mini, official = [], []
            for name in classes:
                for _ in range(count):
                    path = f'{domain}/{name}/{domain}_{seed:06d}.jpg'
                    write_image(root / path, (64 + seed % 50, 80 - seed % 30), seed)
                    mini.append(f'{path} {CLASSES.index(name)}')
                    official.append(f'{path} {300 - CLASSES.index(name)}')
                    seed += 1
            official.append(f'{domain}/The_Eiffel_Tower/{domain}_999999.jpg 311')
            for directory, suffix, lines in (('SENTRY_splits', '_mini', mini), ('txt', '', official)):
                (root / directory).mkdir(parents=True, exist_ok=True)
                (root / directory / f'{domain}_{part}{suffix}.txt').write_text('\n'.join(lines) + '\n')
    return root


def write_digits(parent: Path) -> Path:
    """The demo's benchmark, complete."""
    return write_benchmark(parent / 'digits').parent


def write_own(parent: Path, per_cell: int = 10, size: int = 32) -> Path:
    """A user's own images: directories ``domain/class`` of two domains and two classes."""
    root = parent / 'own'
    cells = [(domain, label) for domain in ('photo', 'sketch') for label in ('cat', 'dog')]
    for i, (domain, label) in enumerate(cells):
        for k in range(per_cell):
            write_image(root / domain / label / f'{k}.png', (size, size), i * per_cell + k)
    return root


PACS_CLASSES = ('dog', 'elephant', 'giraffe', 'guitar', 'horse', 'house', 'person')


def write_pacs(parent: Path, per_cell: int = 4, size: int = 32) -> Path:
    """PACS as its archive unpacks: four domains, seven classes in each, ``pic_001.jpg`` and so on."""
    root, seed = parent / 'PACS', 0
    for domain in ('art_painting', 'cartoon', 'photo', 'sketch'):
        for name in PACS_CLASSES:
            for i in range(per_cell):
                write_image(root / domain / name / f'pic_{i + 1:03d}.jpg', (size, size), seed)
                seed += 1
    return root
