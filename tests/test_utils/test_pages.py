"""Pages: every value is escaped, a missing one is an error, the shared templates are found."""

import jinja2
import pytest

from ftsgd_plugin.utils.pages import data_uri, render_page


@pytest.fixture
def template(tmp_path):
    def write(body: str):
        path = tmp_path / 'page.html.j2'
        head = "{% extends 'base.html.j2' %}{% import 'macros.html.j2' as m %}{% block body %}"
        path.write_text(head + body + '{% endblock %}')
        return path

    return write


def test_every_value_is_escaped(template):
    body = "{{ m.bullets([x]) }}{{ m.table([x], [[x], ['b']], 1) }}{{ m.details(x, [x, 'c']) }}<p>{{ x }}</p>"
    text = render_page(template(body), title='<i>', x='<script>', footer='a & b')
    assert '<script>' not in text and text.count('&lt;script&gt;') == 6
    assert '<title>&lt;i&gt;</title>' in text and '<footer>a &amp; b</footer>' in text
    assert '<tr class="chosen"><td>b</td></tr>' in text and '<tr><td>&lt;script&gt;</td></tr>' in text
    assert '<pre>&lt;script&gt;\nc</pre>' in text


def test_style_is_inline_and_no_footer_is_left_out(template):
    text = render_page(template('{{ 2048 | format_bytes }}'), title='t')
    assert 'border-collapse: collapse' in text and '2.00 KiB' in text
    assert '<footer>' not in text and '<link' not in text


def test_a_missing_variable_is_an_error(template):
    with pytest.raises(jinja2.UndefinedError, match='absent'):
        render_page(template('{{ absent }}'), title='t')


def test_figures_are_embedded(template, tmp_path):
    (tmp_path / 'a.png').write_bytes(b'PNG')
    assert data_uri(tmp_path / 'a.png') == 'data:image/png;base64,UE5H'
    text = render_page(template('{{ m.figure(path, \'a "b"\') }}'), title='t', path=tmp_path / 'a.png')
    assert '<img alt="a &#34;b&#34;" src="data:image/png;base64,UE5H">' in text
