"""Tables as text, Markdown, LaTeX, CSV and HTML."""

import html
import math
from collections.abc import Callable, Sequence
from itertools import groupby

import pandas as pd

from .aggregate import NO_RUN, OTHER_RULE, OUTSIDE, UNKNOWN, UNPUBLISHED, WITHIN
from .tables import Entry, Table

_NOTHING = '\N{EN DASH}'
MARKS = {WITHIN: '✓', OUTSIDE: '✗', UNKNOWN: '?', NO_RUN: _NOTHING, UNPUBLISHED: '', OTHER_RULE: '', '': ''}
_LATEX_MARKS = {**MARKS, WITHIN: r'$\checkmark$', OUTSIDE: r'$\times$', NO_RUN: '--'}
LEGEND = (
    "A cell: our mean ± 90 % interval over seeds (1.645 sd/√n); below it the paper's mean, our difference in points, "
    'and ✓ within the interval of the difference, ✗ outside, ? no interval known (single runs), '
    f'{_NOTHING} no run yet.'
)


def ours(entry: Entry) -> str:
    """``84.1 ±0.9``; a dash where there is no number."""
    if math.isnan(entry.ours):
        return _NOTHING
    return f'{entry.ours:.1f}' + ('' if math.isnan(entry.ci90) else f' ±{entry.ci90:.1f}')


def theirs(entry: Entry, marks: dict[str, str] = MARKS) -> str:
    """``83.2 +0.9 ✓``: the paper's number, the difference, the verdict's mark; empty if nothing was published."""
    if math.isnan(entry.paper):
        return ''
    parts = [f'{entry.paper:.1f}', '' if math.isnan(entry.ours) else _signed(entry.difference), marks[entry.verdict]]
    return ' '.join(part for part in parts if part)


def _signed(value: float) -> str:
    text = f'{value:+.1f}'
    return '+0.0' if text == '-0.0' else text


def as_text(tables: Sequence[Table], notes: Sequence[str], compared: pd.DataFrame) -> str:
    """For a terminal: a heading per model and two lines per method."""
    blocks = []
    for table in tables:
        lines = [table.title]
        cells = [len(text(entry)) for *_, row in table.rows for entry in row for text in (ours, theirs)]
        width = max([12, *cells, *map(len, table.columns)]) + 2
        side = max([24, *(len(method) + 2 for _, method, _ in table.rows)]) + 1
        lines.append(' ' * side + ''.join(column.rjust(width) for column in table.columns))
        for model, rows in groupby(table.rows, key=lambda row: row[0]):
            lines += [model] if model else []
            for _, method, entries in rows:
                lines.append(f'  {method}'.ljust(side) + ''.join(ours(entry).rjust(width) for entry in entries))
                if any(theirs(entry) for entry in entries):
                    below = ''.join(theirs(entry).rjust(width) for entry in entries)
                    lines.append('    paper'.ljust(side) + below)
        blocks.append('\n'.join(lines))
    return '\n\n'.join([*blocks, '\n'.join([LEGEND, *notes])]) + '\n'


def as_markdown(tables: Sequence[Table], notes: Sequence[str], compared: pd.DataFrame) -> str:
    """For a README: one row per model and method."""
    blocks = []
    for table in tables:
        lines = [f'**{table.title}**', '', '| ' + ' | '.join(['model', 'method', *table.columns]) + ' |']
        lines.append('|---|---|' + '---:|' * len(table.columns))
        for model, method, entries in table.rows:
            cells = ['<br>'.join(filter(None, (ours(entry), theirs(entry)))) for entry in entries]
            lines.append('| ' + ' | '.join(text.replace('|', '\\|') for text in (model, method, *cells)) + ' |')
        blocks.append('\n'.join(lines))
    return '\n\n'.join([*blocks, LEGEND, '\n'.join(f'- {note}' for note in notes)]) + '\n'


def as_latex(tables: Sequence[Table], notes: Sequence[str], compared: pd.DataFrame) -> str:
    """For a paper: ``booktabs`` tables with the published numbers in small print below ours."""
    lines = [f'% {note}' for note in (r'\usepackage{booktabs,amssymb}', LEGEND, *notes)]
    for table in tables:
        lines += ['', r'\begin{table}', rf'\caption{{{_tex(table.title)}}}']
        lines += [rf'\begin{{tabular}}{{l{"r" * len(table.columns)}}}', r'\toprule']
        lines += [' & '.join(['', *map(_tex, table.columns)]) + r' \\', r'\midrule']
        for model, rows in groupby(table.rows, key=lambda row: row[0]):
            if model:
                lines.append(rf'\multicolumn{{{len(table.columns) + 1}}}{{l}}{{\textbf{{{_tex(model)}}}}} \\')
            for _, method, entries in rows:
                lines.append(' & '.join([_tex(method), *(_tex(ours(entry)) for entry in entries)]) + r' \\')
                below = [theirs(entry, _LATEX_MARKS) for entry in entries]
                if any(below):
                    small = [rf'\footnotesize {text}' if text else '' for text in ('paper', *below)]
                    lines.append(' & '.join(small) + r' \\')
        lines += [r'\bottomrule', r'\end{tabular}', r'\end{table}']
    return '\n'.join(lines) + '\n'


def _tex(text: str) -> str:
    for plain, escaped in (('\\', r'\textbackslash '), *((c, f'\\{c}') for c in '&%$#_{}')):
        text = text.replace(plain, escaped)
    return text.replace('±', r'$\pm$').replace(_NOTHING, '--')


def as_csv(tables: Sequence[Table], notes: Sequence[str], compared: pd.DataFrame) -> str:
    """Every cell in one line with all digits; the notes are lines that begin with ``#``."""
    return ''.join(f'# {note}\n' for note in notes) + compared.to_csv(index=False)


def as_html(table: Table) -> str:
    """A table of the report; a cell's class is its verdict."""
    classes = {WITHIN: 'within', OUTSIDE: 'outside', UNKNOWN: 'unknown', NO_RUN: 'missing'}
    head = ''.join(f'<th>{html.escape(column)}</th>' for column in table.columns)
    lines = [f'<table><caption>{html.escape(table.title)}</caption>', f'<thead><tr><th></th>{head}</tr></thead>']
    for model, rows in groupby(table.rows, key=lambda row: row[0]):
        lines.append('<tbody>')
        if model:
            lines.append(f'<tr class="model"><th colspan="{len(table.columns) + 1}">{html.escape(model)}</th></tr>')
        for _, method, entries in rows:
            cells = ''.join(
                f'<td class="{classes.get(entry.verdict, "")}" title="{html.escape(entry.verdict)}">'
                f'{ours(entry)}<small>{theirs(entry)}</small></td>'
                for entry in entries
            )
            lines.append(f'<tr><th>{html.escape(method)}</th>{cells}</tr>')
        lines.append('</tbody>')
    return '\n'.join([*lines, '</table>'])


FORMATS: dict[str, tuple[str, Callable]] = {  # name -> (suffix, renderer)
    'text': ('txt', as_text),
    'markdown': ('md', as_markdown),
    'latex': ('tex', as_latex),
    'csv': ('csv', as_csv),
}
