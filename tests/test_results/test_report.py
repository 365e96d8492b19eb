"""tools/report.py: one page with everything, readable without a network; pictures from all kinds of runs."""

import re
from html.parser import HTMLParser

import pytest
from helpers.authors import record, reports
from PIL import Image

from ftsgd_plugin.records import write_record
from ftsgd_plugin.results.aggregate import cells_frame, runs_frame
from ftsgd_plugin.results.overview import draw_all, look_at
from ftsgd_plugin.results.plots import draw_memory

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
    """200 generated runs, two of them failed, a half-written record and one with markup in its names."""
    folder = tmp_path_factory.mktemp('runs')
    assert reports.write_all(reports.generated_records(200), folder) == 200
    (folder / 'half').mkdir()
    (folder / 'half/record.json').write_text('{"model"')
    (folder / 'odd').mkdir()
    command = 'train.py <b> & "quotes"'
    write_record(record(method='<i>mine</i>', command=command, code={'version': '0.0.1'}), folder / 'odd')
    return folder


def test_page_holds_everything_and_loads_nothing(runs, tmp_path, run_tool):
    assert run_tool('report', runs, '-o', tmp_path / 'report.html', '--title', 'a < b')[0] == 0
    text = (tmp_path / 'report.html').read_text()
    page = Page(text)
    assert page.count > 500
    assert len(page.loaded) == 3 and all(url.startswith('data:image/png;base64,') for url in page.loaded)
    assert not re.search(r'https?://|@import|<script|<link', text)
    for said in (
        '<title>a &lt; b</title>',
        '199 finished runs used; left out: 2 failed, 0 unfinished, 1 unreadable.',
        'warning: 1 runs are of version 0.0.1',
        '3 records left out',
        'RuntimeError: made up',
        'half-written',
        'device: none (generated)',
        'The 199 runs',
        'generated run 17',
        '&lt;i&gt;mine&lt;/i&gt;',
        'train.py &lt;b&gt; &amp; &quot;quotes&quot;',
        'is SGD (freeze-embed) less sensitive',
        '<td class="outside"',
        'report.py',
    ):
        assert said in text, said
    assert not list(tmp_path.glob('.*'))


def test_other_rules_are_labelled(runs, tmp_path, run_tool):
    assert run_tool('report', runs, '-o', tmp_path / 'oracle.html', '--rule', 'ood-oracle')[0] == 0
    text = (tmp_path / 'oracle.html').read_text()
    assert text.count('selected on OOD data: an oracle, no result') > 3
    assert '<td class="outside"' not in text and '<td class="within"' not in text


def test_page_of_failures_alone(tmp_path, run_tool):
    write_record(record(status='failed', error='Killed'), tmp_path)
    assert run_tool('report', tmp_path, '-o', tmp_path / 'report.html')[0] == 0
    assert 'failed: ' in (tmp_path / 'report.html').read_text()


def test_folder_that_is_not_there(runs, tmp_path, run_tool):
    code, err = run_tool('report', runs, '-o', tmp_path / 'absent/report.html')
    assert (code, err.count('\n')) == (2, 1) and 'no such folder' in err


def test_pictures_are_drawn_whatever_the_runs(tmp_path):
    """Accuracies of 0 and 1, two runs on one point, a foreign method, one learning rate."""
    extremes = [record(ids=(1.0,), oods=(0.0,)), record(seed=1, ids=(1.0,), oods=(1.0,)), record('mine', ids=(0.5,))]
    for i, one in enumerate(extremes):
        (tmp_path / str(i)).mkdir()
        write_record(one, tmp_path / str(i))
    drawn = draw_all(look_at([tmp_path]), tmp_path)
    assert [path.name for path in drawn.values()] == ['id_ood.png']
    assert Image.open(tmp_path / 'id_ood.png').size > (300, 300)


def test_memory_is_drawn_for_the_runs_that_know_it(tmp_path):
    runs = [record(resources={'peak_bytes': 2**30}), record('adamw')]
    assert draw_memory(cells_frame(runs_frame(runs)), tmp_path / 'm.png', '') == tmp_path / 'm.png'
    assert draw_memory(cells_frame(runs_frame(runs[1:])), tmp_path / 'n.png', '') is None
