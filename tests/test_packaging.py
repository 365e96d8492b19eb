"""The wheel: what it contains, and that it trains and is inherited from outside the checkout."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT, run_process
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Tools that set up or change a checkout.
CHECKOUT_ONLY = {'demo.sh', 'run_tests.sh'}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """A wheel of this checkout, built without network."""
    out = tmp_path_factory.mktemp('wheel')
    source = out / 'source'
    tracked = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in tracked:
        if (ROOT / name).is_file() and not name.startswith(('tests/', 'docs/', 'benchmarks/')):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', out, source]
    subprocess.run(command, check=True)
    return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> Path:
    """An empty environment with the wheel; its other packages are those of the tests' environment."""
    home = tmp_path_factory.mktemp('env')
    venv.create(home, with_pip=False)
    site = next(home.glob('lib/python*/site-packages'))
    zipfile.ZipFile(wheel).extractall(site)
    # The paths of .pth files in these directories, such as that of an editable install, are not followed.
    (site / 'stack.pth').write_text('\n'.join(path for path in sys.path if path.endswith('site-packages')))
    return home


def test_wheel_contains_data_configs_and_tools(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / 'ftsgd_plugin'
    data = {path for path in package.rglob('*') if path.is_file() and path.suffix not in ('.py', '.pyc')}
    assert len(data) > 8 and package / 'py.typed' in data and package / '__init__.pyi' in data
    assert {path.relative_to(ROOT).as_posix() for path in data} <= names
    for directory in ('configs', 'tools'):
        for path in (ROOT / directory).rglob('*'):
            if path.suffix in ('.py', '.sh'):
                left_out = path.name in CHECKOUT_ONLY or path.parent.name == 'maintain'
                assert (f'ftsgd_plugin/.mim/{path.relative_to(ROOT)}' in names) != left_out, path
    assert not [name for name in names if name.startswith(('tests', 'configs', 'tools'))]


def test_wheel_states_version_and_requirements(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith('/METADATA'))).decode()
    version = re.search(r'^version = "(.+)"$', (ROOT / 'pyproject.toml').read_text(), re.MULTILINE).group(1)
    assert f'\nVersion: {version}\n' in metadata
    for extra in ('mim', 'onedl', 'wilds', 'sweep', 'demo', 'docs', 'test'):
        assert f'Provides-Extra: {extra}\n' in metadata
    assert 'Requires-Dist: torch>=2.1\n' in metadata and 'onedl-mmcv' not in metadata


def train_a_config_that_inherits_the_demo(environment: Path, directory: Path, digits_root: Path) -> str:
    """Outside the checkout, by the installed tool; returns the log."""
    (directory / 'data').mkdir()
    (directory / 'data/digits').symlink_to(digits_root)
    (directory / 'mine.py').write_text(
        "_base_ = __import__('ftsgd_plugin').config_path('vit-tiny_freeze-embed_digits.py')\n"
        'train_cfg = dict(max_epochs=1)\n'
        'train_dataloader = dict(dataset=dict(indices=64))\n'
        'val_cfg = val_dataloader = val_evaluator = None\n'
        'default_hooks = dict(checkpoint=dict(save_best=None))\n'
    )
    train = next(environment.glob('lib/python*/site-packages/ftsgd_plugin/.mim/tools/train.py'))
    variables = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    result = subprocess.run(
        [environment / 'bin/python', train, 'mine.py'],
        cwd=directory, env=variables | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (directory / 'work_dirs/mine/epoch_1.pth').is_file()
    assert 'UserWarning' not in result.stderr, result.stderr
    return result.stdout + result.stderr


def test_installed_wheel_trains_a_config_that_inherits_the_demo(installed, tmp_path, digits_root):
    assert "freeze='embed'" in train_a_config_that_inherits_the_demo(installed, tmp_path, digits_root)


@pytest.mark.slow
def test_wheel_in_an_empty_environment_trains_with_the_newest_packages(wheel, tmp_path, digits_root):
    """What a new user gets from the package index today, with nothing of this environment."""
    environment = tmp_path / 'env'
    venv.create(environment, with_pip=True)
    subprocess.run([environment / 'bin/python', '-m', 'pip', 'install', '-q', f'{wheel}[mim]'], check=True)
    log = train_a_config_that_inherits_the_demo(environment, tmp_path, digits_root)
    assert "freeze='embed'" in log


# MMEngine requires opencv as opencv-python; many installations replace it with opencv-python-headless (pyproject.toml).
# It converts an image to planes three times as fast as NumPy (PackRGB).
COMES_WITH_MMENGINE = {'cv2'}
FOR_DEVELOPERS = {'docs', 'test'}


def imported_packages(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere, without the standard library and its neighbours."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split('.')[0])
    neighbours = {neighbour.stem for neighbour in path.parent.iterdir()}
    if 'benchmarks' in path.parts:
        neighbours.add('helpers')  # of the tests: faults are tried with the programs and tables that the tests have
        neighbours.update(program.stem for program in (ROOT / 'benchmarks').iterdir())
    return names - {'ftsgd_plugin', *sys.stdlib_module_names, *neighbours, *COMES_WITH_MMENGINE}


@pytest.mark.parametrize(
    'directories, excluded_extras',
    [(('ftsgd_plugin', 'tools'), FOR_DEVELOPERS), (('tools/maintain', 'benchmarks'), set())],
    ids=['users', 'developers'],
)
def test_every_import_is_declared(wheel, directories, excluded_extras):
    """Each top-level package that a file imports is a requirement of the wheel or of a suitable extra."""
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith('/METADATA'))).decode()
    extras = {*re.findall(r'^Provides-Extra: (.+)$', metadata, re.MULTILINE)} - excluded_extras
    declared = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, re.findall(r'^Requires-Dist: (.+)$', metadata, re.MULTILINE))
        if requirement.marker is None or any(requirement.marker.evaluate({'extra': extra}) for extra in ('', *extras))
    }
    files = [
        path
        for directory in directories
        for path in (ROOT / directory).rglob('*.py')
        if directory != 'tools' or 'maintain' not in path.parts
    ]
    imported = set().union(*map(imported_packages, files))
    assert 'torch' in imported and 'torch' in declared
    installed = importlib.metadata.packages_distributions()
    undeclared = {
        name for name in imported if not {canonicalize_name(one) for one in installed.get(name, [name])} & declared
    }
    assert not undeclared


def test_lint_contract_is_kept(tmp_path):
    """The import order of the package, see pyproject.toml."""
    lint = Path(sys.executable).with_name('lint-imports')
    result = run_process(lint, '--config', ROOT / 'pyproject.toml', cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('name', ['lazy_loader', 'packaging', 'wrapt'])
def test_missing_requirement_of_the_import_is_one_line(tmp_path, name):
    """As after ``git pull`` without ``pip install``."""
    program = f'import sys; sys.modules["{name}"] = None; import ftsgd_plugin'
    result = run_process(sys.executable, '-c', program, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert result.returncode == 1
    assert result.stderr.count('Traceback') == 1 and result.stderr.splitlines()[-1] == (
        f'ImportError: ftsgd_plugin needs {name} and it is not installed; run: pip install lazy_loader packaging wrapt'
    )
