"""Figures are written atomically and closed."""

import sys

import pytest
from PIL import Image

from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.plotting import import_pyplot, save_figure, style_axes


def test_figure_is_written_and_closed(tmp_path):
    plt = import_pyplot()
    figure, axes = plt.subplots(figsize=(2, 1))
    style_axes(axes, grid=True)
    assert not axes.spines['top'].get_visible() and axes.spines['left'].get_visible()
    assert save_figure(figure, tmp_path / 'new/figure.png', dpi=50) == tmp_path / 'new/figure.png'
    assert Image.open(tmp_path / 'new/figure.png').size == (100, 50)
    assert not plt.fignum_exists(figure.number)


def test_figure_that_cannot_be_drawn_leaves_the_earlier_file(tmp_path):
    plt = import_pyplot()
    (tmp_path / 'figure.png').write_bytes(b'earlier')
    figure, axes = plt.subplots()
    axes.set_title(r'$\unknown$')
    with pytest.raises(ValueError, match='Unknown symbol'):
        save_figure(figure, tmp_path / 'figure.png')
    assert [path.name for path in tmp_path.iterdir()] == ['figure.png']
    assert (tmp_path / 'figure.png').read_bytes() == b'earlier' and not plt.fignum_exists(figure.number)


def test_without_matplotlib_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(UserError, match='matplotlib, which draws the figures, is missing; pip install matplotlib'):
        import_pyplot()
