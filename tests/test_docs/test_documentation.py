"""README and docs/: they build without warnings, their links resolve, and what they quote is true."""

import ast
import re

import pytest
from helpers import ROOT
from helpers.code_blocks import pages

TEXTS = [*pages(), ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md', ROOT / 'configs/README.md']


@pytest.mark.slow  # the tests of links, contents and code blocks below find most faults
def test_sphinx_builds_without_a_warning(tmp_path, run_forked):
    """Offline: what MMEngine, MMPretrain and PyTorch publish is replaced by the few objects named in conf.py."""
    pytest.importorskip('sphinx', reason='the pinned Sphinx does not support Python 3.10')
    script = tmp_path / 'build.py'
    script.write_text('import sys\nfrom sphinx.cmd.build import main\nsys.exit(main(sys.argv[1:]))\n')
    words = ['-W', '--keep-going', '-q', '-d', tmp_path / 'doctrees', ROOT / 'docs', tmp_path / 'html']
    built = run_forked(script, *words, cwd=tmp_path, FTSGD_DOCS_OFFLINE='1')
    assert built.returncode == 0, built.stderr
    page = (tmp_path / 'html/api.html').read_text()
    for name in (
        'list_layers',
        'FreezeEmbedOptimWrapperConstructor',
        'GradualUnfreezingLR',
        'GroupAccuracy',
        'RunRecord',
    ):
        assert re.search(rf'id="ftsgd_plugin\.[\w.]*{name}"', page), f'{name} is missing in the API'
    assert 'https://mmengine.readthedocs.io/en/latest/api/generated/' in (tmp_path / 'html/design.html').read_text()


def test_readme_is_short():
    lines = (ROOT / 'README.md').read_text().splitlines()
    assert 80 <= len(lines) <= 130
    assert [line for line in lines if len(line) > 110] == []


@pytest.mark.parametrize('page', TEXTS, ids=[page.relative_to(ROOT).as_posix() for page in TEXTS])
def test_relative_links_resolve(page):
    for target in re.findall(r'\]\(([^)#\s]*)(?:#[^)]*)?\)', page.read_text()):
        if target and '://' not in target:
            assert (page.parent / target).is_file(), f'{page.name}: {target}'


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / 'docs/index.md').read_text()
    for page in (ROOT / 'docs').glob('*.md'):
        assert page.stem == 'index' or re.search(rf'^{page.stem}$', index, re.M), page.name


def _program_texts() -> list[str]:
    """Every string of the package and the tools, what is filled in at run time as NUL."""
    texts = []
    for path in [*(ROOT / 'ftsgd_plugin').rglob('*.py'), *(ROOT / 'tools').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (value.value if isinstance(value, ast.Constant) else '\0' for value in node.values)
                texts.append(''.join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_every_message_of_the_faq_exists():
    """The longest part of a message between its placeholders (capital words, quotes) is in the code."""
    messages = re.findall(r'^- `(.+)`$', (ROOT / 'docs/faq.md').read_text(), re.M)
    assert len(messages) >= 15
    texts, missing = _program_texts(), []
    for message in messages:
        parts = re.split(r"'\w+'|'|\b[A-Z]{4,}\b|\(|\)", message)
        longest = max(parts, key=len).strip()
        if not any(longest in text for text in texts):
            missing.append((message, longest))
    assert missing == []


def test_contributing_quotes_the_import_contract():
    """The order of the layers, as import-linter checks it."""
    pyproject = (ROOT / 'pyproject.toml').read_text()
    contract = re.search(r'^layers = \[\n(.*?)^\]', pyproject, re.M | re.S)
    quoted = re.search(r'^layers = \[\n(.*?)^\]', (ROOT / 'CONTRIBUTING.md').read_text(), re.M | re.S)
    assert contract is not None and quoted is not None
    assert contract[1] == quoted[1]
