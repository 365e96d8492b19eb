"""The report: one HTML page that needs no other file and no network."""

import json
import os
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from ..evaluation.selection import describe_rule
from ..paper.names import method_label
from ..utils.errors import check_parent
from ..utils.files import write_text
from ..utils.format import format_bytes, printable
from ..utils.metrics import ACCURACY, METRIC_NAMES
from ..utils.pages import render_page
from ..utils.version import __version__
from .aggregate import Results, read_results
from .formats import LEGEND, as_html
from .plots import draw_results
from .sensitivity import by_method, compare_sgd, lr_curves, lr_sensitivity
from .tables import build_tables

TEMPLATE = Path(__file__).with_name('templates') / 'report.html.j2'
_LOSSES = {
    'lrs': 'rates tried',
    'near': 'rates within 1 point',
    'edge': 'best at the edge (fraction)',
    'id_mean_loss': 'ID, any rate of the grid',
    'id_step_loss': 'ID, one grid step away',
    'ood_mean_loss': 'OOD, any rate of the grid',
    'ood_step_loss': 'OOD, one grid step away',
}


def write_report(
    paths: Sequence[str | os.PathLike],
    out: str | os.PathLike = 'report.html',
    rule: str = 'id',
    title: str = 'Fine-tuning with SGD: report',
    command: str | None = None,
    metric: str = ACCURACY,
) -> list[str]:
    """Write one page about the runs below directories.

    Args:
        paths: Directories of runs, runs, or record files.
        out: Path of the page; its directory must exist.
        rule: A key of :data:`ftsgd_plugin.evaluation.selection.RULES`.
        title: Heading of the page.
        command: The command that makes the page again (default: that of this process).
        metric: What selects and is shown, a key of :data:`ftsgd_plugin.utils.metrics.METRIC_NAMES`.

    Returns:
        list[str]: Notes about the runs, a line each.

    Raises:
        UserError: A path does not exist, there is no record, or the page cannot be written.
    """
    out = Path(out)
    check_parent(out)
    results = read_results(paths, rule, metric)
    command = shlex.join(['python', *sys.argv]) if command is None else command
    when = datetime.now().astimezone().isoformat(' ', 'minutes')
    tables, remarks = build_tables(results.compared, rule, metric)
    rule_text = describe_rule(rule, metric)
    notes = [f'rule: {rule_text}.', *results.found.notes(), *map(printable, remarks)]
    with tempfile.TemporaryDirectory() as directory:
        page = render_page(
            TEMPLATE,
            title=title,
            when=when,
            version=__version__,
            rule=rule_text,
            metric=METRIC_NAMES[metric],
            faithful=rule == 'id' and metric == ACCURACY,
            warnings=[note for note in notes if note.startswith('warning: ')],
            notes=[note for note in notes if not note.startswith('warning: ')],
            legend=LEGEND,
            tables=[(table.title, as_html(table)) for table in tables],
            figures=draw_results(results, directory),
            sensitivity=_sensitivity(results),
            duration=_duration(results),
            environments=_environments(results),
            problems=results.found.problems(),
            command=command,
            commands=[
                printable(f'{path.parent}: {record.command or "unknown command"}')
                for path, record in results.found.runs
            ],
        )
    write_text(out, page)
    return [*notes, f'written: {out}, {format_bytes(len(page.encode()))}']


def _sensitivity(results: Results) -> dict | None:
    """Points that a method loses with another learning rate than its best: sentences, and a table as HTML."""
    losses = lr_sensitivity(lr_curves(results.runs), results.metric)
    if losses.empty:
        return None
    means = by_method(losses)
    means['method'] = [method_label(method) for method in means['method']]
    means.columns = [_LOSSES.get(column, column) for column in means.columns]
    table = means.to_html(index=False, border=0, float_format='{:.1f}'.format, na_rep='unknown', escape=True)
    return {'lines': compare_sgd(losses, results.metric), 'table': table}


def _duration(results: Results) -> str:
    seconds = results.runs['seconds']
    return f'{seconds.sum() / 3600:.1f} hours of runs in all' if seconds.notna().any() else 'unknown durations'


def _environments(results: Results) -> list[tuple[str, str, str]]:
    """Versions and devices of the runs: a row per combination, with its number of runs."""
    counts = Counter(
        json.dumps([record.code, record.environment], sort_keys=True, default=str) for _, record in results.found.runs
    )
    return [(str(count), *map(_lines, json.loads(key))) for key, count in counts.most_common()]


def _lines(values: Mapping) -> str:
    return '\n'.join(printable(f'{key}: {value}') for key, value in values.items()) or 'unknown'
