"""Print the layer list of a config's model: the layers that freeze-embed and the other methods select from.

    python tools/print_layers.py configs/vit-tiny_freeze-embed_digits.py
    python tools/print_layers.py configs/_base_/models/clip-vit-l14.py --json layers.json

No weights are loaded: the model is built on the meta device if its code allows that.
"""

import argparse

from ftsgd_plugin.utils.cli import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or a model part')
    parser.add_argument(
        '--freeze', nargs='+', help="'embed', 'stem', 'none' or names (default: the config's, else embed)"
    )
    parser.add_argument('--json', metavar='PATH', help='write the table as a list of objects')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    from ftsgd_plugin.profiling.layer_table import print_layers

    freeze = args.freeze
    if freeze and len(freeze) == 1 and freeze[0] in ('embed', 'stem', 'none'):
        freeze = freeze[0]
    print_layers(args.config, freeze, args.json)


if __name__ == '__main__':
    main()
