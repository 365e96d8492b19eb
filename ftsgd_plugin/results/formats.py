"""A table of comparisons, and its text, Markdown, LaTeX, CSV and HTML.

Names in a table come from run records, so each format escapes what is special in it.
"""

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
from pandas.io.formats.style import Styler

from ..utils.format import format_mean, printable
from .aggregate import CELL, DIVERGED, MEASURES, NO_RUN, OTHER_RULE, OUTSIDE, UNKNOWN, UNPUBLISHED, WITHIN

MEAN = 'mean ± 90 % interval'  # in the header of every table
_NOTHING = '\N{EN DASH}'
MARKS = {
    WITHIN: '✓',
    OUTSIDE: '✗',
    UNKNOWN: '?',
    NO_RUN: _NOTHING,
    UNPUBLISHED: '',
    OTHER_RULE: '',
    DIVERGED: '',
    '': '',
}
_CLASSES = {WITHIN: 'within', OUTSIDE: 'outside', UNKNOWN: 'unknown', NO_RUN: 'missing', DIVERGED: 'missing'}
LEGEND = (
    "A cell: our mean ± 90 % interval over seeds (the authors' 1.645 sd/√n); below it the paper's mean, our difference "
    "in points, and ✓ within the 90 % interval of the difference (Student's t), ✗ outside, ? no interval known (single "
    'runs), '
    f'{_NOTHING} no run yet.'
)


@dataclass(frozen=True)
class Comparison:
    """The numbers of one cell or average, in percent; unknown ones are NaN.

    Attributes:
        ours, ci90: Our mean and its 90 % half-width over seeds.
        paper: The published mean.
        verdict: A verdict of :mod:`ftsgd_plugin.results.aggregate`, e.g. ``WITHIN``; empty for an average.
    """

    ours: float = math.nan
    ci90: float = math.nan
    paper: float = math.nan
    verdict: str = ''

    @property
    def difference(self) -> float:
        """Ours minus the paper's, in points."""
        return self.ours - self.paper


@dataclass
class Table:
    """Rows of comparisons under column names; the rows of a model are together.

    Attributes:
        title: What the table shows, with the selection rule.
        columns: Labels of the datasets, or of the measures in a table of averages.
        rows: ``(model label, method label, comparisons)``; the model is empty in a table of averages.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, str, list[Comparison]]] = field(default_factory=list)


def our_text(cell: Comparison) -> str:
    """``84.1 ± 0.9``; ``diverged`` if every learning rate did; a dash if there is no run."""
    if math.isnan(cell.ours):
        return DIVERGED if cell.verdict == DIVERGED else _NOTHING
    return format_mean(cell.ours, cell.ci90)


def paper_text(cell: Comparison) -> str:
    """``83.2 +0.9 ✓``: the paper's mean, the difference, the mark of the verdict; empty if nothing was published."""
    if math.isnan(cell.paper):
        return ''
    difference = '' if math.isnan(cell.ours) else f'{cell.difference:+.1f}'
    parts = (f'{cell.paper:.1f}', '+0.0' if difference == '-0.0' else difference, MARKS[cell.verdict])
    return ' '.join(filter(None, parts))


def text_frame(
    table: Table, escape: Callable[[str], str] | None = None, small: Callable[[str], str] = str
) -> pd.DataFrame:
    """A table as strings: a row ``ours`` per model and method, and a row ``paper`` where the paper has a number.

    Args:
        table: The table.
        escape: Applied to every string; by default :func:`ftsgd_plugin.utils.format.printable`.
        small: Applied to the cells of the rows ``paper`` after that.
    """
    escape = escape or printable
    index, rows = [], []
    for model, method, cells in table.rows:
        index.append((escape(model), escape(method), 'ours'))
        rows.append([escape(our_text(cell)) for cell in cells])
        if _is_published(cells):
            index.append((escape(model), escape(method), 'paper'))
            rows.append([small(text) if (text := escape(paper_text(cell))) else '' for cell in cells])
    frame = pd.DataFrame(rows, pd.MultiIndex.from_tuples(index), [escape(column) for column in table.columns])
    without_model = not any(model for model, *_ in index)
    return (frame.droplevel(0) if without_model else frame).rename_axis(columns=escape(MEAN))


def _is_published(cells: Sequence[Comparison]) -> bool:
    return any(not math.isnan(cell.paper) for cell in cells)


def as_text(tables: Sequence[Table], notes: Sequence[str], compared: pd.DataFrame) -> str:
    """For a terminal."""
    blocks = [f'{printable(table.title)}\n{text_frame(table).to_string()}' for table in tables]
    return '\n\n'.join([*blocks, '\n'.join([LEGEND, *map(printable, notes)])]) + '\n'


def as_markdown(tables: Sequence[Table], notes: Sequence[str], compared: pd.DataFrame) -> str:
    """For a README: one row per model and method."""
    blocks = []
    for table in tables:
        rows = [
            [_md(model), _md(method), *('<br>'.join(filter(None, (our_text(e), paper_text(e)))) for e in entries)]
            for model, method, entries in table.rows
        ]
        header = ['model', f'method ({MEAN})', *map(_md, table.columns)]
        blocks.append(f'**{_md(table.title)}**\n\n{pipe_table(header, rows, left=2)}')
    return '\n\n'.join([*blocks, LEGEND, '\n'.join(f'- {_md(note)}' for note in notes)]) + '\n'


def pipe_table(header: list[str], rows: list[list[str]], left: int) -> str:
    """A Markdown table whose first ``left`` columns are left-aligned and the others right-aligned."""
    align = ['left'] * left + ['right'] * (len(header) - left)
    return pd.DataFrame(rows, columns=header).to_markdown(index=False, disable_numparse=True, colalign=align)


def _md(text: str) -> str:
    """Text that Markdown prints literally, also within a table."""
    return re.sub(r'([\\`*_~$\[\]|])', r'\\\1', html.escape(printable(text), quote=False))


def as_latex(tables: Sequence[Table], notes: Sequence[str], compared: pd.DataFrame) -> str:
    """For a paper: ``booktabs`` tables with the published numbers in small print below ours."""
    blocks = ['\n'.join(f'% {printable(note)}' for note in (r'\usepackage{booktabs,amssymb}', LEGEND, *notes))]
    for table in tables:
        frame = text_frame(table, _tex, lambda text: rf'\footnotesize {text}')
        columns = 'l' * frame.index.nlevels + 'r' * frame.shape[1]
        latex = frame.to_latex(caption=_tex(table.title), column_format=columns, escape=False, multirow=False)
        blocks.append(latex.rstrip())
    return '\n\n'.join(blocks) + '\n'


_LATEX = str.maketrans(
    {
        **{char: f'\\{char}' for char in '&%$#_{}'},
        '\\': r'\textbackslash{}',
        '~': r'\textasciitilde{}',
        '^': r'\textasciicircum{}',
        '<': r'\textless{}',
        '>': r'\textgreater{}',
        '|': r'\textbar{}',
        '±': r'$\pm$',
        '✓': r'$\checkmark$',
        '✗': r'$\times$',
        _NOTHING: '--',
    }
)


def _tex(text: str) -> str:
    """Text that LaTeX prints literally."""
    return printable(text).translate(_LATEX)


def as_csv(tables: Sequence[Table], notes: Sequence[str], compared: pd.DataFrame) -> str:
    """Every cell in one row with all digits; the notes are lines that begin with ``#``."""
    compared = compared.assign(**{column: [printable(name) for name in compared[column]] for column in CELL})
    return ''.join(f'# {printable(note)}\n' for note in notes) + compared.to_csv(index=False)


def as_html(table: Table) -> str:
    """For the report, without the title; the class of a cell is its verdict."""
    frame = text_frame(table)
    classes = []
    for *_, cells in table.rows:
        verdicts = [_CLASSES.get(cell.verdict, '') for cell in cells]
        classes.append(verdicts)
        if _is_published(cells):
            classes.append([f'{verdict} paper' for verdict in verdicts])
    # Styler wants unique labels, but those of two names may be equal: number rows and columns, and hide the numbers.
    frame = frame.set_index(pd.RangeIndex(len(frame)), append=True)
    frame.columns = pd.MultiIndex.from_arrays([frame.columns, range(frame.shape[1])], names=[MEAN, None])
    style = Styler(frame, cell_ids=False).format(escape='html')
    style = style.format_index(escape='html').format_index(escape='html', axis='columns')
    style = style.hide(axis='index', level=frame.index.nlevels - 1).hide(axis='columns', level=1)
    return style.set_td_classes(pd.DataFrame(classes, frame.index, frame.columns)).to_html()


RENDERERS: dict[str, Callable] = {'text': as_text, 'markdown': as_markdown, 'latex': as_latex, 'csv': as_csv}


def method_table(summary: Sequence[dict]) -> str:
    """One row per method as a Markdown table.

    Args:
        summary: Output of :func:`ftsgd_plugin.results.aggregate.method_summary`.

    Examples:
        >>> print(method_table(method_summary(records)))
        | method   |   lr |   ID (%), mean ± 90 % interval | ...
    """
    header = [
        'method',
        'lr',
        *(f'{name} (%), {MEAN}' for name in MEASURES.values()),
        'state bytes/param',
        'seconds/run',
    ]
    rows = [
        [
            _md(line['method']),
            DIVERGED if line['lr'] is None else f'{line["lr"]:g}',
            *(_percent(*line[key]) for key in MEASURES),
            _number(line['state_bytes_per_param'], 2),
            _number(line['seconds'], 1),
        ]
        for line in summary
    ]
    return pipe_table(header, rows, left=1)


def _percent(mean: float | None, ci90: float | None) -> str:
    if mean is None:
        return _NOTHING
    return format_mean(100 * mean, None if ci90 is None else 100 * ci90)


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f'{value:.{digits}f}'
