"""The report: one page with everything, readable without a network; figures of all kinds of runs."""

import re
from html.parser import HTMLParser

import pytest
from helpers.authors import record, reports
from PIL import Image

from ftsgd_plugin.records import write_record
from ftsgd_plugin.results.aggregate import cells_frame, read_results, runs_frame
from ftsgd_plugin.results.plots import draw_memory, draw_results
from ftsgd_plugin.results.report import write_report

VOID = {'meta', 'img', 'br'}


class Page(HTMLParser):
    """Checks the nesting of tags and gathers what a page loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.loaded, self.count = [], [], 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.count += 1
        self.loaded += [value for key, value in attrs if key in ('src', 'href')]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """200 generated runs, two of them failed, a truncated record and one with markup in its names."""
    directory = tmp_path_factory.mktemp('runs')
    assert reports.write_all(reports.generated_records(200), directory) == 200
    (directory / 'half').mkdir()
    (directory / 'half/record.json').write_text('{"model"')
    command = 'train.py <b> & "quotes"'
    write_record(record(method='a|b <script>', command=command, code={'version': '0.0.1'}), directory / 'odd')
    return directory


def test_page_holds_everything_and_loads_nothing(runs, tmp_path, run_tool):
    assert run_tool('report', runs, '-o', tmp_path / 'report.html', '--title', 'a < b')[0] == 0
    text = (tmp_path / 'report.html').read_text()
    page = Page(text)
    assert page.count > 500
    assert len(page.loaded) == 3 and all(url.startswith('data:image/png;base64,') for url in page.loaded)
    assert not re.search(r'https?://|@import|<script|<link', text)
    for content in (
        '<title>a &lt; b</title>',
        '199 finished runs used; left out: 2 failed, 0 unfinished, 1 unreadable.',
        'warning: 1 runs are of version 0.0.1',
        '3 records left out',
        'RuntimeError: made up',
        'device: none (generated)',
        'The 199 runs',
        'generated run 17',
        'a|b &lt;script&gt;',
        'train.py &lt;b&gt; &amp; &#34;quotes&#34;',
        'is SGD (freeze-embed) less sensitive',
        'mean ± 90 % interval',
        'report.py',
    ):
        assert content in text, content
    assert re.search(r'<td class="[\w ]*\boutside"', text)
    prose = re.sub(r'<td[^>]*>[^<]*</td>|"data:[^"]*"', '', text)
    assert prose.count('±') > 3 and set(re.findall(r'± ?.{0,13}', prose)) == {'± 90 % interval'}
    assert run_tool.stdout.splitlines()[-1].startswith(f'written: {tmp_path}/report.html, ')
    assert not list(tmp_path.glob('.*'))


@pytest.mark.slow  # the page again, under other rules
def test_other_rules_are_labelled(runs, tmp_path):
    write_report([runs], tmp_path / 'oracle.html', rule='ood-oracle')
    text = (tmp_path / 'oracle.html').read_text()
    assert text.count('selected on OOD data: an oracle, no result') > 3
    assert not re.search(r'<td class="[\w ]*\b(outside|within)"', text)


def test_a_bad_record_among_good_ones_is_listed_with_its_reason(tmp_path):
    for seed in range(20):
        write_record(record(seed=seed), tmp_path / f'runs/{seed}')
    bad = tmp_path / 'runs/bad/record.json'
    bad.parent.mkdir()
    good = (tmp_path / 'runs/0/record.json').read_text()
    bad.write_text(good.replace('"resources": {}', '"resources": "16 GiB"'))
    notes = write_report([tmp_path / 'runs'], tmp_path / 'report.html')
    assert '20 finished runs used; left out: 0 failed, 0 unfinished, 1 unreadable.' in notes
    text = (tmp_path / 'report.html').read_text()
    assert f'unreadable: {bad}: resources=' in text and '1 records left out' in text and 'The 20 runs' in text


def test_page_of_failures_alone(tmp_path, run_tool):
    write_record(record(status='failed', error='Killed'), tmp_path)
    assert run_tool('report', tmp_path, '-o', tmp_path / 'report.html')[0] == 0
    assert 'failed: ' in (tmp_path / 'report.html').read_text()


def test_page_in_a_missing_directory_is_one_line(runs, tmp_path, run_tool):
    code, err = run_tool('report', runs, '-o', tmp_path / 'absent/report.html')
    assert (code, err.count('\n')) == (2, 1) and 'its directory does not exist' in err


def test_figures_are_drawn_for_extreme_runs(tmp_path):
    """Accuracies of 0 and 1, two runs on one point, an unknown method that looks like a formula, one learning rate."""
    extremes = [record(ids=(1.0,), oods=(0.0,)), record(seed=1, ids=(1.0,), oods=(1.0,)), record(r'$\bad', ids=(0.5,))]
    for i, one in enumerate(extremes):
        write_record(one, tmp_path / str(i))
    drawn = draw_results(read_results([tmp_path]), tmp_path)
    assert [path.name for path in drawn.values()] == ['id_ood.png']
    assert Image.open(tmp_path / 'id_ood.png').size > (300, 300)


def test_memory_is_drawn_for_the_runs_that_know_it(tmp_path):
    runs = [record(resources={'peak_bytes': 2**30}), record('adamw')]
    assert draw_memory(cells_frame(runs_frame(runs)), tmp_path / 'm.png', '') == tmp_path / 'm.png'
    assert draw_memory(cells_frame(runs_frame(runs[1:])), tmp_path / 'n.png', '') is None
