"""The paper's tables from run records, each cell beside the paper's number with a verdict.

    python tools/tables.py work_dirs/paper
    python tools/tables.py RUNS MORE_RUNS --format markdown
    python tools/tables.py RUNS --out tables                # every format, and the figures, into a directory
    python tools/tables.py RUNS --rule ood-oracle           # for comparison; labelled in every output
    python tools/tables.py RUNS --metric balanced_accuracy  # of runs with GroupAccuracy(items=('balanced_accuracy',))

Selection is that of the paper's authors: the best epoch of a run by ID accuracy (the first on ties), the mean over
seeds, the learning rate with the best mean ID accuracy. Runs that failed, have not finished or cannot be read are left
out, counted and listed. A missing cell is shown as missing, and an average over it is not given.
"""

import argparse

from ftsgd_plugin.evaluation.selection import RULES
from ftsgd_plugin.results import FORMATS
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.metrics import ACCURACY, METRIC_NAMES


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', help='directories with run records (record.json), at any depth')
    parser.add_argument('--format', choices=FORMATS, default='text', help='what is printed (default: text)')
    parser.add_argument('--rule', choices=RULES, default='id', help="selection rule (default: id, the paper's)")
    parser.add_argument(
        '--metric',
        choices=METRIC_NAMES,
        default=ACCURACY,
        help='what selects, of ID data, and is shown (default: accuracy)',
    )
    parser.add_argument(
        '--out', help='directory for tables.txt, .md, .tex, .csv and the figures, instead of printing the tables'
    )
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    from ftsgd_plugin.results.tables import write_tables

    print(write_tables(args.runs, args.out, args.format, args.rule, args.metric), end='')


if __name__ == '__main__':
    main()
