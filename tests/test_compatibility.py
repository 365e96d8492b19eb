"""What version 0.1.0 wrote gives the same numbers today: configs, a stopped run, tables (version_0_1_0/README.md)."""

import csv
import hashlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT, unique_name
from helpers.authors import reports
from mmengine.config import Config

from ftsgd_plugin.runner.build import build_runner
from ftsgd_plugin.sweep.plan import read_plan
from ftsgd_plugin.sweep.runs import survey

MADE_BY_0_1_0 = ROOT / 'tests/assets/version_0_1_0'
HASHES = json.loads((MADE_BY_0_1_0 / 'config_hashes.json').read_text())
FAMILIES = {Path(name).name.split('_')[0] if '/' not in name else Path(name).parts[0] for name in HASHES}


@pytest.mark.parametrize('family', sorted(FAMILIES))
def test_every_config_resolves_to_the_same_settings(family):
    expected = {name: digest for name, digest in HASHES.items() if name.startswith(family)}
    found = {}
    for name in expected:
        resolved = json.dumps(Config.fromfile(ROOT / 'configs' / name).to_dict(), sort_keys=True, default=str)
        found[name] = hashlib.sha256(resolved.encode()).hexdigest()
    assert found and found == expected


# What version_0_1_0/README.md names, and the vector instructions of that CPU; elsewhere sums round differently.
EXACT = torch.__version__.split('+')[0] == '2.11.0' and torch.backends.cpu.get_cpu_capability() == 'AVX2'


@pytest.fixture
def one_thread():
    """PyTorch on one thread, as when the fixture was made."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same(found, expected, where: str = '') -> None:
    """Equal; tensors apart from rounding where PyTorch or the CPU differs from that of the fixture."""
    if isinstance(expected, torch.Tensor):
        if EXACT:
            assert found.dtype == expected.dtype and torch.equal(found, expected), where
        else:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, msg=lambda text: f'{where}: {text}')
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f'{where}/{key}')
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected)):
            assert_same(one, other, f'{where}/{i}')
    else:
        assert found == expected, where


def test_a_run_that_0_1_0_stopped_ends_with_the_weights_of_the_run_that_was_not_stopped(
    digits_root, tmp_path, one_thread
):
    """Gradual unfreezing with dropout, in the middle of its schedule: weights, optimizer, schedule and record."""
    work_dir = shutil.copytree(MADE_BY_0_1_0 / 'run', tmp_path / 'run')
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_2.pth'))
    cfg = Config.fromfile(MADE_BY_0_1_0 / 'gradual.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        for dataset in loader.dataset.get('datasets', [loader.dataset]):
            dataset.data_root = str(digits_root)
    for dataset in cfg.val_dataloader.dataset.datasets:
        dataset.indices = 64
    cfg.work_dir, cfg.experiment_name, cfg.launcher, cfg.resume = str(work_dir), unique_name(), 'none', True
    build_runner(cfg).train()

    directories = (work_dir, MADE_BY_0_1_0)
    found, expected = (torch.load(path / 'epoch_4.pth', map_location='cpu', weights_only=True) for path in directories)
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(found[part], expected[part], part)
    assert all(found['meta'][key] == expected['meta'][key] for key in ('epoch', 'iter', 'seed'))
    record, expected = (json.loads((path / 'record.json').read_text()) for path in directories)
    assert all(record[key] == expected[key] for key in ('epochs', 'selected_epoch', 'status', 'schema', 'lr', 'seed'))


def test_a_sweep_of_0_1_0_is_finished_today():
    """Continuing it runs nothing again: its records have the config hashes of today."""
    options = {
        'train_dataloader.dataset.indices': 320,
        'val_dataloader.dataset.datasets.0.indices': 100,
        'val_dataloader.dataset.datasets.1.indices': 100,
    }
    sweep = MADE_BY_0_1_0 / 'sweep'
    tasks = survey(read_plan(str(sweep / 'plan.py')), sweep, options)
    assert [task.state for task in tasks] == 8 * ['finished']


def rows(text: str) -> list[dict[str, str]]:
    """The data rows of a CSV, without its comments."""
    return list(csv.DictReader(io.StringIO('\n'.join(line for line in text.splitlines() if line[:1] != '#'))))


def value(cell: str) -> float | str:
    """A cell as a number if it is one; ``1`` and ``1.0`` are equal."""
    try:
        return float(cell)
    except ValueError:
        return cell


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
    """Directories with run records: a sweep by 0.1.0, and the stored runs of the paper's authors."""
    authors = tmp_path_factory.mktemp('authors')
    assert reports.write_all(reports.authors_records(), authors) == 432
    return {'sweep': MADE_BY_0_1_0 / 'sweep', 'authors': authors}


@pytest.mark.parametrize('rule', ['id', 'last', 'ood-oracle'])
@pytest.mark.parametrize('name', ['sweep', 'authors'])
def test_tables_are_equal_in_every_digit(runs, run_tool, name, rule):
    code, err = run_tool('tables', runs[name], '--format', 'csv', '--rule', rule)
    assert code == 0, err
    found, expected = rows(run_tool.stdout), rows((MADE_BY_0_1_0 / f'tables/{name}_{rule}.csv').read_text())
    assert len(found) == len(expected) > 100
    for one, other in zip(found, expected):
        # The interval of a difference is Student's now. That of the normal quantile was narrower.
        normal = [column for column in other if column.endswith('_interval')]
        assert {column: value(one[column]) for column in other if column not in normal} == {
            column: value(cell) for column, cell in other.items() if column not in normal
        }
        assert all(
            one[column] == other[column] == '' or float(one[column]) >= float(other[column]) for column in normal
        )
