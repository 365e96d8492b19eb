"""Average the pretrained and the fine-tuned weights of a run (WiSE-FT) and evaluate ID and OOD on the way.

    python tools/wise_ft.py work_dirs/vit-tiny_freeze-embed_digits
    python tools/wise_ft.py RUN --checkpoint RUN/epoch_8.pth --out wise --alphas 0 0.25 0.5 0.75 1

The weights are (1 - alpha) pretrained + alpha fine-tuned, with the run's head throughout, evaluated by the run's own
validation (val_dataloader, val_evaluator of the config in RUN). alpha is selected by ID accuracy, the least on ties.
Writes wise_ft.json, wise_ft.csv and wise_ft.png into --out.
"""

# isort: off
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
import json
import os
from pathlib import Path

import pandas as pd

from ftsgd_plugin.evaluation.selection import ID_METRIC, select_epoch
from ftsgd_plugin.records import FILE, read_record
from ftsgd_plugin.results.plots import draw_interpolation
from ftsgd_plugin.results.wise_ft import ALPHAS, end_points, evaluate_between, evaluation_runner, find_run
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError


def _alpha(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not in 0 to 1')
    return value


def compare_with_record(run: Path, metrics: dict[str, float]) -> str | None:
    """Whether alpha 1 gave the metrics that the run's record has; ``None`` without a record."""
    if not (run / FILE).is_file():
        return None
    recorded = read_record(run).selected or {}
    apart = {key: abs(metrics[key] - value) for key, value in recorded.items() if key in metrics}
    if not apart:
        return None
    key = max(apart, key=apart.get)
    if apart[key] <= 1e-6:
        return 'alpha 1 reproduces the metrics of the run record.'
    return (
        f'warning: at alpha 1 {key} is {metrics[key]:.4f}, the run record has {recorded[key]:.4f}; another checkpoint, '
        'other data or another device than in training.'
    )


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', help="a run's work_dir: its config and a checkpoint")
    parser.add_argument('--checkpoint', help='checkpoint (default: best_id_accuracy_*.pth, else the last epoch_*.pth)')
    parser.add_argument('--alphas', nargs='+', type=_alpha, default=ALPHAS, help='default: 0 0.1 ... 1')
    parser.add_argument('--out', help='folder for the results (default: RUN/wise_ft)')
    args = parser.parse_args()

    out = Path(args.out or Path(args.run) / 'wise_ft')
    cfg, checkpoint = find_run(args.run, args.checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    runner = evaluation_runner(cfg, out / 'log')
    pretrained, tuned = end_points(runner, cfg, checkpoint)
    rows = []
    for alpha, metrics in evaluate_between(runner, pretrained, tuned, sorted(set(args.alphas))):
        if ID_METRIC not in metrics:
            raise UserError(f'{cfg.filename}: val_evaluator gives no {ID_METRIC}; use GroupAccuracy.')
        rows.append({'alpha': alpha, **metrics})
        print(f'alpha {alpha:g}: ID {metrics[ID_METRIC]:.2%}', flush=True)
    selected = rows[select_epoch(rows)]
    table = pd.DataFrame(rows)
    table.to_csv(out / 'wise_ft.csv', index=False)
    result = {
        'run': str(args.run),
        'checkpoint': str(checkpoint),
        'selected_by': ID_METRIC,
        'selected': selected,
        'points': rows,
    }
    unfinished = out / '.wise_ft.json'
    unfinished.write_text(json.dumps(result, indent=1) + '\n')
    os.replace(unfinished, out / 'wise_ft.json')
    draw_interpolation(rows, selected['alpha'], out / 'wise_ft.png')

    shown = [key for key in (ID_METRIC, 'ood/accuracy', 'ood/worst_group') if key in table]
    print('\n' + (100 * table.set_index('alpha')[shown]).to_string(float_format='{:.2f}'.format))
    print(f'\nselected by {ID_METRIC}: alpha {selected["alpha"]:g}')
    if rows[-1]['alpha'] == 1 and (line := compare_with_record(Path(args.run), rows[-1])):
        print(line)
    print(f'written: {out}/wise_ft.json, wise_ft.csv and wise_ft.png')


if __name__ == '__main__':
    main()
