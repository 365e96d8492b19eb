"""Fine-tune a model on your own images: find the data, choose method and learning rate, train, evaluate, report.

    python tools/finetune.py data/pets --model timm/vit_small_patch14_dinov2.lvd142m
    python tools/finetune.py data/pacs --model timm/vit_small_patch14_dinov2.lvd142m --hold-out sketch --time 2h
    python tools/finetune.py labels.csv --model open_clip/ViT-B-16/openai --group-column hospital --memory 16GiB
    python tools/finetune.py data/pets --model torchvision/resnet50 --dry-run     # what it would do

DATA is a directory (classes, splits or domains as directories), a CSV, TSV, JSON lines or Parquet file, or a list file.
Writes into --work-dir: config.py, which trains alone with tools/train.py; the diagnosis; the runs of the search; the
training with its weights; metrics.json; report.html. Interrupted, the same command continues where it was.
"""

import argparse
import shlex
import sys

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside
from ftsgd_plugin.utils.options import byte_size, count, duration, positive_int, seed_number


def _pretrained(text: str) -> bool | str:
    return {'none': False, 'published': True}.get(text, text)


def _pair(text: str) -> tuple[str, str]:
    name, equals, split = text.partition('=')
    if not (name and equals and split):
        raise argparse.ArgumentTypeError(f'{text!r} is not NAME=SPLIT')
    return name, split


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('data', metavar='DATA', help='directory or table of the images')
    parser.add_argument(
        '--model',
        required=True,
        metavar='NAME',
        help='timm/NAME, open_clip/NAME/TAG, torchvision/NAME, mmpretrain/NAME, or a part of configs/_base_/models',
    )
    parser.add_argument('--work-dir', metavar='DIR', help='where everything is written (default: work_dirs/DATA_MODEL)')
    parser.add_argument('--dry-run', action='store_true', help='stop before training; print what would be done')

    choice = parser.add_argument_group('what is chosen, unless you say it')
    choice.add_argument('--method', default='auto', metavar='NAME', help='a method part (default: as recommended)')
    choice.add_argument('--lr', type=float, help='learning rate (default: by a search on in-distribution data)')
    choice.add_argument(
        '--epochs', type=positive_int, help='epochs of the training (default: 20, or what --time allows)'
    )
    choice.add_argument('--time', type=duration, help='for everything, e.g. 2h or 45min (default: no limit)')
    choice.add_argument('--memory', type=byte_size, metavar='SIZE', help='e.g. 16GiB (default: that of the GPU)')
    choice.add_argument('--metric', default='id/accuracy', help='selects rate and epoch (default: id/accuracy)')

    data = parser.add_argument_group('the data')
    data.add_argument('--hold-out', nargs='+', default=[], metavar='DOMAIN', help='domains that are only evaluated')
    data.add_argument(
        '--split-fractions',
        nargs='+',
        type=float,
        metavar='F',
        help='shares of training, validation and test images where splits are drawn, e.g. 0.8 0.2 or 0.7 0.15 0.15',
    )
    for name, what in (('path', 'the image'), ('label', 'its class'), ('split', 'its split'), ('group', 'its group')):
        data.add_argument(f'--{name}-column', metavar='NAME', help=f'column of a table that names {what}')
    data.add_argument(
        '--split-names', nargs='+', type=_pair, default=[], metavar='NAME=SPLIT', help='e.g. 0=train 1=val 2=test'
    )
    data.add_argument(
        '--whole', metavar='COLUMN', help='values stay in one split, e.g. patient ("": draw image by image)'
    )

    training = parser.add_argument_group('the training')
    training.add_argument(
        '--batch-size', type=positive_int, default=32, metavar='N', help='images per step (default: 32)'
    )
    training.add_argument('--image-size', type=positive_int, metavar='N', help="in pixels (default: the model's)")
    training.add_argument(
        '--pretrained',
        type=_pretrained,
        default=True,
        metavar='FILE|none',
        help='weights from a file, or random ones (default: the published ones)',
    )
    training.add_argument('--workers', type=count, metavar='N', help='processes that load images (default: up to 4)')
    training.add_argument('--seed', type=seed_number, default=0, help='of splits, head and order (default: 0)')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = vars(parse_args())
    with imports_set_aside():
        from ftsgd_plugin.finetune.options import Options
        from ftsgd_plugin.finetune.run import finetune

    command = shlex.join(['python', 'tools/finetune.py', *sys.argv[1:]])
    work_dir, dry_run = args.pop('work_dir'), args.pop('dry_run')
    args |= {name: tuple(args[name]) for name in ('hold_out', 'split_names')}
    args['split_fractions'] = tuple(args['split_fractions']) if args['split_fractions'] else None
    finetune(Options(**args), work_dir, dry_run, command)


if __name__ == '__main__':
    main()
