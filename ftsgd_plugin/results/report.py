"""The report: one HTML page that needs no other file and no network."""

import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..evaluation.selection import RULES
from ..paper.names import method_label
from ..utils.version import __version__
from .html_page import picture
from .overview import Overview
from .rendering import LEGEND, as_html
from .sensitivity import by_method, compare_sgd

_LOSSES = {
    'lrs': 'rates tried',
    'near': 'rates within 1 point',
    'edge': 'best at the edge (fraction)',
    'id_mean_loss': 'ID, any rate of the grid',
    'id_step_loss': 'ID, one step beside',
    'ood_mean_loss': 'OOD, any rate of the grid',
    'ood_step_loss': 'OOD, one step beside',
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: 1em 0 2em; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
caption { text-align: left; font-weight: 600; padding: .3em 0; white-space: nowrap; }
th, td { padding: .25em .8em; text-align: right; vertical-align: top; }
tbody th, td:first-child, .plain td { text-align: left; font-weight: normal; }
thead th { border-bottom: 2px solid #888; white-space: nowrap; }
.plain thead th { text-align: left; } .losses thead th { white-space: normal; vertical-align: bottom; }
.losses td:first-child { white-space: nowrap; }
tr.model th { font-weight: 600; background: #f4f4f4; }
td small { display: block; color: #666; white-space: nowrap; }
td.within { background: #e6f4ea; } td.outside { background: #fce8e6; } td.missing { color: #999; }
.key span { padding: .1em .5em; margin-right: .6em; }
.within { background: #e6f4ea; } .outside { background: #fce8e6; }
.warning { background: #fff4d6; padding: .3em .8em; margin: .3em 0; }
img { max-width: 100%; } pre { background: #f6f6f6; padding: .8em; overflow-x: auto; font-size: 13px; }
summary { cursor: pointer; }
"""


def render_page(overview: Overview, pictures: Mapping[str, Path], title: str, command: str, when: str) -> str:
    """The page as text.

    Args:
        overview: The runs.
        pictures: Heading -> PNG file, embedded.
        title: Heading of the page.
        command: What makes this page again.
        when: The date that it shows.
    """
    found = overview.found
    oracle = '' if overview.rule == 'id' else f'<p class="warning">not the paper\'s rule: {RULES[overview.rule]}</p>'
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f'<style>{_STYLE}</style></head><body>',
        f'<h1>{html.escape(title)}</h1>',
        f'<p>{html.escape(when)}, ftsgd_plugin {__version__}. Rule: {RULES[overview.rule]}.</p>{oracle}',
        _notes(overview.notes),
        '<h2>Tables</h2>',
        f'<p class="key">{LEGEND}</p><p class="key"><span class="within">within</span>'
        '<span class="outside">outside</span></p>',
        *(f'<div class="wide">{as_html(table)}</div>' for table in overview.tables),
        *(_picture(heading, path) for heading, path in pictures.items()),
        _sensitivity(overview),
        '<h2>What was run on what</h2>',
        _environments(overview),
        '<h2>Failures</h2>',
        _problems(overview),
        '<h2>Commands</h2>',
        f'<p>This page:</p><pre>{html.escape(command)}</pre>',
        _folded(f'The {len(found.runs)} runs', [_command(path, record.command) for path, record in found.runs]),
        '</body></html>\n',
    ]
    return '\n'.join(filter(None, parts))


def _notes(notes: Sequence[str]) -> str:
    """Warnings first."""
    warned = [f'<p class="warning">{html.escape(note)}</p>' for note in notes if note.startswith('warning: ')]
    others = [f'<li>{html.escape(note)}</li>' for note in notes if not note.startswith('warning: ')]
    return '\n'.join([*warned, '<ul>', *others, '</ul>'])


def _picture(heading: str, path: Path) -> str:
    return f'<h2>{html.escape(heading)}</h2>{picture(path, heading)}'


def _sensitivity(overview: Overview) -> str:
    """What a method loses with another learning rate than its best, in words and per method."""
    if overview.losses.empty:
        return ''
    means = by_method(overview.losses)
    means['method'] = [method_label(method) for method in means['method']]
    means.columns = [_LOSSES.get(column, column) for column in means.columns]
    lines = ''.join(f'<li>{html.escape(line)}</li>' for line in compare_sgd(overview.losses))
    caption = (
        'Points lost against the learning rate with the best ID accuracy; means over the cells that every method has'
    )
    table = means.to_html(
        index=False, border=0, classes='losses', float_format='{:.1f}'.format, na_rep='not known', escape=True
    )
    return (
        f'<h2>Sensitivity to the learning rate</h2><ul>{lines}</ul><p>{caption}, each over the grid that was tried '
        f'of it: methods with other grids compare only roughly.</p><div class="wide">{table}</div>'
    )


def _environments(overview: Overview) -> str:
    """Versions and devices of the runs, counted, one line per combination."""
    counts = Counter(
        json.dumps([record.code, record.environment], sort_keys=True, default=str) for _, record in overview.found.runs
    )
    lines = []
    for key, count in counts.most_common():
        code, environment = json.loads(key)
        lines.append(f'<tr><td>{count}</td><td>{_pairs(code)}</td><td>{_pairs(environment)}</td></tr>')
    head = '<thead><tr><th>runs</th><th>code</th><th>environment</th></tr></thead>'
    seconds = overview.runs['seconds']
    total = f'{seconds.sum() / 3600:.1f} hours of runs in all' if seconds.notna().any() else 'durations unknown'
    return f'<p>{total}.</p><table class="plain">{head}<tbody>{"".join(lines)}</tbody></table>'


def _pairs(values: Mapping) -> str:
    return (
        '<br>'.join(f'{html.escape(str(key))}: {html.escape(str(value))}' for key, value in values.items())
        or 'not noted'
    )


def _problems(overview: Overview) -> str:
    lines = overview.found.problems()
    return _folded(f'{len(lines)} records left out', lines) if lines else '<p>None.</p>'


def _command(path: Path, command: str) -> str:
    return f'{path.parent}: {command or "command not noted"}'


def _folded(summary: str, lines: Iterable[str]) -> str:
    text = html.escape('\n'.join(lines))
    return f'<details><summary>{html.escape(summary)}</summary><pre>{text}</pre></details>'
