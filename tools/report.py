"""One HTML page of some runs: tables with verdicts, pictures, versions and devices, failures, commands.

    python tools/report.py work_dirs/paper -o report.html
    python tools/report.py RUNS MORE_RUNS -o report.html --title 'CLIP, three seeds'

The page needs no other file and no network. Selection and tables are those of tools/tables.py.
"""

# isort: off
import ftsgd_plugin  # noqa: F401  first: it says in one line what is missing in the environment
# isort: on

import argparse
import os
import shlex
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from ftsgd_plugin.evaluation.selection import RULES
from ftsgd_plugin.results.overview import draw_all, look_at
from ftsgd_plugin.results.report import render_page
from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', help='folders with run records (record.json), at any depth')
    parser.add_argument('-o', '--out', default='report.html', help='file (default: report.html)')
    parser.add_argument('--rule', choices=RULES, default='id', help="selection rule (default: id, the paper's)")
    parser.add_argument('--title', default='Fine-tuning with SGD: report', help='heading of the page')
    args = parser.parse_args()

    out = Path(args.out)
    if not out.absolute().parent.is_dir():
        raise UserError(f'--out {args.out}: there is no such folder; make it first.')
    overview = look_at(args.runs, args.rule)
    command = shlex.join(['python', *sys.argv])
    when = datetime.now().astimezone().isoformat(' ', 'minutes')
    with tempfile.TemporaryDirectory() as folder:
        page = render_page(overview, draw_all(overview, folder), args.title, command, when)
    unfinished = out.with_name(f'.{out.name}.tmp')
    unfinished.write_text(page, encoding='utf-8')
    os.replace(unfinished, out)
    print('\n'.join(overview.notes))
    print(f'written: {out}, {len(page) / 2**20:.1f} MiB')


if __name__ == '__main__':
    main()
