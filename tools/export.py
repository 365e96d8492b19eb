"""Take the weights of a finished run to another library.

    python tools/export.py work_dirs/vit-tiny_freeze-embed_digits --to timm --out my-model
    python tools/export.py RUN --to onnx                          # into RUN/export-onnx
    python tools/export.py CONFIG --checkpoint epoch_3.pth --to torch-export --out program

RUN is a work directory (its selected checkpoint), a checkpoint, or a config with --checkpoint. The directory gets the
weights, the config that the library reads, and a model card (README.md). The export is loaded back by its own library
and compared with the run's logits on 32 images first; if they differ, nothing is written.
"""

import argparse

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside

TARGETS = ('timm', 'open_clip', 'torchvision', 'mmpretrain', 'transformers', 'onnx', 'torch-export')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', help='work directory, checkpoint, or config (with --checkpoint)')
    parser.add_argument('--to', required=True, choices=TARGETS, help='library or format')
    parser.add_argument('--out', help='directory to create (default: export-TARGET beside the checkpoint)')
    parser.add_argument('--checkpoint', help='checkpoint (default: the best one, else the last)')
    parser.add_argument(
        '--images', nargs='+', default=[], metavar='PATH', help='images to compare with (default: made-up ones)'
    )
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    with imports_set_aside():
        from ftsgd_plugin.inference.export import export_run
        from ftsgd_plugin.inference.run import load_run

    export_run(load_run(args.run, args.checkpoint, 'cpu'), args.to, args.out, images=args.images)


if __name__ == '__main__':
    main()
