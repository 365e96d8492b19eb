"""Measure the reading of the benchmarks: full-size metadata, and images decoded and transformed per second and core.

    python benchmarks/data.py                        # everything, about three minutes; prints Markdown
    python benchmarks/data.py --only pipelines
    python benchmarks/data.py --only cache           # with image_cache, beside the loaders of torchvision and timm

Metadata files of the published sizes and images of typical sizes (photographs of scikit-image) are generated.
"""

import argparse
import csv
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# (benchmark, size of the image, suffix, draft of the faster option)
IMAGES = (
    ('living17', (500, 375), '.jpg', None),
    ('living17', (1600, 1200), '.jpg', 512),
    ('waterbirds', (500, 375), '.jpg', None),
    ('waterbirds', (1600, 1200), '.jpg', 256),
    ('domainnet', (500, 375), '.jpg', None),
    ('domainnet', (1600, 1200), '.jpg', 256),
    ('fmow', (224, 224), '.png', None),
    ('camelyon', (96, 96), '.png', None),
)


def write_camelyon(root: Path, rows: int = 455_954) -> None:
    """Metadata of Camelyon17's published size: 302,436 / 33,560 / 34,904 / 85,054 images."""
    root.mkdir(parents=True)
    with open(root / 'metadata.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('', 'patient', 'node', 'x_coord', 'y_coord', 'tumor', 'slide', 'center', 'split'))
        for i in range(rows):
            centre, held_out = (0, 0) if i < 302_436 else (0, 1) if i < 335_996 else (1, 0) if i < 370_900 else (2, 0)
            writer.writerow((i, f'{i % 99:03d}', i % 5, 32 * i, 64 * i, i % 2, centre * 10 + i % 10, centre, held_out))


def write_fmow(root: Path, rows: int = 523_846) -> None:
    """Metadata of FMoW's published number of rows."""
    from ftsgd_plugin.datasets.fmow import CATEGORIES

    root.mkdir(parents=True)
    with open(root / 'rgb_metadata.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('split', 'img_filename', 'category', 'country_code', 'timestamp', 'region'))
        for i in range(rows):
            split = ('train', 'val', 'test', 'seq')[i % 13 % 4]
            stamp = f'{2002 + i % 16}-10-05T02:27:17Z'
            writer.writerow((split, f'a/b/c_{i}_rgb.jpg', CATEGORIES[i % 62], ('FRA', 'KEN', 'IND')[i % 3], stamp, ''))
    (root / 'country_code_mapping.csv').write_text('name,alpha-3,region\nF,FRA,Europe\nK,KEN,Africa\nI,IND,Asia\n')


def write_own(root: Path, rows: int = 1_000_000) -> None:
    """A table of one's own: 345 classes, 50,000 patients in 7 hospitals."""
    root.mkdir(parents=True)
    with open(root / 'labels.csv', 'w', newline='') as file:
        file.write('path,label,patient,site,age\n')
        for i in range(rows):
            path, label, patient = f'images/{i % 1000:03d}/image_{i:07d}.jpg', i * 7919 % 345, i // 20
            file.write(f'{path},class_{label:03d},p{patient:06d},site{patient % 7},{i % 90}\n')


# (data set part, 'train' or 'evaluation', size of the image, suffix, bicubic, crop_pct of the loader of timm)
CACHED = (
    ('waterbirds', 'train', (500, 375), '.jpg', True, 1.0),
    ('domainnet', 'train', (500, 375), '.jpg', True, 0.875),
    ('fmow', 'train', (224, 224), '.png', False, 1.0),
    ('camelyon', 'train', (96, 96), '.png', False, 1.0),
    ('living17', 'evaluation', (500, 375), '.jpg', False, 0.875),
)
OWN = dict(
    table='labels.csv',
    columns=dict(path='path', label='label', group='site', metadata=['patient', 'age']),
    draw=dict(val=0.1, test=0.1, seed=0, whole='patient'),
)


def measure_metadata(kind: str, root: str, split: str) -> None:
    """Print a row of the table, in a fresh process: seconds, peak memory above that after import, pickled bytes."""
    from mmengine.logging import MMLogger

    from ftsgd_plugin import datasets
    from ftsgd_plugin.hooks.resources import peak_resident_bytes
    from ftsgd_plugin.utils.format import format_bytes

    MMLogger.get_instance('benchmark', log_level='ERROR')  # the generated splits are not of the published sizes
    before, start = peak_resident_bytes(), time.perf_counter()
    dataset = getattr(datasets, kind)(data_root=root, split=split, **(OWN if kind == 'GroupedImages' else {}))
    seconds, peak = time.perf_counter() - start, peak_resident_bytes() - before
    size = len(pickle.dumps(dataset))
    print(f'| {kind} | {split} | {len(dataset):,} | {seconds:.2f} | {format_bytes(peak)} | {format_bytes(size)} |')


def metadata() -> None:
    """Print the table of metadata costs."""
    print('| dataset | split | records | init, s | peak above import | pickled |\n|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as directory:
        write_camelyon(Path(directory) / 'camelyon17_v1.0')
        write_fmow(Path(directory) / 'fmow_v1.1')
        write_own(Path(directory) / 'own')
        for kind, name, split in (
            ('Camelyon17', 'camelyon17_v1.0', 'train'),
            ('Camelyon17', 'camelyon17_v1.0', 'test'),
            ('FMoW', 'fmow_v1.1', 'train'),
            ('FMoW', 'fmow_v1.1', 'test'),
            ('GroupedImages', 'own', 'train'),
            ('GroupedImages', 'own', 'test'),
        ):
            command = [sys.executable, '-W', 'ignore', __file__, '--metadata', kind, f'{directory}/{name}', split]
            subprocess.run(command, check=True)


def rates(calls, count: int, rounds: int = 7) -> list[float]:
    """Calls per second of each, the best of several rounds in turn, so that a busy moment affects all of them."""
    best = [0.0] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(count):
                call()
            best[i] = max(best[i], count / (time.perf_counter() - start))
    return best


def pipelines(count: int) -> None:
    """Print the table of images per second and core: ours, plain torchvision, and the faster option if one exists."""
    import torch
    from mmengine.config import Config
    from mmengine.dataset import Compose
    from mmpretrain.registry import TRANSFORMS
    from PIL import Image
    from skimage import data
    from torchvision import transforms as T
    from torchvision.datasets.folder import pil_loader

    import ftsgd_plugin  # noqa: F401  registers the transforms

    torch.set_num_threads(1)
    photo = Image.fromarray(data.astronaut())

    def loader(steps, path):
        chain = Compose([TRANSFORMS.build(step) for step in steps])
        return lambda: chain(dict(img_path=path, gt_label=0))['inputs']

    def reference_loader(steps, path):
        chain = T.Compose([*steps, T.PILToTensor()])
        return lambda: chain(pil_loader(path)).contiguous()  # contiguous like ours: a batch needs it anyway

    print('| training pipeline | ours | plain torchvision | pixels | `draft` | img/s | mean pixel difference |')
    print('|---|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as directory:
        for name, size, suffix, draft in IMAGES:
            path = f'{directory}/{name}{suffix}'
            photo.resize(size, Image.Resampling.LANCZOS).save(path, quality=90)
            steps = Config.fromfile(ROOT / f'configs/_base_/datasets/{name}.py').train_dataloader.dataset.pipeline
            ours, reference = loader(steps, path), reference_loader(plain_steps(name), path)
            exact, expected = seeded(ours).flip(0), seeded(reference)
            calls, cells = [ours, reference], ['identical' if torch.equal(exact, expected) else 'DIFFERENT', '', '', '']
            if draft is not None:
                calls.append(loader([{**steps[0], 'draft': draft}, *steps[1:]], path))
                difference = (seeded(calls[-1]).flip(0).float() - exact.float()).abs().mean()
                cells[1::2] = str(draft), f'{difference:.2f} of 255'
            found = [f'{value:.0f}' for value in rates(calls, count)]
            cells = [*found[:2], *cells[:2], *found[2:], *cells[2 + len(found[2:]) :]]
            print(f'| {name}, {size[0]}x{size[1]} {suffix[1:]} | {" | ".join(cells)} |', flush=True)


def cache(count: int) -> None:
    """Print the table of images per second of CPU time with and without ``image_cache``, and of two other loaders.

    Each is a loader of batches of 32 in one process, which reads a tree of ``count`` images.
    """
    import logging
    from functools import partial

    import torch
    from mmengine.config import Config
    from mmengine.dataset import default_collate
    from mmengine.logging import MMLogger
    from PIL import Image
    from skimage import data
    from timm.data import create_dataset, create_loader
    from torch.utils.data import DataLoader
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    from ftsgd_plugin.datasets import GroupedImages

    torch.set_num_threads(1)
    MMLogger.get_instance('benchmark').setLevel(logging.ERROR)
    photo = Image.fromarray(data.astronaut())
    print('| pipeline | decoding | cache | ratio | batches | torchvision | timm |\n|---|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as directory:
        for name, kind, size, suffix, bicubic, crop_pct in CACHED:
            root = Path(directory, name, 'train')
            encoded = photo.resize(size, Image.Resampling.LANCZOS)
            for label in ('a', 'b'):
                (root / label).mkdir(parents=True)
                for i in range(count // 2):
                    encoded.save(root / label / f'{i}{suffix}', quality=90)
            part = Config.fromfile(ROOT / f'configs/_base_/datasets/{name}.py')
            form = part.train_dataloader.dataset if kind == 'train' else part.val_dataloader.dataset.datasets[0]
            steps = [{**step, '_scope_': 'mmpretrain'} for step in form.pipeline]
            sets = [
                GroupedImages(str(root.parent), 'train', tree='split/class', pipeline=steps, image_cache=place)
                for place in (False, f'{directory}/cache')
            ]
            loaders = [DataLoader(one, 32, collate_fn=default_collate, drop_last=True) for one in sets]
            theirs = T.Compose([*plain_steps(name, kind), T.PILToTensor()])
            loaders.append(DataLoader(ImageFolder(str(root), theirs), 32, drop_last=True))
            timms = create_loader(
                create_dataset('', root=str(root.parent), split='train'),
                (3, 224, 224),
                32,
                is_training=kind == 'train',
                interpolation='bicubic' if bicubic else 'bilinear',
                crop_pct=crop_pct,
                num_workers=0,
                persistent_workers=False,
                device=torch.device('cpu'),
            )
            loaders.append(timms.loader)  # without the normalisation of its last stage
            batches = [seeded(partial(list, loader)) for loader in loaders[:2]]
            same = all(torch.equal(one['inputs'], other['inputs']) for one, other in zip(*batches))
            found = cpu_rates([partial(consume, loader) for loader in loaders], count // 32 * 32)
            cells = [
                *map('{:,.0f}'.format, found[:2]),
                f'{found[1] / found[0]:.0f}',
                'identical' if same else 'DIFFERENT',
            ]
            cells += map('{:,.0f}'.format, found[2:])
            shape = f'{size[0]}x{size[1]} {suffix[1:]}'
            print(f'| {name} {kind}, {shape} | {" | ".join(cells)} |', flush=True)


def plain_steps(name: str, kind: str = 'train') -> list:
    """The authors' transforms."""
    from torchvision import transforms as T

    flip, bicubic = T.RandomHorizontalFlip(), T.InterpolationMode.BICUBIC
    if kind == 'evaluation':
        return {'living17': [T.Resize(256), T.CenterCrop(224)]}[name]
    return {
        'living17': [T.RandomResizedCrop(224), flip],
        'waterbirds': [T.Resize(224, bicubic), T.CenterCrop(224)],
        'domainnet': [T.Resize((256, 256), bicubic), T.RandomCrop(224), flip],
        'fmow': [flip],
        'camelyon': [T.Resize((224, 224)), flip],
    }[name]


def consume(loader) -> None:
    """Read every batch."""
    for _ in loader:
        pass


def cpu_rates(calls, images: int, rounds: int = 5) -> list[float]:
    """Images per second of CPU time of each call, the best of several rounds in turn."""
    best = [0.0] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            start = time.process_time()
            call()
            best[i] = max(best[i], images / (time.process_time() - start))
    return best


def seeded(call):
    """The output for the same random parameters."""
    import torch

    torch.manual_seed(0)
    return call()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', choices=['metadata', 'pipelines', 'cache'], help='one part')
    parser.add_argument('--count', type=int, default=50, help='images per round (default: 50)')
    parser.add_argument('--metadata', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.metadata:
        measure_metadata(*args.metadata)
        return
    import PIL
    import torch
    import torchvision

    print(
        f'{date.today()}, {platform.machine()}, one core, Python {platform.python_version()}, '
        f'torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}\n',
        flush=True,
    )
    parts = {'metadata': metadata, 'pipelines': lambda: pipelines(args.count), 'cache': lambda: cache(128)}
    for name, part in parts.items():
        if args.only in (None, name):
            part()
            print(flush=True)


if __name__ == '__main__':
    main()
