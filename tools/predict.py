"""Predict images with a finished run.

    python tools/predict.py work_dirs/vit-tiny_freeze-embed_digits photos --out predictions.csv
    python tools/predict.py RUN a.jpg b.jpg more.csv --out predictions.jsonl --top-k 3
    python tools/predict.py CONFIG list.csv --checkpoint epoch_3.pth --out predictions.csv --metrics metrics.json

RUN is a work directory (its selected checkpoint), a checkpoint, or a config with --checkpoint. IMAGES are image files,
directories or tables (CSV, TSV, JSON lines, Parquet, lists) with a column of paths. If labels are known, from a column
or from directories named as the classes, metrics and accuracies by group and split are printed. Neither the data of the
run nor its pretrained weights are needed.

Exit code: 0; 3 if some files could not be read (their rows say why in the column error); 2 for a mistake.
"""

import argparse
import sys

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.collection import imports_set_aside
from ftsgd_plugin.utils.options import count, positive_int


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', help='work directory, checkpoint, or config (with --checkpoint)')
    parser.add_argument('images', nargs='+', help='image files, directories, tables')
    parser.add_argument(
        '--out', default='predictions.csv', help='table to write: .csv, .jsonl or .parquet (default: predictions.csv)'
    )
    parser.add_argument('--checkpoint', help='checkpoint (default: best_*.pth, else the last epoch_*.pth)')
    parser.add_argument('--top-k', type=positive_int, help='write so many classes (default: all probabilities)')
    parser.add_argument('--metrics', metavar='PATH', help='JSON file for the metrics; needs labels')
    parser.add_argument('--batch-size', type=positive_int, help="images per batch (default: the run's test batch size)")
    parser.add_argument('--workers', type=count, help="processes that read images (default: the run's)")
    parser.add_argument('--device', help='cpu, cuda, cuda:1 ... (default: a GPU if there is one)')
    for column in ('path', 'label', 'group', 'split'):
        parser.add_argument(f'--{column}-column', metavar='NAME', help=f'column of the tables with the {column}')
    parser.add_argument('--root', help='directory that paths in tables are relative to (default: that of the table)')
    parser.add_argument('--no-progress', action='store_true', help='no progress bar')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    with imports_set_aside():
        from ftsgd_plugin.inference.predict import EXIT_UNREADABLE, write_predictions
        from ftsgd_plugin.inference.run import load_run

    columns = {column: getattr(args, f'{column}_column') for column in ('path', 'label', 'group', 'split')}
    done = write_predictions(
        load_run(args.run, args.checkpoint, args.device),
        args.images,
        args.out,
        top_k=args.top_k,
        columns={what: name for what, name in columns.items() if name is not None},
        root=args.root,
        metrics_out=args.metrics,
        batch_size=args.batch_size,
        workers=args.workers,
        progress=not args.no_progress,
    )
    if done.unreadable:
        sys.exit(EXIT_UNREADABLE)


if __name__ == '__main__':
    main()
