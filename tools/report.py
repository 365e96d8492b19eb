"""One HTML page about runs: tables with verdicts, figures, versions and devices, failures, commands.

    python tools/report.py work_dirs/paper -o report.html
    python tools/report.py RUNS MORE_RUNS -o report.html --title 'CLIP, three seeds'

The page needs no other file and no network. Selection and tables are those of tools/tables.py.
"""

import argparse

from ftsgd_plugin.evaluation.selection import RULES
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.metrics import ACCURACY, METRIC_NAMES


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', help='directories with run records (record.json), at any depth')
    parser.add_argument('-o', '--out', default='report.html', help='file (default: report.html)')
    parser.add_argument('--rule', choices=RULES, default='id', help="selection rule (default: id, the paper's)")
    parser.add_argument(
        '--metric',
        choices=METRIC_NAMES,
        default=ACCURACY,
        help='what selects, of ID data, and is shown (default: accuracy)',
    )
    parser.add_argument('--title', default='Fine-tuning with SGD: report', help='heading of the page')
    return parser.parse_args()


@one_line_errors
def main() -> None:
    args = parse_args()
    from ftsgd_plugin.results.report import write_report

    print('\n'.join(write_report(args.runs, args.out, args.rule, args.title, metric=args.metric)))


if __name__ == '__main__':
    main()
