"""The tables of the paper from run records: content, every format, hostile names, the tool."""

import csv
import io
import math
import re

import pytest
from helpers.authors import record, reports

from ftsgd_plugin.evaluation.selection import RULES
from ftsgd_plugin.records import write_record
from ftsgd_plugin.results import FORMATS
from ftsgd_plugin.results.aggregate import cells_frame, compare, method_summary, read_results, runs_frame
from ftsgd_plugin.results.formats import (
    MEAN,
    RENDERERS,
    as_csv,
    as_html,
    as_latex,
    as_markdown,
    as_text,
    method_table,
    our_text,
)
from ftsgd_plugin.results.tables import build_tables, write_tables

HOSTILE = 'a|b <script>'


def build(records, rule: str = 'id'):
    compared = compare(cells_frame(runs_frame(records, rule), rule), rule)
    return *build_tables(compared, rule), compared


@pytest.fixture(scope='module')
def authors():
    return build(reports.authors_records())


def test_tables_of_the_authors_runs(authors):
    tables, notes, _ = authors
    titles = [table.title.split(';')[0] for table in tables]
    assert titles[:2] == ["The paper's table 1: OOD accuracy (%)", "The paper's table 2: ID accuracy (%)"]
    assert titles[2].startswith('Averages over the 5 of 35 cells that SGD, AdamW, SGD (freeze-embed) all have')
    assert titles[3].startswith('Averages over the 5 of 35 cells that SGD, AdamW, SGD (freeze-embed), gradual')
    assert titles[4:] == ["The paper's CLIP table: OOD accuracy (%)", "The paper's CLIP table: ID accuracy (%)"]
    assert all(RULES['id'] in table.title for table in tables)
    assert len(tables[0].rows) == 6 + 6 * 3 and len(tables[4].rows) == 9
    assert any('LARS was SGD' in note for note in notes)
    verdicts = '105 no run yet, 20 within the interval, 10 no interval known.'
    assert f'OOD against the 135 published cells: {verdicts}' in notes
    (average,) = [row[2][-1] for row in tables[0].rows if row[:2] == ('CLIP ViT-B/16', 'SGD (freeze-embed)')]
    assert round(average.ours, 1) == 75.9


def test_missing_cells_are_shown_and_not_averaged_over():
    runs = [record(model='clip-vit-l14', dataset=name) for name in ('living17', 'fmow')]
    tables, notes, _ = build(runs)
    (row,) = [row for row in tables[0].rows if row[:2] == ('CLIP ViT-L/14', 'SGD')]
    assert [math.isnan(entry.ours) for entry in row[2]] == [False, True, True, False, True, True]
    assert row[2][-1].paper == pytest.approx(66.8, abs=0.05)
    assert 'no run at all, so not in the averages: AdamW, SGD (freeze-embed).' in notes
    text = as_text(tables, notes, None)
    assert '65.0 \N{EN DASH}' in text  # Waterbirds: the paper's number, no run


def test_methods_without_a_common_cell_get_no_average():
    runs = [record(model='vit-b16', dataset='fmow'), record(model='vit-b16', dataset='camelyon', method='adamw')]
    tables, notes, _ = build(runs)
    assert not any('Averages' in table.title for table in tables)
    assert 'no cell has a run of each of SGD, AdamW; their averages are not given.' in notes


def test_runs_outside_the_paper_get_separate_tables():
    tables, notes, _ = build([record(), record(method='my-method')])
    assert [table.title.split(':')[0] for table in tables] == ['Other models and datasets'] * 2
    assert [row[1] for row in tables[0].rows] == ['SGD', 'my-method']
    assert "no run is of the paper's models and datasets; its tables are left out." in notes


@pytest.mark.parametrize('rule', RULES)
def test_every_format_names_the_rule(rule):
    tables, notes, compared = build([record(model='vit-b16', dataset='fmow')], rule)
    for render in (as_text, as_markdown, as_latex):
        assert RULES[rule] in render(tables, notes, compared)
    lines = as_csv(tables, [f'rule: {RULES[rule]}'], compared).splitlines()
    assert lines[0] == f'# rule: {RULES[rule]}'
    assert {row['rule'] for row in csv.DictReader(lines[1:])} == {rule}


def test_csv_has_every_cell_with_its_verdict(authors):
    tables, _, compared = authors
    rows = list(csv.DictReader(io.StringIO(as_csv(tables, [], compared))))
    assert len(rows) == 135
    assert {row['ood_verdict'] for row in rows} == {'within the interval', 'no interval known', 'no run yet'}


def test_text_has_ours_and_the_papers_below_each_other(authors):
    lines = as_text(*authors).splitlines()
    assert MEAN in lines[1] and lines[1].split()[-6:-1] == ['Living-17', 'Waterbirds', 'DomainNet', 'FMoW', 'Camelyon']
    assert re.split(r' {2,}', lines[2])[:3] == ['CLIP ViT-B/16', 'SGD', 'ours']
    assert lines[2].endswith('86.8 ± 1.1       67.9')
    assert lines[3].split(maxsplit=1)[0] == 'paper' and lines[3].endswith('86.8 +0.0 ✓  67.9 +0.0')
    assert len({len(line) for line in lines[1:50]}) == 1  # columns are aligned


def cells_of(line: str) -> list[str]:
    """The cells of a row of a Markdown table; an escaped pipe does not end one."""
    return [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]


def test_latex_and_markdown_are_well_formed(authors):
    latex, markdown = as_latex(*authors), as_markdown(*authors)
    assert latex.count(r'\begin{tabular}') == latex.count(r'\end{tabular}') == 6
    body = [line for line in latex.splitlines() if line.endswith(r'\\')]
    assert {line.count(' & ') for line in body} == {8, 3}
    assert not any(re.search(r'(?<!\\)%|[±✓✗|<]', line) for line in body)
    assert sum(r'\footnotesize' in line for line in body) > 50
    for block in markdown.split('\n\n'):
        lines = [line for line in block.splitlines() if line.startswith('|')]
        assert len({len(cells_of(line)) for line in lines}) <= 1
    row = next(line for line in markdown.splitlines() if 'ViT-B/16 | SGD ' in line)
    assert cells_of(row)[2] == '80.0 ± 1.3<br>80.0 +0.0 ✓'


@pytest.fixture(scope='module')
def hostile():
    """A method and a data set with special characters of every format in their names."""
    name = f'{HOSTILE} & 5_% $x$ #1 {{y}} ~^\\z *w* `v`\nnext line'
    tables, notes, compared = build([record(method=HOSTILE), record(dataset=name), record(HOSTILE, dataset=name)])
    return tables, [*notes, f'failed: {HOSTILE}\nnext'], compared


def test_hostile_names_stay_text_in_markdown(hostile):
    text = as_markdown(*hostile)
    assert '<script>' not in text
    header, _, row, *_ = [line for line in text.splitlines() if line.startswith('|')]
    assert len(cells_of(header)) == len(cells_of(row)) == 5
    assert {cells_of(line)[1] for line in text.splitlines() if line.startswith('| vit')} == {
        'SGD',
        r'a\|b &lt;script&gt;',
    }
    assert r'a\|b &lt;script&gt; &amp; 5\_% \$x\$ #1 {y} \~^\\z \*w\* \`v\` next line' in header
    assert '- failed: a\\|b &lt;script&gt; next\n' in text


def test_hostile_names_stay_text_in_latex(hostile):
    text = as_latex(*hostile)
    expected = (
        r'a\textbar{}b \textless{}script\textgreater{} \& 5\_\% \$x\$ \#1 \{y\} \textasciitilde{}\textasciicircum{}'
        r'\textbackslash{}z *w* `v` next line'
    )
    body = [line for line in text.splitlines() if line.endswith(r'\\')]
    assert expected in body[0] and {line.count(' & ') for line in body} == {5}
    assert f'% failed: {HOSTILE} next\n' in text
    assert all(line.startswith('%') for line in text.split(r'\begin{table}')[0].strip().splitlines())


def test_hostile_names_stay_text_in_html(hostile):
    tables, _, _ = hostile
    text = as_html(tables[0])
    assert '<script>' not in text and 'a|b &lt;script&gt;</th>' in text
    assert 'a|b &lt;script&gt; &amp; 5_% $x$' in text


def test_hostile_names_stay_one_line_of_text_and_csv(hostile):
    tables, notes, compared = hostile
    assert f'{HOSTILE} & 5_% $x$' in as_text(*hostile)
    rows = list(csv.DictReader(line for line in io.StringIO(as_csv(*hostile)) if not line.startswith('#')))
    assert HOSTILE in {row['method'] for row in rows}
    assert len({len(line) for line in as_text(tables, notes, compared).splitlines()[1:4]}) == 1


def test_equal_labels_of_different_names_are_separate_cells():
    tables, _, _ = build([record(dataset='fmow'), record(dataset='FMoW'), record(dataset='average')])
    assert tables[0].columns == ['FMoW', 'average', 'FMoW', 'average']
    assert as_html(tables[0]).count('<td') == 4
    for render in RENDERERS.values():
        render(*build([record(dataset='fmow'), record(dataset='FMoW')]))


def test_method_table_says_what_the_interval_is():
    records = [
        record('adamw', 3e-4, seed, (0.8 + seed / 10,), resources=dict(state_bytes=84, parameters=10, seconds=2.0))
        for seed in (0, 1)
    ]
    header, rule, row = method_table(method_summary(records)).splitlines()
    names = ['ID (%), ' + MEAN, 'OOD average (%), ' + MEAN, 'OOD worst group (%), ' + MEAN]
    assert cells_of(header) == ['method', 'lr', *names, 'state bytes/param', 'seconds/run']
    assert set(rule) == set('|-:')
    assert cells_of(row) == ['adamw', '0.0003', '85.0 ± 8.2', '65.0 ± 8.2', '55.0 ± 8.2', '8.40', '2.0']
    unknown = method_table(method_summary([record(epochs=[{'id/accuracy': 0.5, 'ood/accuracy': 0.25}])]))
    assert cells_of(unknown.splitlines()[2]) == ['sgd', '0.001', '50.0', '25.0', *('\N{EN DASH}',) * 3]


@pytest.fixture
def two_runs(tmp_path):
    for seed in (0, 1):
        write_record(record(seed=seed, ids=(0.8 + 0.1 * seed,)), tmp_path / f'runs/{seed}')
    return tmp_path / 'runs'


def test_program_prints_or_writes(two_runs, tmp_path, run_tool):
    assert run_tool('tables', two_runs)[0] == 0
    assert '85.0 ± 8.2' in run_tool.stdout and '2 finished runs used' in run_tool.stdout
    assert run_tool('tables', two_runs, '--out', tmp_path / 'out')[0] == 0
    assert '2 finished runs used' in run_tool.stdout and f'written: {tmp_path}/out/tables.{{txt' in run_tool.stdout
    written = {path.name for path in (tmp_path / 'out').iterdir()}
    assert written == {'tables.txt', 'tables.md', 'tables.tex', 'tables.csv', 'id_ood.png'}  # one rate, no memory


def test_every_format_has_a_renderer():
    assert RENDERERS.keys() == FORMATS.keys()


@pytest.mark.parametrize('format', FORMATS)
def test_program_prints_every_format(two_runs, run_tool, format):
    assert run_tool('tables', two_runs, '--format', format)[0] == 0
    assert run_tool.stdout == write_tables([two_runs], format=format)


def test_tables_are_written_atomically(two_runs, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    write_tables([two_runs], out)
    before = (out / 'tables.md').read_text()
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(ValueError, match='No space left on device'):
        write_tables([two_runs], out, rule='last')
    assert (out / 'tables.md').read_text() == before and not list(out.glob('.*'))


def test_program_reports_in_one_line_that_there_is_no_record(tmp_path, run_tool):
    code, err = run_tool('tables', tmp_path)
    assert (code, err.count('\n')) == (2, 1) and 'no record.json below' in err
    (tmp_path / 'record.json').write_text('{')
    assert run_tool('tables', tmp_path)[0] == 0
    assert '0 finished runs used; left out: 0 failed, 0 unfinished, 1 unreadable.' in run_tool.stdout


def test_diverged_runs_are_words_and_no_numbers(tmp_path, run_tool):
    """Alone, and beside a run of the same cell at another rate, in every format and in the report."""
    lost = record(status='diverged', error='iteration 5: the loss is nan', ids=(0.53,), lr=1e12)
    write_record(lost, tmp_path / 'runs/lost')
    for format in FORMATS:
        assert run_tool('tables', tmp_path / 'runs', '--format', format)[0] == 0
        assert '0 finished runs used; left out: 1 diverged, 0 failed' in run_tool.stdout
        assert '53.0' not in run_tool.stdout and run_tool.stdout.count('iteration 5: the loss is nan') == 1
    (table, _), _ = build_tables(read_results([tmp_path / 'runs']).compared, 'id')
    assert [(model, our_text(cells[0])) for model, _, cells in table.rows] == [('vit-tiny', 'diverged')]
    assert run_tool('report', tmp_path / 'runs', '--out', tmp_path / 'lost.html')[0] == 0
    assert (
        '>diverged</td>' in (tmp_path / 'lost.html').read_text() and '53.0' not in (tmp_path / 'lost.html').read_text()
    )
    write_record(record(ids=(0.8,)), tmp_path / 'runs/kept')
    assert run_tool('tables', tmp_path / 'runs')[0] == 0
    assert '80.0' in run_tool.stdout and '53.0' not in run_tool.stdout
    assert '1 runs diverged; no number is of these learning rates: vit-tiny sgd digits lr=1e+12.' in run_tool.stdout
