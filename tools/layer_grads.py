"""Measure the gradient norm of every layer of pretrained models on their training data, before any update.

    python tools/layer_grads.py configs/vit-tiny_freeze-embed_digits.py
    python tools/layer_grads.py configs/clip-vit-b16_sgd_living17.py configs/bit-r50_sgd_living17.py --batches 100

The analysis of the paper's section 3: pretrained backbone, fresh head, training mode, the config's training pipeline
and batch size; per batch the L2 norm of every layer's gradient of the mean loss, then the mean over batches. All layers
are measured, whatever the config freezes. The paper took one epoch (--batches all). Writes layer_grads.json,
layer_grads.csv and layer_grads.png into --out.
"""

import argparse

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside
from ftsgd_plugin.utils.options import add_cfg_options


def _batches(text: str) -> int | None:
    if text == 'all':
        return None
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a positive whole number nor all')
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files, one panel each')
    parser.add_argument(
        '--batches', type=_batches, default=20, metavar='N', help='batches of each, or all: one epoch (default: 20)'
    )
    parser.add_argument('--out', default='work_dirs/layer_grads', help='directory (default: work_dirs/layer_grads)')
    parser.add_argument('--device', help='e.g. cuda:1 or cpu (default: the GPU if there is one)')
    add_cfg_options(parser)
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    with imports_set_aside():
        from ftsgd_plugin.profiling.layer_grads import layer_grads

    layer_grads(args.configs, args.out, args.batches, args.device, args.cfg_options)


if __name__ == '__main__':
    main()
