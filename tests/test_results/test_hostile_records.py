"""Records that are damaged, and records whose text is meant to do harm: listed or escaped, and the others are used."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers.authors import record

from ftsgd_plugin.records import write_record
from ftsgd_plugin.results import FORMATS, report, tables
from ftsgd_plugin.results.collect import collect
from ftsgd_plugin.results.formats import method_table
from ftsgd_plugin.results.report import write_report
from ftsgd_plugin.results.tables import write_tables
from ftsgd_plugin.utils.format import printable

GOOD = asdict(record(seed=99, ids=(0.7, 0.8)))
DAMAGES = {
    **{f'{key} is {value!r}': {key: value} for key, value in [
        ('resources', 'none'), ('resources', None), ('resources', [1]), ('resources', {'seconds': '4'}),
        ('resources', {'peak_bytes': -1.0}), ('resources', {'seconds': 1e300}), ('resources', {'parameters': True}),
        ('lr', math.nan), ('lr', 0), ('lr', -1), ('lr', '1e-3'), ('lr', 10**400), ('lr', None),
        ('seed', 1.5), ('seed', '1'), ('seed', None),
        ('model', ''), ('model', ' '), ('model', 'm' * 1000), ('model', 5), ('method', None), ('dataset', ['digits']),
        ('status', 'done'), ('status', ['finished']), ('status', None),
        ('epochs', {}), ('epochs', 'two'), ('epochs', []), ('epochs', [{}]), ('epochs', [0.5]), ('epochs', None),
        ('selected_epoch', 9), ('selected_epoch', '1'), ('selected_epoch', True), ('selected_by', 3),
        ('code', 'v1'), ('code', {'version': ['x']}), ('environment', []), ('environment', {'a': {'b': 1}}),
        ('command', 5), ('error', ['x']), ('finished', 3), ('started', None), ('config_hash', None),
        ('schema', 2), ('schema', '1'), ('schema', True), ('schema', [1]),
    ]},
    **{f'accuracy {value!r}': {'epochs': [{**GOOD['epochs'][0], key: value}]} for key, value in [
        ('id/accuracy', 95.0), ('id/accuracy', -0.5), ('id/accuracy', 1e308), ('id/accuracy', None),
        ('id/accuracy', True), ('ood/accuracy', '0.5'), ('ood/accuracy', [0.5]), ('ood/worst_group', 1.5),
    ]},
}  # fmt: skip
TEXT = json.dumps(GOOD)
FILES = {
    'empty': b'', 'half': TEXT[:100].encode(), 'binary': b'\xff\xfe\x00', 'deep': b'[' * 100_000, 'null': b'null',
    'list': b'[1]', 'number': b'5', 'half a character': TEXT.replace('vit-tiny', '\\ud800').encode(),
    'half in a key': TEXT.replace('"version"', '"\\udfff"').encode(),
    'half in the command': TEXT.replace('"command": ""', '"command": "\\udc80"').encode(),
}  # fmt: skip


@pytest.fixture
def without_figures(monkeypatch):
    for module in (report, tables):
        monkeypatch.setattr(module, 'draw_results', lambda *args: {})


def write_good(directory: Path, count: int) -> None:
    for seed in range(count):
        write_record(record(seed=seed), directory / f'good{seed}')


def write_damaged(directory: Path) -> list[Path]:
    places = []
    for number, content in enumerate([*DAMAGES.values(), *FILES.values()]):
        place = directory / f'bad{number}'
        place.mkdir()
        text = content if isinstance(content, bytes) else json.dumps({**GOOD, **content}).encode()
        (place / 'record.json').write_bytes(text)
        places.append(place)
    for name in ('directory', 'link', 'loop', 'pipe'):
        place = directory / name
        place.mkdir()
        places.append(place)
    (directory / 'directory/record.json').mkdir()
    (directory / 'link/record.json').symlink_to('nowhere')
    (directory / 'loop/record.json').symlink_to('record.json')
    os.mkfifo(directory / 'pipe/record.json')
    return places


def test_a_bad_record_is_listed_with_its_reason_and_the_others_are_used(tmp_path, without_figures):
    write_good(tmp_path, 20)
    bad = write_damaged(tmp_path)
    assert len(bad) >= 70
    found = collect([tmp_path])
    assert len(found.runs) == 20 and len(found.unreadable) == len(bad)
    lines = found.problems()
    for place in bad:
        (line,) = [one for one in lines if one.startswith(f'unreadable: {place}/')]
        assert line.isprintable() and line.endswith('.') and len(line) < 400, line
    notes = write_report([tmp_path], tmp_path / 'page.html')
    assert f'20 finished runs used; left out: 0 failed, 0 unfinished, {len(bad)} unreadable.' in '\n'.join(notes)
    page = (tmp_path / 'page.html').read_text()
    assert f'{len(bad)} records left out' in page and all(f'{place}/record.json' in page for place in bad)
    for format in FORMATS:
        assert f'{bad[0]}/record.json' in write_tables([tmp_path], format=format).replace('\\_', '_')


ESCAPE, TITLE = '\x1b[31mred\x1b[0m', '\x1b]0;owned\x07'
HOSTILE = [
    'a|b', 'two\nlines', 'carriage\rreturn', '<script>alert(1)</script>', '<img src=x onerror=alert(1)>',
    '[click](javascript:alert(1))', '![x](javascript:alert(1))', '<javascript:alert(1)>', '[x]: javascript:alert(1)',
    '&#106;avascript:', '`code`', '*bold*', '__under__', '~~struck~~', '$\\frac{', '\\|', '\\', '| --- |', '</td>',
    ESCAPE, TITLE, 'bell\x07', 'back\x08space', 'nul\0', '\u202egnp.exe', '\u2066x', '\x9b31m', 'a\u2028b', '\ufeffx',
    '%d{}', '#1', '- item', '=cmd()', '{{ 7 * 7 }}',
]  # fmt: skip


@pytest.mark.parametrize('keys', [('model', 'method'), ('dataset',)], ids='-'.join)
def test_names_are_printed_literally_in_every_format(tmp_path, without_figures, keys):
    names = HOSTILE if len(keys) > 1 else [*HOSTILE[::3], ESCAPE]
    for number, text in enumerate(names):
        one = record(**dict.fromkeys(keys, text), command=f'train {text}', environment={'device': text})
        write_record(one, tmp_path / f'run{number}')
        write_record(record(seed=1, status='failed', error=text), tmp_path / f'failed{number}')
    for format in FORMATS:
        text = write_tables([tmp_path], format=format)
        assert all(line.isprintable() for line in text.split('\n')), format
        assert '\\x1b[31mred' in text.replace('\\textbackslash{}', '\\').replace('\\\\', '\\').replace('\\[', '[')
    for line in write_report([tmp_path], tmp_path / 'page.html'):
        assert line.isprintable()
    page = (tmp_path / 'page.html').read_text()
    assert '<script>alert' not in page and '<img src=x' not in page and '\x1b' not in page and '\x9b' not in page
    check_markdown(write_tables([tmp_path], format='markdown'), names)


def check_markdown(text: str, names: list[str]) -> None:
    """Rendered as GitHub does: the names literally, every table with the same number of cells in its rows."""
    markdown_it = pytest.importorskip('markdown_it')
    tokens = markdown_it.MarkdownIt('gfm-like', {'linkify': False}).parse(text)
    flat = [inner for token in tokens for inner in (token.children or [token])]
    kinds = {token.type for token in flat}
    assert not kinds & {'link_open', 'image', 'code_inline', 'em_open', 's_open', 'html_block', 'heading_open'}
    assert {token.content for token in flat if token.type == 'html_inline'} <= {'<br>'}
    rows, cells = [], 0
    for token in tokens:
        if token.type in ('td_open', 'th_open'):
            cells += 1
        elif token.type == 'tr_close':
            rows.append(cells)
            cells = 0
        elif token.type == 'table_close':
            assert len(set(rows)) == 1
            rows = []
    shown = ''.join(token.content for token in flat if token.type in ('text', 'text_special'))
    for name in names:
        assert printable(name) in shown, name


def test_the_methods_of_a_sweep_are_escaped():
    line = dict(method='a|b <script>', lr=0.1, state_bytes_per_param=None, seconds=None)
    text = method_table([{**line, 'id': [0.5, None], 'ood': [0.5, None], 'ood_worst': [None, None]}])
    assert r'a\|b &lt;script&gt;' in text and len({row.replace(r'\|', '').count('|') for row in text.split('\n')}) == 1


def test_directories_with_names_that_no_terminal_should_print(tmp_path, without_figures, run_tool):
    for number, name in enumerate([b'esc\x1b[2J', b'latin-\xe9', 'right\u202e'.encode()]):
        place = Path(os.fsdecode(os.fsencode(tmp_path) + b'/' + name))
        write_record(record(seed=number), place)
        (place / 'bad').mkdir()
        (place / 'bad/record.json').write_text('{')
    assert len(collect([tmp_path]).unreadable) == 3
    for format in FORMATS:
        text = write_tables([tmp_path], format=format)
        text.encode()
        assert all(line.isprintable() for line in text.split('\n'))
    notes = write_tables([tmp_path], tmp_path / 'out')
    assert all(line.isprintable() for line in notes.split('\n'))
    write_report([tmp_path], tmp_path / 'page.html')
    code, err = run_tool('tables', tmp_path / 'esc\x1b[2J/absent')
    assert code == 2 and '\\x1b[2J' in err and err.strip().isprintable()


def test_figures_draw_any_name(tmp_path):
    """One drawing for all: a figure takes a second."""
    from ftsgd_plugin.results.aggregate import read_results
    from ftsgd_plugin.results.plots import draw_results

    for number, text in enumerate(['$\\frac{', '_x', 'a\nb', ESCAPE, '\u202ex', '%d{}']):
        for lr in (1e-3, 5e-324 if number else 1e308):
            write_record(record(method=text, lr=lr, resources={'peak_bytes': 1e9}), tmp_path / f'{number}{lr}')
    assert len(draw_results(read_results([tmp_path]), tmp_path)) == 3


def test_text_as_a_printable_line():
    assert printable('plain ± ✓ é 漢字') == 'plain ± ✓ é 漢字'
    assert printable('a\n\tb\x1b[0m\u202e\ud800') == 'a b\\x1b[0m\\u202e\\ud800'
