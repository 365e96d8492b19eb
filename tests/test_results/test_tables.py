"""tools/tables.py: the tables in every format, what is missing, and one line for bad input."""

import csv
import io
import math

import pytest
from helpers.authors import record, reports

from ftsgd_plugin.evaluation.selection import RULES
from ftsgd_plugin.records import write_record
from ftsgd_plugin.results.aggregate import cells_frame, compare, runs_frame
from ftsgd_plugin.results.rendering import as_csv, as_latex, as_markdown, as_text
from ftsgd_plugin.results.tables import build_tables


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


def test_missing_cells_are_shown_and_never_averaged_over():
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


def test_runs_outside_the_paper_get_tables_of_their_own():
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


def test_latex_and_markdown_are_well_formed(authors):
    latex, markdown = as_latex(*authors), as_markdown(*authors)
    assert latex.count(r'\begin{tabular}') == latex.count(r'\end{tabular}') == 6
    body = [line for line in latex.splitlines() if line.endswith(r'\\') and 'multicolumn' not in line]
    assert {line.count(' & ') for line in body} == {6, 2}
    assert not any(sign in line for line in body for sign in '%±✓✗')
    for block in markdown.split('\n\n'):
        lines = [line for line in block.splitlines() if line.startswith('|')]
        assert len({line.count('|') for line in lines}) <= 1


def test_program_prints_and_writes(tmp_path, run_tool):
    for seed in (0, 1):
        (tmp_path / f'runs/{seed}').mkdir(parents=True)
        write_record(record(seed=seed, ids=(0.8 + 0.1 * seed,)), tmp_path / f'runs/{seed}')
    assert run_tool('tables', tmp_path / 'runs')[0] == 0
    assert '85.0 ±8.2' in run_tool.stdout and '2 finished runs used' in run_tool.stdout
    assert run_tool('tables', tmp_path / 'runs', '--out', tmp_path / 'out')[0] == 0
    written = {path.name for path in (tmp_path / 'out').iterdir()}
    assert written == {'tables.txt', 'tables.md', 'tables.tex', 'tables.csv', 'id_ood.png'}  # one rate, no memory


def test_program_says_in_one_line_that_there_is_nothing(tmp_path, run_tool):
    code, err = run_tool('tables', tmp_path)
    assert (code, err.count('\n')) == (2, 1) and 'no record.json below' in err
    (tmp_path / 'record.json').write_text('{')
    assert run_tool('tables', tmp_path)[0] == 0
    assert '0 finished runs used; left out: 0 failed, 0 unfinished, 1 unreadable.' in run_tool.stdout
