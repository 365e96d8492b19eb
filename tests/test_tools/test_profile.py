"""tools/profile.py, whose name is also that of a module of the standard library."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

DEMO = ROOT / 'configs/vit-tiny_freeze-embed_digits.py'
STANDARD = """
import cProfile, profile, sys
assert profile.Profile and 'tools' not in profile.__file__, profile.__file__
work = cProfile.Profile()
work.runcall(sorted, [2, 1])
assert work.getstats()
assert sys.modules['profile'] is profile
"""


@pytest.mark.parametrize('tool', ['profile', 'train'])
def test_the_standard_librarys_module_keeps_its_name(tool, tmp_path):
    """Python puts the directory of a tool first in its path, and torch imports cProfile."""
    script = tmp_path / 'as_a_tool.py'
    script.write_text(
        f'import runpy, sys\nsys.path[0] = {str(ROOT / "tools")!r}\nsys.argv = ["tool", "--help"]\n'
        f'try:\n    runpy.run_path({str(ROOT / f"tools/{tool}.py")!r}, run_name="__main__")\n'
        'except SystemExit:\n    pass\n'
        'assert "profile" not in sys.modules\n' + STANDARD
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert 'usage:' in done.stdout


def test_it_prints_and_writes_the_profile(run_tool, make_project, monkeypatch):
    project = make_project('profile')
    monkeypatch.chdir(project)
    code, err = run_tool('profile', DEMO, '--steps', 3, '--first', 1, '--images', 4, '--json', 'numbers.json')
    assert code == 0, err
    written = Path('work_dirs/profile') / DEMO.stem
    assert {path.name for path in written.iterdir()} == {'profile.md', 'profile.png'}
    assert f'written: {written}/profile.png' in run_tool.stdout
    numbers = json.loads(Path('numbers.json').read_text())
    assert numbers['steps'] == 2 and numbers['parts']['backward'] > 0
    assert numbers['seconds']['start-up/imports'] > 0  # since the process began


@pytest.mark.parametrize(
    'words, expected',
    [
        (['nowhere.py'], 'nowhere.py: no such config'),
        ([DEMO, '--steps', '1'], 'iterations=1'),
        ([DEMO, '--json', 'no/such/file.json'], '--json no/such/file.json'),
        ([DEMO, '--cfg-options', 'train_dataloader.dataset.data_root=nowhere'], 'nowhere'),
    ],
)
def test_mistakes_are_one_line(run_tool, tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    code, err = run_tool('profile', *words)
    assert code == 2 and len(err.strip().splitlines()) == 1 and expected in err
    assert not list(tmp_path.rglob('run-*'))
