"""Print the layer list of a config's model, or of any model of a library: the layers that the methods select from.

    python tools/print_layers.py configs/vit-tiny_freeze-embed_digits.py
    python tools/print_layers.py configs/_base_/models/clip-vit-l14.py --json layers.json
    python tools/print_layers.py --model timm/vit_small_patch14_dinov2.lvd142m
    python tools/print_layers.py --model open_clip/ViT-B-16/openai --freeze stem
    python tools/print_layers.py configs/vit-tiny_gradual-unfreezing_digits.py --schedule --write schedule.yaml

Models are named as timm/NAME, open_clip/NAME[/TAG], torchvision/NAME[/WEIGHTS] or mmpretrain/NAME.
No weights are loaded: the model is built on the meta device if its code allows that.
--schedule prints what opens when instead, with learning rates, memory and time of every phase; --write makes a file of
it to be edited (docs/schedules.md).
"""

import argparse

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside
from ftsgd_plugin.utils.options import positive_int


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('config', nargs='?', help='config file, or a model part')
    source.add_argument('--model', metavar='LIBRARY/NAME', help='a model of a library instead of a config')
    parser.add_argument(
        '--freeze', nargs='+', help="'embed', 'stem', 'none' or names (default: the config's, else embed)"
    )
    parser.add_argument('--json', metavar='PATH', help='write the table as a list of objects')
    parser.add_argument('--schedule', action='store_true', help="print the config's GradualUnfreezingLR instead")
    parser.add_argument('--write', metavar='YAML', help='with --schedule: write it in phases, and its figure beside it')
    parser.add_argument('--draw', metavar='PNG', help='with --schedule: draw it')
    parser.add_argument(
        '--epoch-length', type=positive_int, metavar='N', help='with --schedule: iterations per epoch, without the data'
    )
    args = parser.parse_args()
    if not args.schedule and (args.write or args.draw or args.epoch_length):
        parser.error('--write, --draw and --epoch-length need --schedule')
    if args.schedule and (args.model or args.freeze or args.json):
        parser.error('--schedule takes a config, --write, --draw and --epoch-length')
    return args


@one_line_errors
def main() -> None:
    args = parse_args()
    if args.schedule:
        with imports_set_aside():
            from ftsgd_plugin.profiling.schedule_table import print_schedule

        print_schedule(args.config, args.write, args.draw, args.epoch_length)
        return
    with imports_set_aside():
        from ftsgd_plugin.profiling.layer_table import print_layers

    freeze = args.freeze
    if freeze and len(freeze) == 1 and freeze[0] in ('embed', 'stem', 'none'):
        freeze = freeze[0]
    print_layers(args.config, freeze, args.json, args.model)


if __name__ == '__main__':
    main()
