"""The paper's tables from run records, each cell beside the paper's number with a verdict.

    python tools/tables.py work_dirs/paper
    python tools/tables.py RUNS MORE_RUNS --format markdown
    python tools/tables.py RUNS --out tables                # every format, and the pictures, into a folder
    python tools/tables.py RUNS --rule ood-oracle           # to compare with; labelled in every output

Selection as the paper's authors did: the best epoch of a run by ID accuracy (the first on ties), the mean over seeds,
the learning rate with the best mean ID accuracy. Runs that failed, have not finished or cannot be read are left out,
counted and listed. A missing cell is shown as missing, and an average over it is not given.
"""

# isort: off
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
from pathlib import Path

from ftsgd_plugin.evaluation.selection import RULES
from ftsgd_plugin.results.overview import draw_all, look_at
from ftsgd_plugin.results.rendering import FORMATS
from ftsgd_plugin.results.sensitivity import compare_sgd
from ftsgd_plugin.utils.cli import one_line_errors


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', help='folders with run records (record.json), at any depth')
    parser.add_argument('--format', choices=FORMATS, default='text', help='what is printed (default: text)')
    parser.add_argument('--rule', choices=RULES, default='id', help="selection rule (default: id, the paper's)")
    parser.add_argument(
        '--out', help='folder for tables.txt, .md, .tex, .csv and the pictures, instead of printing them'
    )
    args = parser.parse_args()

    overview = look_at(args.runs, args.rule)
    content = overview.tables, [*overview.notes, *overview.found.problems()], overview.compared
    if args.out is None:
        print(FORMATS[args.format][1](*content), end='')
        return
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    written = draw_all(overview, out).values()
    for suffix, render in FORMATS.values():
        (out / f'tables.{suffix}').write_text(render(*content), encoding='utf-8')
    print('\n'.join([*content[1], *compare_sgd(overview.losses)]))
    print(f'written: {out}/tables.{{{",".join(suffix for suffix, _ in FORMATS.values())}}}', *written)


if __name__ == '__main__':
    main()
