"""tools/maintain/publish_demo.py: what README and docs/ show is the result of one whole run of the demo."""

import importlib.util
import json

import pytest
from helpers import ROOT
from PIL import Image

from ftsgd_plugin.utils.errors import UserError

SUMMARY = {
    'date': '2026-01-02',
    'seconds': 402.4,
    'environment': {'torch': '2.11.0', 'timm': '1.0.31', 'mmpretrain': '1.2.0', 'device': 'cpu (x86_64)'},
    'gradient_ratio': 2.8,
    'table': '| method   |   rate |   ID (%) |   OOD (%) |   AUROC OOD |   state bytes per parameter |\n'
    '|:---------|-------:|---------:|----------:|------------:|----------------------------:|\n'
    '| SGD      |   1e-4 |     77.6 |      65.4 |        64.0 |                         4.0 |',
    'sentences': ['First.', 'Second.', 'Third.'],
    'runs': [{'method': 'sgd'}],
}
EMPTY = 'before\n\n<!-- demo result: written by a tool -->\nNot published yet.\n<!-- end of demo result -->\n\nafter\n'


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('publish_demo', ROOT / 'tools/maintain/publish_demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figure_table_and_sentences_are_put_between_the_marks(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    out = tmp_path / 'out'
    for path in (out / 'a', *(tmp_path / page for page in tool.PAGES)):
        path.parent.mkdir(exist_ok=True)
        path.write_text(EMPTY)
    with pytest.raises(UserError, match=r'out/summary\.json: does not exist; run bash tools/demo\.sh --out'):
        tool.publish(out, 'a machine')
    Image.new('RGB', (4, 4)).save(out / 'demo.png')
    (out / 'summary.json').write_text(json.dumps({**SUMMARY, 'seconds': None}))
    with pytest.raises(UserError, match='was not made in one go'):
        tool.publish(out, 'a machine')
    (out / 'summary.json').write_text(json.dumps(SUMMARY))
    for _ in range(2):  # the second one replaces the first
        tool.publish(out, 'a machine')
        readme = (tmp_path / 'README.md').read_text()
        assert readme.startswith('before\n\n<!-- demo') and readme.endswith('<!-- end of demo result -->\n\nafter\n')
        assert '![Gradient norm' in readme and '](docs/demo.png)' in readme and 'Not published' not in readme
        made = '2026-01-02, a machine, torch 2.11.0, timm 1.0.31, mmpretrain 1.2.0: 6 min 42 s after set-up. One seed.'
        assert f'`bash tools/demo.sh`, {made}' in ' '.join(readme.split())
        assert '| SGD | 77.6 | 65.4 | 64.0 | 4.0 |' in readme and 'First. Second.' in readme and 'Third' not in readme
    page = (tmp_path / 'docs/get_started.md').read_text()
    assert '](demo.png)' in page and SUMMARY['table'] in page and 'First. Second. Third.' in page
    assert json.loads((tmp_path / 'docs/demo.json').read_text())['machine'] == 'a machine'
    assert (tmp_path / 'docs/demo.png').read_bytes() == (out / 'demo.png').read_bytes()


def test_readme_and_docs_show_the_published_result(tool):
    record = ROOT / 'docs/demo.json'
    for page in tool.PAGES:
        found = tool.MARK.search((ROOT / page).read_text())
        assert found is not None
        if record.exists():
            assert found[2] == tool.block(page, json.loads(record.read_text()))
