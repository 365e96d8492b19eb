"""Shared fixtures: the digits on disk, tiny classifiers, programs run in this process.

Nothing here imports torch before a test needs it: with pytest-xdist the controlling process loads this file too.
"""

import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT, unique_name

pytest_plugins = ['helpers.cpu_time']
os.environ.setdefault('OMP_NUM_THREADS', '1')  # tests run in parallel, and sums depend on the number of threads


# The files that take longest, in this order: they start first, so that the workers of pytest-xdist end together.
LONGEST = (
    'test_profiling/test_predict.py',
    'test_tools/test_benchmark_runs.py',
    'test_optim/test_sharded.py',
    'test_runner/test_sharded.py',
    'test_optim/test_other_methods.py',
    'test_tools/test_gpu_benchmark.py',
    'test_sweep/test_smoke.py',
    'test_docs/test_code_blocks.py',
    'test_sweep/test_driver.py',
    'test_runner/test_resume.py',
    'test_tools/test_several_processes.py',
    'test_tools/test_train.py',
    'test_profiling/test_sharded.py',
    'test_tools/test_real_model.py',
    'test_finetune/test_run.py',
    'test_sweep/test_scale.py',
    'test_profiling/test_run_profile.py',
    'test_optim/test_sharded_traps.py',
    'test_datasets/test_image_cache.py',
    'test_checkpoint/test_settings_runs.py',
    'test_optim/test_sgd_in_backward.py',
    'test_configs/test_matrix.py',
    'test_hooks/test_divergence.py',
    'test_hooks/test_checkpoint.py',
    'test_models/test_model_parts.py',
    'test_tools/test_bad_input.py',
    'test_packaging.py',
    'test_optim/test_methods_ddp.py',
    'test_results/test_report.py',
    'test_registration.py',
    'test_tools/test_malformed_configs.py',
    'test_tools/test_malformed_inputs.py',
    'test_docs/test_documentation.py',
    'test_compatibility.py',
    'test_profiling/test_diagnosis.py',
)


def pytest_configure(config: pytest.Config) -> None:
    # All but the tests marked gpu are about the CPU, and fork processes, which CUDA does not survive.
    if config.option.markexpr.strip() != 'gpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {ROOT / 'tests' / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker('gpu'):
        import torch

        if not torch.cuda.is_available():
            pytest.skip('needs a GPU, and the option -m gpu')


@pytest.fixture(scope='session')
def write_shared(tmp_path_factory) -> Callable[[Callable[[Path], Path]], Path]:
    """Write a data set once for all workers of pytest-xdist: ``root = write_shared(write)``. It is read-only."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base

    def share(write: Callable[[Path], Path]) -> Path:
        from filelock import FileLock

        directory, finished = base / write.__name__, base / f'{write.__name__}.root'
        with FileLock(f'{directory}.lock'):
            if not finished.exists():
                directory.mkdir()
                finished.write_text(str(write(directory)))
        return Path(finished.read_text())

    return share


@pytest.fixture(scope='session')
def digits_root(write_shared) -> Path:
    """The demo's benchmark."""
    from helpers import trees

    return write_shared(trees.write_digits)


@pytest.fixture(scope='session')
def make_project(tmp_path_factory, digits_root) -> Callable[[str], Path]:
    """Make a working directory with the digits where the configs expect them: ``make_project(name)``."""

    def make(name: str) -> Path:
        directory = tmp_path_factory.mktemp(name)
        (directory / 'data').mkdir()
        (directory / 'data/digits').symlink_to(digits_root)
        return directory

    return make


@pytest.fixture(scope='session')
def wilds():
    """The wilds package, loaded by our adapter."""
    from ftsgd_plugin.evaluation.wilds import import_wilds

    return import_wilds()


@pytest.fixture(scope='session')
def camelyon_root(write_shared) -> Path:
    """A small Camelyon17 with the real layout."""
    from helpers import trees

    return write_shared(trees.write_camelyon)


@pytest.fixture(scope='session')
def fmow_root(write_shared) -> Path:
    """A small FMoW with the real layout."""
    from helpers import trees

    return write_shared(trees.write_fmow)


@pytest.fixture(scope='session')
def waterbirds_root(write_shared) -> Path:
    """A small Waterbirds with the real layout."""
    from helpers import trees

    return write_shared(trees.write_waterbirds)


@pytest.fixture(scope='session')
def imagenet_root(write_shared) -> Path:
    """The 68 classes of Living-17 in an ImageNet directory, with few images each."""
    from helpers import trees

    return write_shared(trees.write_imagenet)


@pytest.fixture(scope='session')
def domainnet_root(write_shared) -> Path:
    """A small DomainNet with 40-class and 345-class lists."""
    from helpers import trees

    return write_shared(trees.write_domainnet)


@pytest.fixture(scope='session')
def own_root(write_shared) -> Path:
    """A user's own images, directories ``domain/class``: photo and sketch of cat and dog, 40 images."""
    from helpers import trees

    return write_shared(trees.write_own)


@pytest.fixture(scope='session')
def pacs_root(write_shared) -> Path:
    """PACS in small: directories ``domain/class`` of four domains and seven classes."""
    from helpers import trees

    return write_shared(trees.write_pacs)


@pytest.fixture
def copy(tmp_path):
    """Copy a tree that a test may damage; images are linked."""

    def make(root: Path) -> Path:
        return Path(shutil.copytree(root, tmp_path / root.name, copy_function=link))

    def link(source, target):
        if Path(source).suffix in ('.csv', '.txt'):
            return shutil.copy(source, target)
        return Path(target).symlink_to(source)

    return make


@pytest.fixture(scope='session', autouse=True)
def small_runs() -> None:
    """See :mod:`helpers.small_runs`."""
    from helpers.small_runs import make_small_runs_cheap

    make_small_runs_cheap()


@pytest.fixture(autouse=True)
def fresh_logger():
    """A separate logger for every test: MMEngine shares one between all runners of a process."""
    from mmengine.logging import MMLogger

    import ftsgd_plugin  # noqa: F401  registers what tests build by name

    MMLogger.get_instance(unique_name())


@pytest.fixture
def vit():
    """Build a classifier with a two-block MMPretrain ViT."""
    from helpers.small_models import mmpretrain_vit

    return mmpretrain_vit


@pytest.fixture
def digits_config(digits_root, tmp_path):
    """The demo's config of a method on the fixture's digits, with a work dir for this test."""
    from helpers.digits import load_digits_config

    def load(method: str = 'freeze-embed', subset: int | None = None, **options):
        return load_digits_config(digits_root, method, subset, **{'work_dir': str(tmp_path / 'work'), **options})

    return load


@pytest.fixture(scope='session')
def finished_run(digits_root, tmp_path_factory) -> Path:
    """The work directory of a short run of the demo; tests must not change it."""
    from helpers.finished_run import train_briefly

    return train_briefly(digits_root, tmp_path_factory.mktemp('finished') / 'work')


@pytest.fixture(scope='session')
def run_forked():
    """:func:`helpers.forked.run_forked`, once the server of its children has imported everything."""
    from helpers import forked

    forked.warm_up()
    return forked.run_forked


@pytest.fixture(scope='session')
def start_forked(run_forked):
    """:func:`helpers.forked.start_forked`, from the same server."""
    from helpers import forked

    return forked.start_forked


@pytest.fixture(scope='session')
def run_ranks(run_forked):
    """:func:`helpers.forked.run_ranks`, from the same server."""
    from helpers import forked

    return forked.run_ranks


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Run a program of tools/ in this process: ``(exit code, stderr)``; ``run_tool.stdout`` has the rest."""

    def run(name: str, *argv: str) -> tuple[int, str]:
        spec = importlib.util.spec_from_file_location(f'tool_{Path(name).name}', ROOT / 'tools' / f'{name}.py')
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, argv)])
        # Loggers of earlier runs in this process hold captured streams that are closed by now.
        monkeypatch.setattr(logging, 'raiseExceptions', False)
        capsys.readouterr()
        try:
            tool.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        run.stdout = captured.out
        return code, captured.err

    return run
