"""benchmarks/gpu.py: a dry run of every part, what a part leaves when it fails or is cut off, the page, the wheels."""

import functools
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, run_process

from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.format import format_bytes


@pytest.fixture(scope='module', autouse=True)
def programs():
    """``benchmarks/`` on the path, as for a program in it."""
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / 'benchmarks'))
    yield
    sys.path.remove(str(ROOT / 'benchmarks'))
    for name in [*set(sys.modules) - before]:
        if name == 'gpu' or name.startswith('gpu_parts'):
            del sys.modules[name]


@pytest.fixture(scope='module')
def dry_run(run_forked, tmp_path_factory) -> Path:
    """Records of a dry run, the first part of which was measured again by a second call."""
    out = tmp_path_factory.mktemp('gpu')
    first = run_forked('benchmarks/gpu.py', '--dry-run', '--out', out, cwd=out)
    assert first.returncode == 0, first.stdout + first.stderr
    before = json.loads((out / 'gpu.json').read_text())['parts']
    second = run_forked('benchmarks/gpu.py', '--dry-run', '--out', out, '--again', 'tests', cwd=out)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count(': finished on ') == len(before) - 1 and 'tests: at most' in second.stdout
    after = json.loads((out / 'gpu.json').read_text())['parts']
    assert {name: one for name, one in after.items() if name != 'tests'} == {
        name: one for name, one in before.items() if name != 'tests'
    }
    return out


def parts_of(out: Path) -> dict:
    return json.loads((out / 'gpu.json').read_text())['parts']


def test_a_dry_run_goes_through_every_part(dry_run):
    from gpu_parts.table import DRY, parts

    found = parts_of(dry_run)
    assert {part.name for part in parts(DRY, dry_run)} == {*found}
    for name, record in found.items():
        assert record['finished'] and record['rows'] and not record['failures'], name
        assert record['environment']['device'].startswith('cpu') and record['environment']['torch'] and record['date']
    assert found['tests']['rows']['tests/test_gpu.py']['skipped'] > 10
    for row in found['speed-vit-b16']['rows'].values():
        assert row['images_per_second'] == pytest.approx(row['batch'] / row['step_seconds'])
    for row in [*found['in-backward']['rows'].values(), *found['memory-vit-l14']['rows'].values()]:
        assert row['planned'] / row['allocated'] == pytest.approx(1, abs=0.05)
    peaks = {name: row['allocated'] for name, row in found['in-backward']['rows'].items()}
    assert peaks['vit-b16, sgd-in-backward'] < peaks['vit-b16, freeze-embed-no-momentum'] < peaks['vit-b16, adamw']
    assert 'not on this machine' in str(found['real']['rows']) or 'a dry run' in str(found['real']['rows'])


def cells(page: str, heading: str, name: str) -> list[str]:
    """The cells of the first line of that name below a heading or table that begins so."""
    below = page[page.index(heading) :]
    line = below[below.index(f'\n| {name} |') + 1 :].partition('\n')[0]
    return [cell.strip() for cell in line.split('|')[2:-1]]


def test_cells_are_those_of_the_record(dry_run):
    page, found = (dry_run / 'gpu.md').read_text(), parts_of(dry_run)
    row = found['compiled-vit-b16']['rows']['ours, compile']
    assert cells(page, '| vit-b16 | batch', 'ours, compile')[:2] == ['2', f'{row["images_per_second"]:,.0f}']
    row = found['memory-vit-b16']['rows']['adamw']
    assert cells(page, '| vit-b16 | planned', 'adamw')[:2] == [
        format_bytes(row['planned']),
        format_bytes(row['allocated']),
    ]
    row = found['unfreezing']['rows']['vit-b16, bfloat16']
    assert cells(page, '## Time of gradual', 'vit-b16, bfloat16')[2:] == [f'{row["over_adamw"]:.2f}', '0.70']
    assert cells(page, '| convnext-b | batch', 'MMPretrain') == ['unmeasured'] * 7  # a dry run has one row of it


def test_the_page_of_the_docs_is_that_of_the_record():
    """A cell is a number of benchmarks/gpu.json or says "unmeasured"."""
    from gpu_parts.page import page
    from gpu_parts.records import read_records

    assert (ROOT / 'benchmarks/gpu.md').read_text() == page(read_records(ROOT / 'benchmarks/gpu.json')['parts'])
    assert '```{include} ../benchmarks/gpu.md' in (ROOT / 'docs/performance.md').read_text()
    empty = page({})
    assert cells(empty, '| vit-l14 | batch', 'ours, compile') == ['unmeasured'] * 7
    assert cells(empty, '## The check', 'vit-l14, SGD, fused') == ['unmeasured'] * 3


def test_every_method_of_the_package_is_measured():
    """But the paper's two that no other table has, and interpolation, which trains as freeze-embed does."""
    from gpu_parts.memory import every_method

    parts = {path.stem for path in (ROOT / 'configs/_base_/methods').glob('*.py')}
    expected = {name for name in parts if name not in ('lamb', 'lars') and not name.endswith('-wise-ft')}
    assert set(every_method()) == expected and len(every_method()) == len(expected)


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """Run stub parts in processes: ``stub(parts)`` -> ``(failed, records)``."""
    gpu, table, records = map(importlib.import_module, ('gpu', 'gpu_parts.table', 'gpu_parts.records'))
    monkeypatch.setattr(gpu, 'LEAST_SECONDS', 0)

    monkeypatch.setattr(gpu, 'PART_SECONDS', 60.0)

    def run(rows: dict, minutes: float = 1.0) -> tuple[list[str], dict]:
        listed = [table.Part(name, lambda one=one: one) for name, one in rows.items()]
        monkeypatch.setattr(table, 'parts', lambda scale, out: listed)
        kept = records.Records(tmp_path, True)
        context = multiprocessing.get_context('fork')
        failed = gpu.run_parts(listed, table.DRY, kept, context, time.monotonic() + 60 * minutes)
        return failed, kept.parts

    return run


def fail() -> dict:
    raise ValueError('no such\nkernel')


def forbidden() -> dict:
    raise AssertionError('it was measured before')


def sleep() -> dict:
    time.sleep(60)
    return {}


def test_what_fails_is_named_and_the_others_go_on(stub, capfd):
    failed, parts = stub({'one': {'a': fail, 'b': lambda: dict(x=1)}, 'two': {'c': lambda: os._exit(7)}, 'three': {}})
    assert failed == ['one', 'two'] and parts['three']['finished']
    assert parts['one']['failures'] == {'a': 'ValueError: no such kernel'} and parts['one']['rows'] == {'b': {'x': 1}}
    assert parts['two']['failures'] == {'the process': 'its process ended with 7'}
    assert 'failed: one, two' in capfd.readouterr().out
    # the next call tries again what failed, and only that
    failed, parts = stub({'one': {'a': lambda: dict(x=2), 'b': forbidden}, 'two': {}, 'three': {'d': forbidden}})
    assert failed == [] and parts['one']['rows'] == {'b': {'x': 1}, 'a': {'x': 2}} and parts['one']['finished']


def test_what_is_cut_off_goes_on_where_it_was(stub, monkeypatch, tmp_path):
    def join_after_the_first_row(child, seconds: float | None = None) -> None:
        """The time is up when the first row is written, however busy the machine is."""
        if seconds is None:
            return join(child)
        while child.exitcode is None and '"x"' not in Path(tmp_path, 'gpu.json').read_text():
            join(child, 0.05)
        return None

    join = multiprocessing.context.ForkProcess.join
    with monkeypatch.context() as patched:
        patched.setattr(multiprocessing.context.ForkProcess, 'join', join_after_the_first_row)
        (tmp_path / 'gpu.json').write_text('{"schema": 1, "dry_run": true, "parts": {}}')
        failed, parts = stub({'one': {'a': lambda: dict(x=1), 'b': sleep}}, minutes=2.0)
    assert failed == ['one'] and parts['one']['rows'] == {'a': {'x': 1}} and not parts['one']['finished']
    assert parts['one']['failures']['the process'] == 'cut off after 60 s'
    failed, parts = stub({'one': {'a': forbidden, 'b': lambda: dict(x=2)}})
    assert failed == [] and parts['one']['rows'] == {'a': {'x': 1}, 'b': {'x': 2}}


def test_without_time_nothing_is_started_and_nothing_has_failed(stub, capfd, monkeypatch):
    monkeypatch.setattr('gpu.LEAST_SECONDS', 20)
    assert stub({'one': {'a': forbidden}}, minutes=0.1) == ([], {})
    assert 'not finished: one' in capfd.readouterr().out


def test_rows_of_another_device_are_measured_anew(tmp_path):
    from gpu_parts.records import Records

    records = Records(tmp_path, dry_run=False)
    assert records.start('one', dict(device='NVIDIA H100 80GB HBM3'), '') == set()
    records.update('one', rows={'a': {'x': 1}})
    assert records.start('one', dict(device='NVIDIA H100 80GB HBM3'), '') == {'a'}
    assert records.start('one', dict(device='NVIDIA H200'), '') == set()
    with pytest.raises(UserError, match='holds records of a GPU; name another directory'):
        Records(tmp_path, dry_run=True)
    (tmp_path / 'gpu.json').write_text('{"schema": 1')
    with pytest.raises(UserError, match='not a record of benchmarks/gpu'):
        Records(tmp_path, dry_run=False)


def test_the_wheels_are_pinned_for_the_machine_and_within_their_limit(tmp_path, monkeypatch, capsys):
    from gpu_parts import pack

    asked = []

    def download(command: list[str]) -> subprocess.CompletedProcess:
        asked.extend(command)
        (tmp_path / 'small-1-py3-none-any.whl').write_bytes(b'x' * 1000)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(pack.subprocess, 'run', download)
    pack.pack(tmp_path, has=['opencv-python-headless'])
    pins = [word for word in asked if '==' in word]
    assert len(pins) == len(pack.PACKAGES) - 1 and 'mmpretrain==1.2.0' in pins and 'pytest==9.2.0' in pins
    assert not [pin for pin in pins if pin.startswith('opencv')] and {'--no-deps', '3.12'} <= {*asked}
    assert '1 wheels, 0.0 MB of 64' in capsys.readouterr().out
    with open(tmp_path / 'large-1-py3-none-any.whl', 'wb') as file:
        file.truncate(64_000_000)
    with pytest.raises(UserError, match='64 are allowed; the largest is large'):
        pack.check_size(tmp_path)
    with pytest.raises(UserError, match='holds wheels already'):
        pack.pack(tmp_path)
    with pytest.raises(UserError, match='--has torch: is not packed anyway'):
        pack.pack(tmp_path / 'other', has=['torch'])


def test_mistakes_are_one_line(tmp_path, run_forked):
    result = run_forked('benchmarks/gpu.py', '--dry-run', '--again', 'memory', '--out', tmp_path, cwd=tmp_path)
    assert (
        result.returncode == 2 and '--again memory: no such part; the parts are tests, speed-vit-b16' in result.stderr
    )
    result = run_forked('benchmarks/gpu.py', '--out', tmp_path, cwd=tmp_path, CUDA_VISIBLE_DEVICES='')
    assert result.returncode == 2 and 'no GPU that PyTorch can use; add --dry-run' in result.stderr
    command = ['bash', ROOT / 'benchmarks/gpu.sh', '--wheels', tmp_path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count('\n') == 1 and 'holds no wheels' in result.stderr
    assert not (tmp_path / 'gpu.json').exists()


@pytest.mark.slow  # imports the stack, and builds nine networks
def test_the_three_forms_of_a_network_have_its_parameters(monkeypatch):
    """At full size, on the meta device: a plain loop and MMPretrain train what we train, up to 1 %."""
    import timm
    import torch
    from gpu_parts.networks import CLASSES, networks
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    init_default_scope('mmpretrain')
    on_cpu = functools.partial(torch.linspace, device='cpu')  # rates of stochastic depth, which are read as numbers
    monkeypatch.setattr(torch, 'linspace', on_cpu)
    for name, network in networks(small=False).items():
        with torch.device('meta'):
            ours, stock = MODELS.build(network.config().model), MODELS.build(network.stock_model())
            plain = timm.create_model(network.timm[0], num_classes=CLASSES, **network.timm[1])
            images = torch.zeros(2, 3, network.pixels, network.pixels)
            for output in (ours(images, mode='tensor'), stock(images, mode='tensor'), plain(images)):
                assert output.shape == (2, CLASSES)
        counts = [sum(param.numel() for param in model.parameters()) for model in (ours, stock, plain)]
        assert counts == pytest.approx([counts[0]] * 3, rel=0.01), name


# Finds nothing of what neither comes with torch, torchvision and timm nor is packed.
WITHOUT_OTHERS = """
import functools, importlib.metadata, runpy, sys
from importlib.machinery import PathFinder
from packaging.requirements import Requirement
from packaging import utils
def canonicalize_name(name):
    return utils.canonicalize_name(name).replace('-', '')  # modelindex calls itself model-index
allowed, waiting = set(), [*{names!r}, 'torch', 'torchvision', 'timm']
packed = {{canonicalize_name(name) for name in {names!r}}}
while waiting:
    name = waiting.pop()
    if canonicalize_name(name) in allowed:
        continue
    allowed.add(canonicalize_name(name))
    needs = [] if canonicalize_name(name) in packed else map(Requirement, importlib.metadata.requires(name) or [])
    waiting += [one.name for one in needs if one.marker is None or one.marker.evaluate({{'extra': ''}})]
owners = importlib.metadata.packages_distributions()
find = PathFinder.find_spec
def find_some(name, path=None, target=None):
    own = {{canonicalize_name(one) for one in owners.get(name, ())}}
    return None if own and not own & {{*allowed, 'ftsgdplugin'}} else find(name, path, target)
PathFinder.find_spec = functools.partial(find_some)  # no method of the class that takes it
sys.argv = ['gpu.py', '--dry-run', '--out', {out!r}]
runpy.run_path({program!r}, run_name='__main__')
"""


@pytest.mark.slow  # a cold start
def test_the_packed_wheels_are_enough(tmp_path):
    """A dry run on what a machine with torch, torchvision and timm has, and the wheels."""
    from gpu_parts.pack import PACKAGES

    program = WITHOUT_OTHERS.format(names=PACKAGES, out=str(tmp_path), program=str(ROOT / 'benchmarks/gpu.py'))
    variables = dict(PYTHONPATH=str(ROOT), PYTEST_DISABLE_PLUGIN_AUTOLOAD='1')
    result = run_process(sys.executable, '-c', program, cwd=tmp_path, **variables)
    assert result.returncode == 0, result.stderr
    assert all(record['finished'] for record in parts_of(tmp_path).values())
