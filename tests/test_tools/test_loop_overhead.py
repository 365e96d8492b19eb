"""benchmarks/loop_overhead.py: turns of processes, what its ratios are of, and the page beside its record."""

import json
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from mmengine.config import Config


@pytest.fixture(scope='module')
def program():
    """The module, imported as by a program in ``benchmarks/``."""
    sys.path.insert(0, str(ROOT / 'benchmarks'))
    import loop_overhead

    yield loop_overhead
    sys.path.remove(str(ROOT / 'benchmarks'))
    del sys.modules['loop_overhead'], sys.modules['loop_sides']


def record(**turns: list[float]) -> dict:
    """A record of two rounds, in which the machine takes twice as long for everything in the second."""
    runs = {
        side: [{'start-up': factor * own[0], 'turns': [factor * used for used in own[1:]]} for factor in (1.0, 2.0)]
        for side, own in turns.items()
    }
    return {'epoch': 3, 'settings': {'start_only': False}, 'runs': runs}


def test_ratios_are_of_parts_of_the_same_round(program):
    plain = [4.0, 9.0, 1.0, 1.5, 1.0, 1.0, 1.5]  # start-up, then two epochs of three steps
    ours = [6.0, 9.0, 1.02, 2.02, 1.02, 1.02, 2.02]
    found = record(ours=ours, plain=plain)
    assert program.ratios_of(found, 'plain', 'start-up') == pytest.approx([1.5] * 2)
    assert program.ratios_of(found, 'plain', 'step') == pytest.approx([1.02] * 4)
    assert program.ratios_of(found, 'plain', 'epoch end') == pytest.approx([2.0] * 4)
    assert program.ratios_of(found, 'plain', 'training') == pytest.approx([12.04 / 11.5, 4.06 / 3.5] * 2)
    (line,) = program.verdicts(found)
    assert line.startswith('- at most 3 % over the plain loop: met; ours / plain 1.020')
    slower = record(ours=[1.0, *[1.04] * 6], plain=[1.0] * 7)
    assert '**not met**; ours / plain 1.040' in program.verdicts(slower)[0]


def test_a_run_works_when_it_has_the_turn_and_a_failed_one_says_why(program, tmp_path, monkeypatch):
    def run(name: str, code: str):
        monkeypatch.setattr(program, 'command', lambda *args: [sys.executable, '-c', code])
        return program.Run('plain', tmp_path, 64, 1, tmp_path / name)

    steps = 'from loop_sides import hand_over; import pathlib\n'
    steps += 'for step in range(3):\n    hand_over(); pathlib.Path("done").write_text(str(step))'
    one, done = run('one', steps), tmp_path / 'one/done'
    assert not done.exists()
    one.turn()
    assert done.read_text() == '0'
    one.turn()
    one.end()
    assert done.read_text() == '1' and len(one.result()['turns']) == 2 and min(one.result()['turns']) >= 0
    with pytest.raises(SystemExit, match=r'plain has failed:\n(.|\n)*ValueError: no loop'):
        run('two', 'raise ValueError("no loop")')


def test_page_shows_its_records(program):
    page = (ROOT / 'benchmarks/loop_overhead.md').read_text()
    files = sorted((ROOT / 'benchmarks').glob('loop_overhead_*.json'))
    assert files
    for file in files:
        found = json.loads(file.read_text())
        size = found['settings']['image_size']
        assert file.stem == f'loop_overhead_{size}' and f'## At {size} x {size} pixels' in page
        for line in (found['where'], *program.table(found), *program.verdicts(found)):
            assert line in page
    assert '```{include} ../benchmarks/loop_overhead.md' in Path(ROOT, 'docs/performance.md').read_text()


def test_sides_train_at_the_same_size(program, tmp_path):
    sides = sys.modules['loop_sides']
    for text in (sides.our_config(tmp_path, 96, 1), sides.stock_config(tmp_path, 96, 1, only_runner=False)):
        config = Config.fromstring(text, '.py')
        (crop,) = [step for step in config.train_dataloader.dataset.pipeline if 'RandomResizedCrop' in step.type]
        assert config.model.backbone.img_size == crop.get('size', crop.get('scale')) == 96
        (edge,) = [step for step in config.val_dataloader.dataset.pipeline if 'Resize' in step.type]
        assert edge.get('size', edge.get('scale')) == 109  # 8 / 7 of it
    assert sides.command('plain', tmp_path, tmp_path, 96, 1, tmp_path)[3] == '96'
