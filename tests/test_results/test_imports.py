"""Tables and reports start without torch and MMEngine."""

import sys

from helpers import ROOT, run_process

PROGRAM = """
import importlib.abc, runpy, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain', 'timm', 'open_clip'):
            raise AssertionError(f'{name} was imported')

sys.meta_path.insert(0, Blocker())
tools, runs, out = sys.argv[1:]
for name, *arguments in (
    ('tables', '--help'),
    ('report', '--help'),
    ('tables', runs),
    ('tables', runs, '--out', out),
    ('report', runs, '-o', f'{out}/report.html'),
):
    sys.argv = [f'{name}.py', *arguments]
    try:
        runpy.run_path(f'{tools}/{name}.py', run_name='__main__')
    except SystemExit as stop:
        assert not stop.code, (name, arguments)
"""


def test_tables_and_report_import_neither_torch_nor_mmengine(tmp_path):
    """Their help, printed tables, written tables with figures, and the page, in a fresh process."""
    runs = ROOT / 'tests/assets/version_0_1_0/sweep'
    result = run_process(sys.executable, '-c', PROGRAM, ROOT / 'tools', runs, tmp_path / 'out', cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('usage: ') == 2 and '61.0 ± 3.3' in result.stdout
    assert {path.name for path in (tmp_path / 'out').iterdir()} >= {'tables.md', 'id_ood.png', 'report.html'}
