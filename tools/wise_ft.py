"""Average the pretrained and the fine-tuned weights of a run (WiSE-FT) and evaluate ID and OOD along the way.

    python tools/wise_ft.py work_dirs/vit-tiny_freeze-embed_digits
    python tools/wise_ft.py RUN --checkpoint RUN/epoch_8.pth --out wise --alphas 0 0.25 0.5 0.75 1

The weights are (1 - alpha) pretrained + alpha fine-tuned, in float32. The head is the run's, unless training started
from a head (after a probe): then it is averaged too. They are evaluated by the run's own validation (val_dataloader,
val_evaluator of the config in RUN). alpha is selected by ID accuracy, the smallest on ties.
Writes wise_ft.json, wise_ft.csv and wise_ft.png into --out.
"""

import argparse
import functools

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside


def _alpha(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not in 0 to 1')
    return value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', help="a run's work_dir: its config and a checkpoint")
    parser.add_argument('--checkpoint', help='checkpoint (default: best_id_accuracy_*.pth, else the last epoch_*.pth)')
    parser.add_argument('--alphas', nargs='+', type=_alpha, help='default: 0 0.1 ... 1')
    parser.add_argument('--out', help='directory for the results (default: RUN/wise_ft)')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    with imports_set_aside():
        from ftsgd_plugin.results.wise_ft import ALPHAS, write_wise_ft

    report = functools.partial(print, flush=True)
    write_wise_ft(args.run, args.out, args.checkpoint, args.alphas or ALPHAS, report)


if __name__ == '__main__':
    main()
