"""Self-contained HTML pages: inline style, pictures as data URIs, nothing from the network."""

import base64
import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.lead { font-size: 1.15rem; background: #eef6f0; border-left: 5px solid #009e73; padding: .8rem 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #1b1b1b; }
tbody tr:nth-child(even) { background: #f6f6f6; } tr.chosen { font-weight: 600; background: #d9efe5 !important; }
img { max-width: 100%; height: auto; } code, pre { background: #f2f2f2; padding: .1rem .3rem; }
footer { color: #666; font-size: .85rem; margin-top: 3rem; }
"""


def page(title: str, body: Iterable[str], footer: str = '') -> str:
    """A whole document.

    Args:
        title: Heading, plain text.
        body: HTML fragments, in order.
        footer: Plain text.
    """
    heading = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<style>{STYLE}</style></head><body>\n<h1>{heading}</h1>\n' + '\n'.join(body)
        + f'\n<footer>{html.escape(footer)}</footer></body></html>\n'
    )  # fmt: skip


def paragraph(text: str, lead: bool = False) -> str:
    """Plain text as a paragraph; ``lead`` sets it apart."""
    return f'<p{" class=lead" if lead else ""}>{html.escape(text)}</p>'


def bullets(items: Iterable[str]) -> str:
    """Plain texts as a list."""
    return '<ul>' + ''.join(f'<li>{html.escape(item)}</li>' for item in items) + '</ul>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], chosen: int | None = None) -> str:
    """Plain texts as a table; row ``chosen`` is set apart."""
    head = ''.join(f'<th>{html.escape(cell)}</th>' for cell in header)
    lines = []
    for i, row in enumerate(rows):
        cells = ''.join(f'<td>{html.escape(cell)}</td>' for cell in row)
        lines.append(f'<tr{" class=chosen" if i == chosen else ""}>{cells}</tr>')
    return f'<table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def picture(path: str | os.PathLike, description: str) -> str:
    """A PNG file, embedded."""
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'
